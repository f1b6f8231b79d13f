package controlplane

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// cluster loads the path's cluster.
func (q *request) cluster(ctx context.Context) (store.Item[access.Cluster], error) {
	id, err := q.clusterID()
	if err != nil {
		return store.Item[access.Cluster]{}, err
	}
	item, err := q.c.store.Clusters.Get(ctx, id.Key())
	if !errors.Is(err, access.ErrNotFound) {
		return item, err
	}
	if _, err := q.group(ctx); err != nil {
		return item, err
	}
	return item, arm.ResourceNotFound(id)
}

func (c *ControlPlane) listClusters(ctx context.Context, q *request) (reply, error) {
	within := q.subscription.Value.ID.Key() + "/"
	if q.vars["group"] != "" {
		group, err := q.group(ctx)
		if err != nil {
			return reply{}, err
		}
		within = group.Value.ID.Key() + "/"
	}
	items, _, err := c.store.Clusters.List(ctx, within)
	if err != nil {
		return reply{}, err
	}
	var clusters []access.Cluster
	for _, item := range items {
		if q.mayRead(item.Value.ID) {
			clusters = append(clusters, item.Value)
		}
	}
	return documents(q, clusters, func(c access.Cluster) string { return c.ID.Key() }, func(cluster access.Cluster) (arm.Document, error) {
		return arm.NewCluster(cluster, arm.ShownCluster{Host: c.hostOf(cluster)})
	})
}

func (c *ControlPlane) getCluster(ctx context.Context, q *request) (reply, error) {
	item, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	return c.showCluster(item.Value, http.StatusOK, "")
}

