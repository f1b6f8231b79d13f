package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Resource is any ARM resource: a possible source of bindings.
type Resource struct {
	Body
	ID       access.ResourceID `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location"`
	Identity ResourceIdentity  `json:"identity"`
}

// ResourceIdentity is a resource's managed identity.
type ResourceIdentity struct {
	Type        string `json:"type"` // "SystemAssigned", or "" for none
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
}

// IdentityCredentials is what a process needs to get tokens of a resource's
// identity, see [ManagedIdentity]. Header is a secret.
type IdentityCredentials struct {
	Body     `json:"-"`
	Endpoint string `json:"identityEndpoint"`
	Header   string `json:"identityHeader"`
}

// ResourceID makes the ARM id of a resource of any type. A nested type, such
// as "Microsoft.Security/pricings/securityOperators", takes as many names,
// separated by "/". With group "" the id is one of the subscription.
func ResourceID(guid, group, fullType, name string) (access.ResourceID, error) {
	scope := "/subscriptions/" + guid
	if group != "" {
		scope += "/resourceGroups/" + group
	}
	types, names := strings.Split(fullType, "/"), strings.Split(name, "/")
	if len(types) < 2 || len(names) != len(types)-1 {
		return access.ResourceID{}, fmt.Errorf("type %q with name %q: a type is {namespace}/{type}, and each further type needs a further name: %w", fullType, name, access.ErrInvalid)
	}
	scope += "/providers/" + types[0]
	for i, n := range names {
		scope += "/" + types[i+1] + "/" + n
	}
	return access.ParseResourceID(scope)
}

// PutResource creates a resource with a system-assigned identity.
func (c *Client) PutResource(ctx context.Context, id access.ResourceID, loc string) (Resource, *Poller, error) {
	var r Resource
	body := struct {
		Location string           `json:"location,omitempty"`
		Identity ResourceIdentity `json:"identity"`
	}{loc, ResourceIdentity{Type: "SystemAssigned"}}
	p, err := c.put(ctx, id.String(), genericVersion, body, &r)
	return r, p, err
}

// Resource reads one resource.
func (c *Client) Resource(ctx context.Context, id access.ResourceID) (Resource, error) {
	var r Resource
	return r, c.get(ctx, id.String(), genericVersion, &r)
}

// Resources lists the resources of a subscription or a resource group.
func (c *Client) Resources(ctx context.Context, scope access.ResourceID) ([]Resource, error) {
	return listOf[Resource](ctx, c, scope.String()+"/resources", groupVersion)
}

// DeleteResource removes a resource and its identity. existed is false when
// there was none.
func (c *Client) DeleteResource(ctx context.Context, id access.ResourceID) (existed bool, p *Poller, err error) {
	return c.remove(ctx, id.String(), genericVersion)
}

// IdentityCredentials asks for the secret of a resource's identity.
func (c *Client) IdentityCredentials(ctx context.Context, id access.ResourceID) (IdentityCredentials, error) {
	var cred IdentityCredentials
	path := id.String() + "/providers/Sallyport.Gateway/managedIdentities/default/listCredentials"
	r, err := c.send(ctx, http.MethodPost, c.resolve(path, genericVersion), nil)
	if err != nil {
		return cred, err
	}
	return cred, r.into(&cred)
}
