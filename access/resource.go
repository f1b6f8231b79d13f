package access

import "time"

// Resource is a generic ARM resource, such as a workspace or a vault: a thing
// that may become the source of a binding.
type Resource struct {
	ID       ResourceID `json:"id"`
	UID      string     `json:"uid"` // new with each creation; its identity's secret dies with it
	Location string     `json:"location,omitempty"`
	TenantID string     `json:"tenantId"`
	// Identity is the system-assigned identity, nil for none.
	Identity *Identity `json:"identity,omitempty"`
	// Uses are the user-assigned identities that it may ask tokens of.
	Uses    []UsedIdentity `json:"uses,omitempty"`
	Created time.Time      `json:"created"`
	// Document is the body as a client wrote it, less write-only fields.
	Document []byte `json:"document,omitempty"`
}

// UsedIdentity is a user-assigned identity as it was when a resource was given
// it. One created later under the same id has another object id, and is not it.
type UsedIdentity struct {
	ID       ResourceID `json:"id"`
	ObjectID string     `json:"objectId"`
	AppID    string     `json:"appId"`
}

// Identity is a managed identity: of a resource itself, or a resource of
// [UserAssignedType]. Its object id is new with
// each creation of the resource, so a name used again does not inherit consent.
type Identity struct {
	ObjectID string `json:"objectId"` // ARM's principalId
	AppID    string `json:"appId"`
}