// hostOf is the name by which the gateway is reached for a cluster.
func (c *ControlPlane) hostOf(cluster access.Cluster) string {
	address := c.cfg.GatewayAddress
	if c.cfg.ClusterAddress != nil {
		if own := c.cfg.ClusterAddress(cluster.UID); own != "" {
			address = strings.TrimPrefix(own, "https://")
		}
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

func (c *ControlPlane) showCluster(cluster access.Cluster, status int, state string) (reply, error) {
	body, err := arm.NewCluster(cluster, arm.ShownCluster{State: state, Host: c.hostOf(cluster)})
	return reply{status: status, body: body, header: map[string]string{"ETag": arm.ETag(arm.ClusterETag(cluster))}}, err
}

// putCluster registers a cluster, or replaces the document of a registered
// one, whose uid, enrolment and bindings stay. What a client sends is kept
// less its secrets; it is there to be read back, and decides nothing but whether
// listClusterAdminCredential is answered. Its operation is done with the write.
func (c *ControlPlane) putCluster(ctx context.Context, q *request) (reply, error) {
	id, err := q.clusterID()
	if err != nil {
		return reply{}, err
	}
	if err := access.CheckClusterName(id.Name()); err != nil {
		return reply{}, err
	}
	text, err := arm.ReadBody(q.w, q.http)
	if err != nil {
		return reply{}, err
	}
	var body struct {
		Location string        `json:"location"`
		Identity *identityBody `json:"identity"`
	}
	if err := arm.Decode(text, &body); err != nil {
		return reply{}, err
	}
	location, err := checkLocation(body.Location)
	if err != nil {
		return reply{}, err
	}
	doc, err := arm.ParseDocument(text)
	if err != nil {
		return reply{}, err
	}
	kept, err := arm.EncodeDocument(doc)
	if err != nil {
		return reply{}, err
	}
	var answer reply
	err = retry(ctx, func() error {
		want, status, changes, err := c.planCluster(ctx, q, id, location, body.Identity, kept)
		if err != nil {
			return err
		}
		answer, err = q.writeCluster(ctx, want, status, changes)
		return err
	})
	return answer, err
}

// writeCluster commits a cluster with the operation that says so.
func (q *request) writeCluster(ctx context.Context, want access.Cluster, status int, changes []store.Change) (reply, error) {
	state := "Updating"
	if status == http.StatusCreated {
		state = "Creating"
	}
	answer, err := q.c.showCluster(want, status, state)
	if err != nil {
		return reply{}, err
	}
	op := q.c.newOperation(q, want, want.ID, want.UID, 0)
	_, err = q.commit(ctx, append(changes, q.c.starting(&op, false)...)...)
	answer.header["Azure-AsyncOperation"], answer.header["Retry-After"] = arm.OperationURL(q.http, op), pollAfter
	return answer, err
}

// patchCluster replaces the tags, as the real service's PATCH does, and nothing
// else.
func (c *ControlPlane) patchCluster(ctx context.Context, q *request) (reply, error) {
	var body struct {
		Tags *map[string]string `json:"tags"`
	}
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	var answer reply
	err := retry(ctx, func() error {
		old, err := q.cluster(ctx)
		if err != nil {
			return err
		}
		group, err := q.openGroup(ctx)
		if err != nil {
			return err
		}
		if err := arm.CheckMatch(q.http, arm.ClusterETag(old.Value)); err != nil {
			return err
		}
		want := old.Value
		if body.Tags != nil {
			if want.Document, err = arm.PatchDocument(old.Value.Document, map[string]any{"tags": *body.Tags}); err != nil {
				return err
			}
		}
		answer, err = q.writeCluster(ctx, want, http.StatusOK, []store.Change{group, c.store.Clusters.Updating(old, want)})
		return err
	})
	return answer, err
}

// listMaintenance and getMaintenance say that a cluster has no maintenance
// configurations: they are about node upgrades, and there are no nodes of ours.
// Terraform asks for three of them each time it reads a cluster.
func (c *ControlPlane) listMaintenance(ctx context.Context, q *request) (reply, error) {
	_, err := q.cluster(ctx)
	return reply{status: http.StatusOK, body: arm.List[any]{Value: []any{}}}, err
}

func (c *ControlPlane) getMaintenance(ctx context.Context, q *request) (reply, error) {
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{}, &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Bare: true,
		Message: "Could not find the maintenance configuration '" + q.vars["configuration"] + "' of cluster '" + cluster.Value.ID.Name() + "'."}
}

func (c *ControlPlane) planCluster(ctx context.Context, q *request, id access.ResourceID, location string, identity *identityBody, doc []byte) (access.Cluster, int, []store.Change, error) {
	fail := func(err error) (access.Cluster, int, []store.Change, error) { return access.Cluster{}, 0, nil, err }
	group, err := q.openGroup(ctx)
	if err != nil {
		return fail(err)
	}
	old, err := c.store.Clusters.Get(ctx, id.Key())
	etag := ""
	if err == nil {
		etag = arm.ClusterETag(old.Value)
	}
	if err := arm.CheckMatch(q.http, etag); err != nil {
		return fail(err)
	}
	uses, held, usesErr := q.planUses(ctx, identity, old.Value.Uses)
	if usesErr != nil {
		return fail(usesErr)
	}
	held = append(held, group)
	switch {
	case errors.Is(err, access.ErrNotFound):
		if err := q.checkRegistered(ctx, "Microsoft.ContainerService"); err != nil {
			return fail(err)
		}
		want := access.Cluster{ID: id, UID: newID(), Location: location, TenantID: q.subscription.Value.TenantID, Created: c.cfg.Now(), Uses: uses, Document: doc}
		return want, http.StatusCreated, append(held, c.store.Clusters.Creating(want)), nil
	case err != nil:
		return fail(err)
	case old.Value.Location != location:
		return fail(&arm.Error{Status: http.StatusConflict, Code: "InvalidResourceLocation",
			Message: "The resource '" + id.Name() + "' already exists in location '" + old.Value.Location + "', which '" + location + "' cannot replace."})
	}
	want := old.Value
	want.Document, want.Uses = doc, uses
	return want, http.StatusOK, append(held, c.store.Clusters.Updating(old, want)), nil
}

// deleteCluster forgets a cluster and what belongs to it in one transaction. The
// gateway and the agents' feeds learn of it by watch, and close. The objects
// in the cluster are its owner's to remove, with the agent.
func (c *ControlPlane) deleteCluster(ctx context.Context, q *request) (reply, error) {
	var op access.Operation
	var revision int64
	err := retry(ctx, func() error {
		cluster, err := q.cluster(ctx)
		if err != nil {
			return err
		}
		if err := arm.CheckMatch(q.http, arm.ClusterETag(cluster.Value)); err != nil {
			return err
		}
		op = c.newOperation(q, cluster.Value, cluster.Value.ID, cluster.Value.UID, 0)
		op.Delete = true
		changes, detail, err := c.removingCluster(ctx, cluster)
		if err != nil {
			return err
		}
		changes = append(changes, c.starting(&op, c.cfg.Settled != nil)...)
		if err := q.allow(detail); err != nil {
			return err
		}
		unassigned, err := c.removingAssignments(ctx, cluster.Value.ID)
		if err != nil {
			return err
		}
		revision, err = q.commit(ctx, append(changes, unassigned)...)
		return err
	})
	var missing *arm.Error
	if errors.As(err, &missing) && missing.Code == "ResourceNotFound" && q.http.Header.Get("If-Match") == "" {
		return reply{status: http.StatusNoContent}, q.allow(nil)
	}
	if err != nil {
		return reply{}, err
	}
	c.forgetTombstones(ctx, op.Resource)
	if err := c.forgetExtensions(ctx, op.Resource, op.UID); err != nil {
		c.log.Warn("extensions of a deleted cluster are left", "cluster", op.Resource.String(), "error", err)
	}
	c.settle(ctx, op, revision)
	return accepted(q, op), nil
}

// removingCluster is what takes a cluster away with its bindings, and for the
// record what that is.
func (c *ControlPlane) removingCluster(ctx context.Context, cluster store.Item[access.Cluster]) ([]store.Change, map[string]any, error) {
	changes := []store.Change{c.store.Clusters.Deleting(cluster)}
	bindings, _, err := c.store.Bindings.List(ctx, cluster.Value.ID.Key()+"/")
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, b := range bindings {
		names = append(names, b.Value.Name())
		canceled, err := c.cancelling(ctx, b.Value, "The cluster was deleted.")
		if err != nil {
			return nil, nil, err
		}
		changes = append(append(changes, c.store.Bindings.Deleting(b)), canceled...)
	}
	return changes, map[string]any{"clusterUid": cluster.Value.UID, "bindings": names}, nil
}

// forgetTombstones drops what no agent will clean up any more. Leaving some
// behind is harmless: their uids are used never again.
func (c *ControlPlane) forgetTombstones(ctx context.Context, cluster access.ResourceID) {
	items, _, err := c.store.Tombstones.List(ctx, cluster.Key()+"/")
	for _, item := range items {
		if err != nil {
			break
		}
		err = c.store.Tombstones.Delete(ctx, item.Key, item.Version)
	}
	if err != nil {
		c.log.Warn("tombstones of a deleted cluster are left", "cluster", cluster.String(), "error", err)
	}
}
