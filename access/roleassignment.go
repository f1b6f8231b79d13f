package access

import (
	"strings"
	"time"
)

// RoleAssignment gives one principal one role at a scope and all below it
// (decision 0018).
type RoleAssignment struct {
	Name string `json:"name"` // a GUID, unique at its scope
	// Scope is a subscription, a resource group or a resource.
	Scope ResourceID `json:"scope"`
	// Role is the name, a GUID, of a [RoleDefinition].
	Role string `json:"role"`
	// TenantID and PrincipalID say who: an object id means something only in
	// its tenant (checklist, item 16). A principal may be a group.
	TenantID    string `json:"tenantId"`
	PrincipalID string `json:"principalId"`
	// PrincipalType is ARM's word for what the principal is: User, Group,
	// ServicePrincipal. It is there to be read back, and decides nothing.
	PrincipalType string    `json:"principalType,omitempty"`
	Description   string    `json:"description,omitempty"`
	CreatedBy     string    `json:"createdBy,omitempty"` // object id
	UpdatedBy     string    `json:"updatedBy,omitempty"`
	Created       time.Time `json:"created"`
	Updated       time.Time `json:"updated"`
}

// RoleAssignmentType is the full ARM type of role assignments. They are
// extension resources: at any scope, under /providers/ and this type.
const RoleAssignmentType = "Microsoft.Authorization/roleAssignments"

// ID is the assignment's ARM id.
func (a RoleAssignment) ID() string {
	return a.Scope.String() + "/providers/" + RoleAssignmentType + "/" + a.Name
}

// AppliesTo reports whether the assignment is p's, itself or by a group.
func (a RoleAssignment) AppliesTo(p Principal) bool {
	if a.PrincipalID == "" || !strings.EqualFold(a.TenantID, p.TenantID) {
		return false
	}
	if strings.EqualFold(a.PrincipalID, p.ObjectID) {
		return true
	}
	for _, group := range p.Groups {
		if strings.EqualFold(a.PrincipalID, group) {
			return true
		}
	}
	return false
}

// SameGrant reports whether both give the same role at the same scope to the
// same principal, which ARM has once only.
func (a RoleAssignment) SameGrant(b RoleAssignment) bool {
	return a.Scope.Equal(b.Scope) && strings.EqualFold(a.Role, b.Role) &&
		strings.EqualFold(a.TenantID, b.TenantID) && strings.EqualFold(a.PrincipalID, b.PrincipalID)
}

// NewOwner makes an owner's role assignment at a subscription.
func NewOwner(name string, subscription ResourceID, o Owner, by string, at time.Time) RoleAssignment {
	return RoleAssignment{
		Name: name, Scope: subscription, Role: OwnerRole, TenantID: o.TenantID, PrincipalID: o.ObjectID,
		CreatedBy: by, UpdatedBy: by, Created: at, Updated: at,
	}
}
