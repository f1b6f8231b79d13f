package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// Codes of a failed operation, beside ARM's own.
const (
	codeNotConnected  = "AgentNotConnected"  // no agent was there
	codeNotResponding = "AgentNotResponding" // it was there and said nothing
	codeApplyFailed   = "ApplyFailed"        // it tried, and said why not
	codeNotAllowed    = "RoleNotAllowed"     // it said that trying again cannot help
	codeCanceled      = "Canceled"           // a later write took its place
)

// pollAfter is the Retry-After of everything a client polls, in seconds. The
// real service sends none with a PUT, and clients then wait 10 to 30 s before
// they first look; here a write takes less.
const pollAfter = "1"

// newOperation is the operation that q starts; its id is the request's.
func (c *ControlPlane) newOperation(q *request, cluster access.Cluster, resource access.ResourceID, uid string, generation int64) access.Operation {
	now := c.cfg.Now()
	return access.Operation{ID: q.id, Resource: resource, UID: uid, Generation: generation, Location: cluster.Location, Start: now,
		By: access.Consent{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, At: now}}
}

// starting writes a new operation, in progress if it has to wait for somebody
// and else ended at once.
func (c *ControlPlane) starting(op *access.Operation, waits bool) []store.Change {
	if !waits {
		op.Status, op.End = access.OperationSucceeded, op.Start
		return []store.Change{c.store.Operations.Creating(*op)}
	}
	op.Status, op.Deadline = access.OperationInProgress, op.Start.Add(c.cfg.AgentTimeout)
	return []store.Change{c.store.Operations.Creating(*op), c.store.Pending.Creating(*op)}
}

// ending ends an operation that is in progress. There are no changes for one
// that is not, or is unknown.
func (c *ControlPlane) ending(ctx context.Context, id string, status access.OperationStatus, code, message string) ([]store.Change, error) {
	if id == "" {
		return nil, nil
	}
	op, err := c.store.Operations.Get(ctx, id)
	if errors.Is(err, access.ErrNotFound) || err == nil && op.Value.Status != access.OperationInProgress {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ended := op.Value
	ended.Status, ended.Code, ended.Message, ended.End = status, code, message, c.cfg.Now()
	changes := []store.Change{c.store.Operations.Updating(op, ended)}
	pending, err := c.store.Pending.Get(ctx, id)
	switch {
	case err == nil:
		changes = append(changes, c.store.Pending.Deleting(pending))
	case !errors.Is(err, access.ErrNotFound):
		return nil, err
	}
	return changes, nil
}

// cancelling ends the operation that a write on the binding takes the place of.
func (c *ControlPlane) cancelling(ctx context.Context, b access.RoleBinding, why string) ([]store.Change, error) {
	return c.ending(ctx, b.Operation, access.OperationCanceled, codeCanceled, why)
}

// accepted answers a delete that has begun.
func accepted(q *request, op access.Operation) reply {
	return reply{status: http.StatusAccepted, header: map[string]string{
		"Location":             arm.ResultURL(q.http, op),
		"Azure-AsyncOperation": arm.OperationURL(q.http, op),
		"Retry-After":          pollAfter,
	}}
}

// operation loads the path's operation, if it is of the path's subscription. It
// is for who started it, and for who may read its resource: the path itself is of
// the subscription, where an owner of a group or a cluster need not have a role.
func (q *request) operation(ctx context.Context) (access.Operation, error) {
	id := q.vars["operation"]
	item, err := q.c.store.Operations.Get(ctx, id)
	// A group's deletion has no location, in its path either.
	if err == nil && strings.EqualFold(item.Value.Resource.Subscription(), q.vars["subscription"]) && strings.EqualFold(item.Value.Location, q.vars["location"]) {
		op := item.Value
		if op.By.TenantID == q.caller.TenantID && op.By.ObjectID == q.caller.ObjectID {
			return op, nil
		}
		return op, q.require(ctx, readAction(op.Resource), op.Resource)
	}
	if err == nil || errors.Is(err, access.ErrNotFound) || errors.Is(err, access.ErrInvalid) {
		return access.Operation{}, &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Bare: true,
			Message: fmt.Sprintf("Could not find the operation %s in location %s of the subscription.", id, q.vars["location"])}
	}
	return access.Operation{}, err
}

func (c *ControlPlane) getOperation(ctx context.Context, q *request) (reply, error) {
	op, err := q.operation(ctx)
	if err != nil {
		return reply{}, err
	}
	answer := reply{status: http.StatusOK, body: arm.NewOperation(op)}
	if op.Status == access.OperationInProgress {
		answer.header = map[string]string{"Retry-After": pollAfter}
	}
	return answer, nil
}

