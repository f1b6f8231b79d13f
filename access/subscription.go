package access

import (
	"slices"
	"strings"
	"time"
)

// Subscription is the unit of ownership: its owners may write what is in it.
type Subscription struct {
	ID          ResourceID `json:"id"` // /subscriptions/{guid}
	DisplayName string     `json:"displayName"`
	TenantID    string     `json:"tenantId"`
	Owners      []Owner    `json:"owners"`
	Created     time.Time  `json:"created"`
}

// Owner is one principal that owns a subscription.
type Owner struct {
	TenantID string `json:"tenantId"`
	ObjectID string `json:"objectId"`
}

// OwnedBy reports whether p owns the subscription. A resource's managed
// identity never does: a source must not consent for itself.
func (s Subscription) OwnedBy(p Principal) bool {
	return p.Resource.IsZero() && p.ObjectID != "" && slices.ContainsFunc(s.Owners, func(o Owner) bool {
		return strings.EqualFold(o.TenantID, p.TenantID) && strings.EqualFold(o.ObjectID, p.ObjectID)
	})
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
