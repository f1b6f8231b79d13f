package client

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/access"
)

// Subscription is the unit of ownership.
type Subscription struct {
	Body
	ID             access.ResourceID `json:"id"`
	SubscriptionID string            `json:"subscriptionId"`
	TenantID       string            `json:"tenantId"`
	DisplayName    string            `json:"displayName"`
	State          string            `json:"state"`
}

// ResourceGroup is a named part of a subscription.
type ResourceGroup struct {
	Body
	ID       access.ResourceID `json:"id"`
	Name     string            `json:"name"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
}

// SubscriptionID makes the ARM id of a subscription from its GUID.
func SubscriptionID(guid string) (access.ResourceID, error) {
	if !access.IsGUID(guid) {
		return access.ResourceID{}, fmt.Errorf("subscription %q must be a GUID: %w", guid, access.ErrInvalid)
	}
	return access.ParseResourceID("/subscriptions/" + guid)
}

// GroupID makes the ARM id of a resource group.
func GroupID(guid, group string) (access.ResourceID, error) {
	id, err := access.ParseResourceID("/subscriptions/" + guid + "/resourceGroups/" + group)
	if err == nil && id.ResourceGroup() != group {
		err = fmt.Errorf("resource group %q must be one segment: %w", group, access.ErrInvalid)
	}
	return id, err
}

// ClusterID makes the ARM id of a cluster.
func ClusterID(guid, group, name string) (access.ResourceID, error) {
	if err := access.CheckClusterName(name); err != nil {
		return access.ResourceID{}, err
	}
	g, err := GroupID(guid, group)
	if err != nil {
		return access.ResourceID{}, err
	}
	return access.ParseResourceID(g.String() + "/providers/" + access.ClusterType + "/" + name)
}

// BindingID makes the ARM id of a binding of a cluster.
func BindingID(cluster access.ResourceID, name string) (access.ResourceID, error) {
	if err := access.CheckBindingName(name); err != nil {
		return access.ResourceID{}, err
	}
	return cluster.Child("trustedAccessRoleBindings", name)
}

// Subscriptions lists what the caller may see.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return listOf[Subscription](ctx, c, "/subscriptions", subscriptionVersion)
}

// Subscription reads one subscription by its ARM id.
func (c *Client) Subscription(ctx context.Context, id access.ResourceID) (Subscription, error) {
	var s Subscription
	return s, c.get(ctx, id.String(), subscriptionVersion, &s)
}

// PutSubscription creates a subscription owned by the caller, or renames it.
// tenantID, which cannot be changed later, is the tenant whose tokens its
// clusters accept; "" means the caller's. ARM proper creates subscriptions
// elsewhere; this PUT is Sallyport's own.
func (c *Client) PutSubscription(ctx context.Context, id access.ResourceID, displayName, tenantID string) (Subscription, error) {
	var s Subscription
	var body struct {
		Properties struct {
			DisplayName string `json:"displayName"`
			TenantID    string `json:"tenantId,omitempty"`
		} `json:"properties"`
	}
	body.Properties.DisplayName, body.Properties.TenantID = displayName, tenantID
	_, err := c.put(ctx, id.String(), subscriptionVersion, body, &s)
	return s, err
}

// Groups lists a subscription's resource groups.
func (c *Client) Groups(ctx context.Context, subscription access.ResourceID) ([]ResourceGroup, error) {
	return listOf[ResourceGroup](ctx, c, subscription.String()+"/resourceGroups", groupVersion)
}

// Group reads one resource group.
func (c *Client) Group(ctx context.Context, id access.ResourceID) (ResourceGroup, error) {
	var g ResourceGroup
	return g, c.get(ctx, id.String(), groupVersion, &g)
}

// PutGroup creates a resource group, or replaces its tags.
func (c *Client) PutGroup(ctx context.Context, id access.ResourceID, location string, tags map[string]string) (ResourceGroup, error) {
	var g ResourceGroup
	body := struct {
		Location string            `json:"location"`
		Tags     map[string]string `json:"tags,omitempty"`
	}{location, tags}
	_, err := c.put(ctx, id.String(), groupVersion, body, &g)
	return g, err
}
