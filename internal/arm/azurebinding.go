package arm

import "github.com/sallyport/sallyport/access"

// AzureRoleBinding is a binding in the form of the preview API of 2022
// (spec/trusted-access.md 8).
type AzureRoleBinding struct {
	ID         string                     `json:"id"`
	Name       string                     `json:"name"`
	Type       string                     `json:"type"`
	Properties AzureRoleBindingProperties `json:"properties"`
}

// AzureRoleBindingProperties has one role, by its qualified name, and the
// resource that may act with it. Without one, every resource of the role's type
// in the subscription may.
type AzureRoleBindingProperties struct {
	ProvisioningState string `json:"provisioningState"`
	Role              string `json:"role"`
	TargetResourceID  string `json:"targetResourceID,omitempty"`
	IsClusterAdmin    bool   `json:"isClusterAdmin"` // never true
}

// NewAzureRoleBinding shows b, which must have one role.
func NewAzureRoleBinding(b access.RoleBinding) AzureRoleBinding {
	shown := AzureRoleBinding{
		ID:   b.Cluster().String() + "/azureResourceRoleBindings/" + b.Name(),
		Name: b.Name(),
		Type: "Microsoft.ContainerService/ManagedClusters/AzureResourceRoleBindings",
	}
	shown.Properties.ProvisioningState = string(b.State)
	if len(b.Roles) > 0 {
		shown.Properties.Role = b.Roles[0]
	}
	if !b.Wide() {
		shown.Properties.TargetResourceID = b.Source.String()
	}
	return shown
}
