package controlplane

import (
	"context"
	"errors"
	"net/http"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// postExplain asks for an owner what would become of a source's request. The
// question is recorded like a write: the cluster is asked under the binding's
// user.
func (c *ControlPlane) postExplain(ctx context.Context, q *request) (reply, error) {
	if c.cfg.Explain == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	var ask access.Question
	if err := q.read(&ask); err != nil {
		return reply{}, err
	}
	if ask.Source.IsZero() {
		return reply{}, arm.InvalidParameter("source", "The resource id of the source is missing.")
	}
	if err := access.CheckDeed(ask.Deed); err != nil {
		return reply{}, err
	}
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	caller, err := c.suppose(ctx, cluster.Value, ask.Source)
	if err != nil {
		return reply{}, err
	}
	if err := q.allow(ask); err != nil {
		return reply{}, err
	}
	e := c.cfg.Explain(ctx, caller, cluster.Value.ID, ask, q.id)
	e.RolesThatAllow = access.RolesThatAllow(c.cfg.Catalogue, ask.Source, ask.Deed)
	return reply{status: http.StatusOK, body: e}, nil
}

// suppose is whom the source's token would name: the identity that the
// directory gives it, or for a resource of the real cloud one of the cluster's
// tenant, whose object id nobody here knows.
func (c *ControlPlane) suppose(ctx context.Context, cluster access.Cluster, source access.ResourceID) (access.Principal, error) {
	p := access.Principal{TenantID: cluster.TenantID, Resource: source}
	item, err := c.store.Resources.Get(ctx, source.Key())
	if errors.Is(err, access.ErrNotFound) {
		return p, nil
	}
	if err == nil && item.Value.Identity != nil {
		p.TenantID, p.ObjectID = item.Value.TenantID, item.Value.Identity.ObjectID
	}
	return p, err
}