// getOperationResult answers 202 while an operation runs and 204 when it has
// succeeded, both with a Location, as recorded of the real service.
func (c *ControlPlane) getOperationResult(ctx context.Context, q *request) (reply, error) {
	op, err := q.operation(ctx)
	if err != nil {
		return reply{}, err
	}
	done := http.StatusNoContent
	if op.OfGroup() {
		done = http.StatusOK
	}
	answer := reply{status: done, header: map[string]string{"Location": arm.ResultURL(q.http, op)}}
	switch op.Status {
	case access.OperationSucceeded:
	case access.OperationInProgress:
		answer.status, answer.header["Retry-After"] = http.StatusAccepted, pollAfter
	default:
		return reply{}, &arm.Error{Status: http.StatusConflict, Code: op.Code, Message: op.Message, Bare: true}
	}
	return answer, nil
}

// checkPending ends what can be ended: deletes that the gateway has seen, and
// writes past their deadline.
func (c *ControlPlane) checkPending(ctx context.Context) {
	items, revision, err := c.store.Pending.List(ctx, "")
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("pending operations cannot be read", "error", err)
		}
		return
	}
	c.metrics.pending.Set(float64(len(items)))
	now, lagging := c.cfg.Now(), false
	for _, item := range items {
		op := item.Value
		switch {
		case op.OfGroup(): // see removeGroups
		case op.Delete && lagging: // one wait for the gateway is enough in a round
		case op.Delete:
			lagging = !c.settle(ctx, op, revision)
		case !now.Before(op.Deadline):
			if err := retry(ctx, func() error { return c.expire(ctx, op) }); err != nil && ctx.Err() == nil {
				c.log.Warn("operation past its deadline cannot be ended", "operation", op.ID, "error", err)
			}
		}
	}
}

// settle ends a delete once the gateway has seen it. When that takes long it
// reports false; the operation stays pending and the next round asks again.
func (c *ControlPlane) settle(ctx context.Context, op access.Operation, revision int64) bool {
	if op.Status != access.OperationInProgress {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	err := retry(ctx, func() error {
		if c.cfg.Settled != nil {
			if err := c.cfg.Settled(ctx, revision); err != nil {
				return err
			}
		}
		changes, err := c.ending(ctx, op.ID, access.OperationSucceeded, "", "")
		if err != nil || len(changes) == 0 {
			return err
		}
		_, err = c.store.Commit(ctx, changes...)
		return raced(err)
	})
	if err != nil {
		c.log.Warn("the gateway has not settled a delete yet", "operation", op.ID, "resource", op.Resource.String(), "error", err)
	}
	return err == nil
}

// expire fails a write that the cluster did not answer in time. The binding
// stays, and becomes Succeeded when the agent reports it in force later.
func (c *ControlPlane) expire(ctx context.Context, op access.Operation) error {
	binding, err := c.store.Bindings.Get(ctx, op.Resource.Key())
	if err != nil && !errors.Is(err, access.ErrNotFound) {
		return err
	}
	current := err == nil && binding.Value.UID == op.UID && binding.Value.Generation == op.Generation
	said := ""
	if current {
		said = binding.Value.Applied.Message
	}
	code, message, err := c.whyLate(ctx, op, said)
	if err != nil {
		return err
	}
	changes, err := c.ending(ctx, op.ID, access.OperationFailed, code, message)
	if err != nil || len(changes) == 0 {
		return err
	}
	if current && binding.Value.State == access.Updating {
		want := binding.Value
		want.State, want.Applied.Message = access.Failed, message
		changes = append(changes, c.store.Bindings.Updating(binding, want))
	}
	if _, err := c.store.Commit(ctx, changes...); err != nil {
		return raced(err)
	}
	c.log.Info("operation failed", "operation", op.ID, "resource", op.Resource.String(), "code", code)
	return nil
}

func (c *ControlPlane) whyLate(ctx context.Context, op access.Operation, said string) (code, message string, err error) {
	cluster, err := c.store.Clusters.Get(ctx, op.Resource.Parent().Key())
	if err != nil && !errors.Is(err, access.ErrNotFound) {
		return "", "", err
	}
	name, waited := op.Resource.Parent().Name(), c.cfg.AgentTimeout
	switch {
	case said != "":
		return codeApplyFailed, "The agent of cluster '" + name + "' could not put the binding in force: " + said, nil
	case err != nil || !c.feeds.presence(cluster.Value.UID).reconciler.connected():
		return codeNotConnected, fmt.Sprintf("No agent of cluster '%s' is connected after %s. The binding is kept and is put in force, and shown as Succeeded, once an agent connects.", name, waited), nil
	}
	return codeNotResponding, fmt.Sprintf("The agent of cluster '%s' is connected, but did not report within %s that the binding is in force. The binding is kept, and shown as Succeeded once it does.", name, waited), nil
}
