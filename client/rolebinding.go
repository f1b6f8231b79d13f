package client

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Role is a role of the catalogue with the body it came in.
type Role struct {
	Body
	access.Role
}

// RoleBinding is a trusted access role binding (spec/trusted-access.md 1.2).
type RoleBinding struct {
	Body
	ID         access.ResourceID     `json:"id"`
	Name       string                `json:"name"`
	Properties RoleBindingProperties `json:"properties"`
}

// RoleBindingProperties is what a binding says.
type RoleBindingProperties struct {
	ProvisioningState access.State      `json:"provisioningState,omitempty"` // read only
	SourceResourceID  access.ResourceID `json:"sourceResourceId"`
	Roles             []string          `json:"roles"` // qualified names; a PUT replaces them all
	// AccessPolicy is written with a new binding, so that it never exists
	// without its bound. It is not read back here, but with [Client.AccessPolicy].
	AccessPolicy *AccessPolicyProperties `json:"accessPolicy,omitempty"`
}

// BindingStatus is what is known of a binding in its cluster.
type BindingStatus struct {
	Body
	Properties BindingStatusProperties `json:"properties"`
}

// UnmarshalJSON reads the properties, wrapped or not.
func (s *BindingStatus) UnmarshalJSON(b []byte) error { return decodeProperties(b, &s.Properties) }

// BindingStatusProperties compares what was written with what is in force.
type BindingStatusProperties struct {
	State             string    `json:"state"`             // NotConnected, Waiting, InForce or Failed
	Generation        int64     `json:"generation"`        // newest written
	AppliedGeneration int64     `json:"appliedGeneration"` // in force in the cluster, 0 for none
	AppliedAt         time.Time `json:"appliedAt"`
	TookMs            int64     `json:"tookMs"` // from the accepted write to being in force, milliseconds
	Message           string    `json:"message"`
	WaitingFor        string    `json:"waitingFor"`
}

// location is the form of a location's name; it becomes part of a path.
var location = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// Roles lists the roles that a location offers.
func (c *Client) Roles(ctx context.Context, subscription access.ResourceID, loc string) ([]Role, error) {
	if !location.MatchString(loc) {
		return nil, fmt.Errorf("location %q must be letters and digits, such as \"eastus\": %w", loc, access.ErrInvalid)
	}
	path := subscription.String() + "/providers/Microsoft.ContainerService/locations/" + loc + "/trustedAccessRoles"
	return listOf[Role](ctx, c, path, containerVersion)
}

// PutSubscriptionWideBinding consents that every resource of a role's type in
// the cluster's subscription acts with the role, by the preview API of 2022
// (spec/trusted-access.md 8). It takes a server with --preview-role-bindings;
// another one answers with code [CodeInvalidResourceType].
func (c *Client) PutSubscriptionWideBinding(ctx context.Context, id access.ResourceID, role string) (*Poller, error) {
	var body struct{ Body }
	path := id.Parent().String() + "/azureResourceRoleBindings/" + id.Name()
	return c.put(ctx, path, containerVersion, map[string]any{"properties": map[string]string{"role": role}}, &body)
}

// PutRoleBinding creates a binding or replaces its roles. With the poller's end
// it is in force in the cluster, if the cluster ever had an agent.
func (c *Client) PutRoleBinding(ctx context.Context, id access.ResourceID, props RoleBindingProperties) (RoleBinding, *Poller, error) {
	var b RoleBinding
	props.ProvisioningState = ""
	body := struct {
		Properties RoleBindingProperties `json:"properties"`
	}{props}
	p, err := c.put(ctx, id.String(), containerVersion, body, &b)
	return b, p, err
}

// RoleBinding reads one binding.
func (c *Client) RoleBinding(ctx context.Context, id access.ResourceID) (RoleBinding, error) {
	var b RoleBinding
	return b, c.get(ctx, id.String(), containerVersion, &b)
}

// RoleBindings lists a cluster's bindings.
func (c *Client) RoleBindings(ctx context.Context, cluster access.ResourceID) ([]RoleBinding, error) {
	return listOf[RoleBinding](ctx, c, cluster.String()+"/trustedAccessRoleBindings", containerVersion)
}

// DeleteRoleBinding withdraws consent. existed is false when there was none.
func (c *Client) DeleteRoleBinding(ctx context.Context, id access.ResourceID) (existed bool, p *Poller, err error) {
	return c.remove(ctx, id.String(), containerVersion)
}

// BindingStatus reads what is known of a binding in its cluster.
func (c *Client) BindingStatus(ctx context.Context, id access.ResourceID) (BindingStatus, error) {
	var s BindingStatus
	return s, c.get(ctx, id.String()+"/providers/Sallyport.Gateway/status/default", genericVersion, &s)
}
