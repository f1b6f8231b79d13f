package controlplane

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// listResources lists one type, in a group or in the whole subscription, each
// whole.
func (c *ControlPlane) listResources(ctx context.Context, q *request) (reply, error) {
	if isReserved(q.vars["type"]) {
		return reply{}, arm.NoRoute(q.path)
	}
	within, err := q.scope(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.Resources.List(ctx, within)
	if err != nil {
		return reply{}, err
	}
	parent := strings.ToLower(q.path.String()) + "/"
	inAllGroups := q.vars["group"] == "" && len(q.path) == 5 // /subscriptions/{s}/providers/{ns}/{type}
	var kept []access.Resource
	for _, item := range items {
		id := item.Value.ID
		if id.IsType(q.path.Type()) && (inAllGroups || strings.HasPrefix(id.Key(), parent)) && q.mayRead(id) {
			kept = append(kept, item.Value)
		}
	}
	return documents(q, kept, func(r access.Resource) string { return r.ID.Key() }, arm.NewResource)
}

// scope is the prefix of the keys of what is in the path's group, which must
// exist, or else in its subscription.
func (q *request) scope(ctx context.Context) (string, error) {
	if q.vars["group"] == "" {
		return q.subscription.Value.ID.Key() + "/", nil
	}
	group, err := q.group(ctx)
	return group.Value.ID.Key() + "/", err
}

// listAllResources lists what is in a group or subscription, of all types that
// are no child of another: clusters too. Each is shown without its properties,
// as ARM does, and filtered by $filter.
func (c *ControlPlane) listAllResources(ctx context.Context, q *request) (reply, error) {
	filter, err := arm.ParseFilter(q.http)
	if err != nil {
		return reply{}, err
	}
	within, err := q.scope(ctx)
	if err != nil {
		return reply{}, err
	}
	resources, _, err := c.store.Resources.List(ctx, within)
	if err != nil {
		return reply{}, err
	}
	clusters, _, err := c.store.Clusters.List(ctx, within)
	if err != nil {
		return reply{}, err
	}
	expand := q.http.URL.Query().Get("$expand")
	var all []arm.Summary
	for _, item := range resources {
		if q.mayRead(item.Value.ID) {
			all = append(all, arm.SummaryOfResource(item.Value, expand))
		}
	}
	for _, item := range clusters {
		if q.mayRead(item.Value.ID) {
			all = append(all, arm.SummaryOfCluster(item.Value, expand))
		}
	}
	kept := make([]arm.Summary, 0, len(all))
	for _, s := range all {
		if filter.Matches(s.Filterable()) {
			kept = append(kept, s)
		}
	}
	return documents(q, kept, arm.Summary.Key, arm.Summary.Show)
}
