package access

import (
	"strings"
	"time"
)

// Subscription is the unit of billing and ownership. Who may do what in it, and
// in the groups and resources within, its [RoleAssignment]s say.
type Subscription struct {
	ID          ResourceID `json:"id"` // /subscriptions/{guid}
	DisplayName string     `json:"displayName"`
	TenantID    string     `json:"tenantId"`
	Created     time.Time  `json:"created"`
	// Owners is where older versions kept who may write. A server's start makes
	// role assignments of them; nothing else reads them.
	Owners []Owner `json:"owners,omitempty"`
}

// Owner names a principal that owns a subscription.
type Owner struct {
	TenantID string `json:"tenantId"`
	ObjectID string `json:"objectId"`
}

// Equal reports whether both name the same principal.
func (o Owner) Equal(other Owner) bool {
	return strings.EqualFold(o.TenantID, other.TenantID) && strings.EqualFold(o.ObjectID, other.ObjectID)
}

// ResourceGroup is a named part of a subscription.
type ResourceGroup struct {
	ID       ResourceID        `json:"id"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
	// ManagedBy is the id of what owns the group, as its client wrote it.
	ManagedBy string    `json:"managedBy,omitempty"`
	Created   time.Time `json:"created"`
	// Deletion is the id of the operation that is deleting the group, "" for
	// none. From then on nothing can be created in it.
	Deletion string `json:"deletion,omitempty"`
}
