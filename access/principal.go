package access

import (
	"net/netip"
	"time"
)

// Principal is an authenticated caller. Identity is the triple of issuer,
// tenant and object id (or resource id); a bare subject is never compared
// (security checklist, item 16).
type Principal struct {
	Issuer   string // exact "iss"
	TenantID string // tied to the issuer by configuration
	ObjectID string
	AppID    string
	// Resource is the source behind a managed-identity token, from xms_mirid;
	// zero for a user or a plain application.
	Resource ResourceID
	// UsedBy is the resource that asked for the token of a user-assigned
	// identity, from xms_az_rid; zero where the token does not say.
	UsedBy ResourceID
	// Groups are the object ids of the groups that the token says the caller is
	// in; nil if it does not say, as when there are too many.
	Groups  []string
	Expires time.Time // the token's own end
}

// Is reports whether the caller is this resource, by its own identity or by one
// that it uses. A source must not write the consent that it acts with.
func (p Principal) Is(id ResourceID) bool { return p.Resource.Equal(id) || p.UsedBy.Equal(id) }

// UserAssignedType is the type of identities that Trusted Access refuses
// (spec/identity.md 1.3).
const UserAssignedType = "Microsoft.ManagedIdentity/userAssignedIdentities"

// Grant says that a caller may act in a cluster as one binding's user. Package
// authorize makes it, and what forwards takes it, so the signature says that
// consent was asked for.
type Grant struct {
	Cluster    ResourceID
	ClusterUID string
	Binding    string // name, in the casing that names the objects in the cluster
	BindingUID string
	Source     ResourceID
	SourceOID  string   // of the source's identity, if the directory knew it: the grant ends with that identity
	Roles      []string // the binding's, as written; for the record, since Kubernetes holds them
	// From is where the request came from, as it was asked with.
	From netip.Addr
}
