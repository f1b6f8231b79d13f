package audit

import "time"

// Stage tells which record of a request a line is.
type Stage string

// A request through the gateway has a decision before anything is forwarded
// and, if it was allowed, a completion under the same id. A write of consent
// has one record. A revocation has one when live requests were cut.
const (
	Decision Stage = "decision"
	Complete Stage = "complete"
	Consent  Stage = "consent"
	Revoked  Stage = "revoked"
)

// Record is one line. Empty fields are left out.
type Record struct {
	Time  time.Time `json:"time"`
	Stage Stage     `json:"stage"`
	ID    string    `json:"id"` // also the Audit-ID that kube-apiserver records

	// Who.
	TenantID string `json:"tenantId,omitempty"`
	ObjectID string `json:"objectId,omitempty"`
	Source   string `json:"source,omitempty"`
	Remote   string `json:"remote,omitempty"` // source address

	// What.
	Cluster    string   `json:"cluster,omitempty"`
	Binding    string   `json:"binding,omitempty"`
	BindingUID string   `json:"bindingUid,omitempty"`
	Roles      []string `json:"roles,omitempty"` // of the binding
	Method     string   `json:"method,omitempty"`
	Path       string   `json:"path,omitempty"` // without query
	Action     string   `json:"action,omitempty"`
	Detail     any      `json:"detail,omitempty"`

	// What Kubernetes takes the request to be (package requestinfo). APIGroup is
	// empty for the core group, Resource for a path that is none.
	Verb        string `json:"verb,omitempty"`
	APIGroup    string `json:"apiGroup,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`

	// Outcome.
	Allowed  *bool         `json:"allowed,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Status   int           `json:"status,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"` // of the response body, or both ways of an upgraded stream
	Duration time.Duration `json:"durationNs,omitempty"`
	Cut      int           `json:"cut,omitempty"` // live requests that were ended
	// Skipped counts refusals of the same caller, or of all callers without an
	// identity, that were not recorded before this one, because there were too
	// many in a second.
	Skipped int `json:"skipped,omitempty"`
}

// Log records one line; an error means that it may not have been written.
type Log func(Record) error
