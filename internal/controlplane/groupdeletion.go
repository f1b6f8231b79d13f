package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/store"
)

// Deleting a resource group begins with one transaction that marks the group and
// writes the operation. From then on whoever would create something in it is
// refused: each such write holds to the group's record (request.openGroup). So
// what the group has can only become less, and removeGroup takes it away piece
// by piece, each piece in a transaction of its own and recorded before. The
// group's record goes last, in one transaction with the operation's end. A step
// that fails, or a process that dies, leaves a state from which the next look
// at the pending operations goes on.

// deleteGroup begins the deletion of a group and all that is in it.
func (c *ControlPlane) deleteGroup(ctx context.Context, q *request) (reply, error) {
	var op access.Operation
	err := retry(ctx, func() error {
		group, err := q.group(ctx)
		if err != nil {
			return err
		}
		if group.Value.Deletion != "" { // again: the same operation
			item, err := c.store.Operations.Get(ctx, group.Value.Deletion)
			op = item.Value
			if err != nil {
				return err
			}
			return q.allow(nil)
		}
		op = access.Operation{
			ID: q.id, Resource: group.Value.ID, Delete: true, Status: access.OperationInProgress, Start: c.cfg.Now(),
			By: access.Consent{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, At: c.cfg.Now()},
		}
		want := group.Value
		want.Deletion = op.ID
		_, err = q.commit(ctx, c.store.Groups.Updating(group, want), c.store.Operations.Creating(op), c.store.Pending.Creating(op))
		return err
	})
	if err != nil {
		return reply{}, err
	}
	select {
	case c.removals <- struct{}{}:
	default: // it is to look already
	}
	return reply{status: http.StatusAccepted, header: map[string]string{"Location": arm.ResultURL(q.http, op), "Retry-After": pollAfter}}, nil
}

// removeGroups empties and removes the groups whose deletion has begun, until
// ctx ends: at once when one begins here, and else each tick, for those that
// another process began or left.
func (c *ControlPlane) removeGroups(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		items, _, err := c.store.Pending.List(ctx, "")
		for _, item := range items {
			if op := item.Value; op.OfGroup() && err == nil {
				if err := c.removeGroup(ctx, op); err != nil && ctx.Err() == nil {
					c.log.Warn("a resource group is not deleted yet; it is tried again", "group", op.Resource.String(), "operation", op.ID, "error", err)
				}
			}
		}
		select {
		case <-ticker.C:
		case <-c.removals:
		case <-ctx.Done():
			return
		}
	}
}

// removeGroup does what is left to do of a group's deletion.
func (c *ControlPlane) removeGroup(ctx context.Context, op access.Operation) error {
	within := op.Resource.Key() + "/"
	clusters, _, err := c.store.Clusters.List(ctx, within)
	if err != nil {
		return err
	}
	for _, item := range clusters {
		if err := c.removePiece(ctx, op, item.Value.ID, func() ([]store.Change, map[string]any, error) {
			cluster, err := c.store.Clusters.Get(ctx, item.Key)
			if err != nil {
				return nil, nil, err
			}
			return c.removingCluster(ctx, cluster)
		}); err != nil {
			return err
		}
		c.forgetTombstones(ctx, item.Value.ID)
	}
	resources, revision, err := c.store.Resources.List(ctx, within)
	if err != nil {
		return err
	}
	for _, item := range resources {
		if err := c.removePiece(ctx, op, item.Value.ID, func() ([]store.Change, map[string]any, error) {
			resource, err := c.store.Resources.Get(ctx, item.Key)
			if err != nil {
				return nil, nil, err
			}
			changes, err := c.removingResource(ctx, resource)
			return changes, map[string]any{"resourceUid": resource.Value.UID}, err
		}); err != nil {
			return err
		}
	}
	if err := c.forgetExtensions(ctx, op.Resource, ""); err != nil {
		return err
	}
	if c.cfg.Settled != nil { // nothing of it is admitted any more
		ctx, cancel := context.WithTimeout(ctx, settled)
		defer cancel()
		if err := c.cfg.Settled(ctx, revision); err != nil {
			return err
		}
	}
	return retry(ctx, func() error { return c.endGroup(ctx, op) })
}

// removePiece takes one thing away, if it is still there. The record names who
// deleted the group, and has the operation's id, which is the request's.
func (c *ControlPlane) removePiece(ctx context.Context, op access.Operation, id access.ResourceID, removing func() ([]store.Change, map[string]any, error)) error {
	err := retry(ctx, func() error {
		changes, detail, err := removing()
		if err != nil {
			return err
		}
		allowed := true
		r := audit.Record{
			Time: c.cfg.Now(), Stage: audit.Consent, ID: op.ID, TenantID: op.By.TenantID, ObjectID: op.By.ObjectID,
			Method: http.MethodDelete, Path: id.String(), Action: id.Type() + "/delete", Allowed: &allowed, Detail: detail,
			Reason: "with the deletion of resource group " + op.Resource.Name(),
		}
		if id.IsType(access.ClusterType) {
			r.Cluster = id.String()
		}
		if err := c.cfg.Audit(r); err != nil {
			return fmt.Errorf("record the deletion of %s: %w: %w", id, err, access.ErrUnavailable)
		}
		unassigned, err := c.removingAssignments(ctx, id)
		if err != nil {
			return err
		}
		_, err = c.store.Commit(ctx, append(changes, unassigned)...)
		return raced(err)
	})
	if errors.Is(err, access.ErrNotFound) { // somebody else took it
		return nil
	}
	return err
}

// endGroup removes the empty group and ends the operation.
func (c *ControlPlane) endGroup(ctx context.Context, op access.Operation) error {
	ended, err := c.ending(ctx, op.ID, access.OperationSucceeded, "", "")
	if err != nil || len(ended) == 0 {
		return err
	}
	group, err := c.store.Groups.Get(ctx, op.Resource.Key())
	switch {
	case err == nil && group.Value.Deletion == op.ID:
		ended = append(ended, c.store.Groups.Deleting(group))
	case err != nil && !errors.Is(err, access.ErrNotFound):
		return err
	}
	unassigned, err := c.removingAssignments(ctx, op.Resource)
	if err != nil {
		return err
	}
	_, err = c.store.Commit(ctx, append(ended, unassigned)...)
	return raced(err)
}
