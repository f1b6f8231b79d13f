package arm

import "github.com/sallyport/sallyport/access"

// RoleBinding is the body of a trusted access role binding, read and written
// (spec/trusted-access.md 1.3). There is no systemData: the real one has none.
type RoleBinding struct {
	ID         string                `json:"id,omitempty"`
	Name       string                `json:"name,omitempty"`
	Type       string                `json:"type,omitempty"`
	Properties RoleBindingProperties `json:"properties"`
}

// RoleBindingProperties holds what the owner wrote, byte for byte and in its
// order: a rewritten id or list shows as drift in Terraform.
type RoleBindingProperties struct {
	ProvisioningState string   `json:"provisioningState,omitempty"`
	SourceResourceID  string   `json:"sourceResourceId"`
	Roles             []string `json:"roles"`
}

// NewRoleBinding shows b.
func NewRoleBinding(b access.RoleBinding) RoleBinding {
	return RoleBinding{
		ID:   b.ID.String(),
		Name: b.Name(),
		Type: access.BindingType,
		Properties: RoleBindingProperties{
			ProvisioningState: string(b.State),
			SourceResourceID:  b.Source.String(),
			Roles:             b.Roles,
		},
	}
}
