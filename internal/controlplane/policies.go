package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// A policy is part of the cluster's or the binding's record, and has a path of
// its own. So it is written and deleted with what it bounds, and whoever reads
// that has the policy too.

// bounded is what a path's policy bounds.
type bounded struct {
	id     access.ResourceID
	uid    string
	policy access.Policy
	// updating gives it another policy.
	updating func(access.Policy) store.Change
	// settled returns once the gateway has seen the change.
	settled func(ctx context.Context, revision int64) error
}

// bounded loads the path's binding, or else its cluster.
func (q *request) bounded(ctx context.Context) (bounded, error) {
	if q.vars["binding"] == "" {
		item, err := q.cluster(ctx)
		if err != nil {
			return bounded{}, err
		}
		return bounded{item.Value.ID, item.Value.UID, item.Value.Policy, func(p access.Policy) store.Change {
			next := item.Value
			next.Policy = p
			return q.c.store.Clusters.Updating(item, next)
		}, q.c.cfg.ClusterSettled}, nil
	}
	_, item, err := q.binding(ctx)
	if err != nil {
		return bounded{}, err
	}
	return bounded{item.Value.ID, item.Value.UID, item.Value.Policy, func(p access.Policy) store.Change {
		next := item.Value
		next.Policy = p
		return q.c.store.Bindings.Updating(item, next)
	}, q.c.cfg.Settled}, nil
}

func (c *ControlPlane) getPolicy(ctx context.Context, q *request) (reply, error) {
	b, err := q.bounded(ctx)
	if err != nil {
		return reply{}, err
	}
	if b.policy.ETag == "" {
		return reply{}, &arm.Error{Status: http.StatusNotFound, Code: "ResourceNotFound",
			Message: "No access policy bounds '" + b.id.String() + "'."}
	}
	return q.policyReply(http.StatusOK, b.policy), nil
}

func (q *request) policyReply(status int, p access.Policy) reply {
	return reply{status: status, body: arm.NewAccessPolicy(q.path, p), header: map[string]string{"ETag": arm.ETag(p.ETag)}}
}

// putPolicy replaces a policy, whole.
func (c *ControlPlane) putPolicy(ctx context.Context, q *request) (reply, error) {
	var body struct {
		Properties json.RawMessage `json:"properties"`
	}
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	if body.Properties == nil || string(body.Properties) == "null" {
		return reply{}, arm.InvalidContent("'properties' is required; an empty object bounds nothing")
	}
	want, err := c.readPolicy(body.Properties)
	if err != nil {
		return reply{}, err
	}
	want = q.written(want)
	return c.writePolicy(ctx, q, want)
}

// readPolicy parses and checks all that the body alone can tell.
func (c *ControlPlane) readPolicy(properties json.RawMessage) (access.Policy, error) {
	p, err := arm.ParsePolicy(properties)
	if err != nil || len(p.AllowedSourceRanges) == 0 {
		return p, err
	}
	if c.cfg.CheckRanges == nil {
		return p, arm.InvalidParameter("properties.allowedSourceRanges", "this server does not enforce source ranges.")
	}
	if err := c.cfg.CheckRanges(p.AllowedSourceRanges); err != nil {
		return p, arm.InvalidParameter("properties.allowedSourceRanges", "%s.", access.Message(err))
	}
	return p, nil
}

// written signs a policy for the caller.
func (q *request) written(p access.Policy) access.Policy {
	p.ETag = newID()
	p.Written = access.Consent{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, At: q.c.cfg.Now()}
	return p
}

func (c *ControlPlane) deletePolicy(ctx context.Context, q *request) (reply, error) {
	return c.writePolicy(ctx, q, access.Policy{})
}

// writePolicy writes a policy, the zero one to delete it, and answers when the
// gateway has it in force.
func (c *ControlPlane) writePolicy(ctx context.Context, q *request, want access.Policy) (reply, error) {
	var old bounded
	var revision int64
	err := retry(ctx, func() (err error) {
		if old, err = q.bounded(ctx); err != nil {
			return err
		}
		if err := q.checkNotBound(ctx); err != nil {
			return err
		}
		if err := arm.CheckMatch(q.http, old.policy.ETag); err != nil {
			return err
		}
		if want.ETag == "" && old.policy.ETag == "" {
			return q.allow(nil)
		}
		if err := q.allow(map[string]any{"uid": old.uid, "policy": bounds(want), "before": bounds(old.policy)}); err != nil {
			return err
		}
		revision, err = q.commit(ctx, old.updating(want))
		return err
	})
	if err != nil {
		return reply{}, err
	}
	if err := c.inForce(ctx, old, revision); err != nil {
		return reply{}, err
	}
	switch {
	case want.ETag == "" && old.policy.ETag == "":
		return reply{status: http.StatusNoContent}, nil
	case want.ETag == "":
		return reply{status: http.StatusOK}, nil
	case old.policy.ETag == "":
		return q.policyReply(http.StatusCreated, want), nil
	}
	return q.policyReply(http.StatusOK, want), nil
}

// checkNotBound refuses a caller whom the path's policy bounds: nobody unlocks or
// extends himself. It is called between the read of the record that has the policy
// and its conditional write. Whom a binding is for never changes, and every new one
// writes its cluster's record, so a consent that is given meanwhile fails the write
// and is seen at the next look.
func (q *request) checkNotBound(ctx context.Context) error {
	cluster, err := q.clusterID()
	if err != nil || q.caller.Resource.IsZero() && q.caller.UsedBy.IsZero() {
		return err
	}
	bindings, _, err := q.c.store.Bindings.List(ctx, cluster.Key()+"/")
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if q.actsBy(b.Value) && (q.vars["binding"] == "" || strings.EqualFold(q.vars["binding"], b.Value.Name())) {
			return q.forbidden()
		}
	}
	return nil
}

// actsBy reports whether the caller is a source of a binding.
func (q *request) actsBy(b access.RoleBinding) bool {
	return q.caller.Is(b.Source) || b.ConsentsTo(q.caller.Resource) || b.ConsentsTo(q.caller.UsedBy)
}

// inForce waits for the gateway. A policy that it has not confirmed is no
// success: who locks must know whether the door is shut.
func (c *ControlPlane) inForce(ctx context.Context, b bounded, revision int64) error {
	if b.settled == nil || revision == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	if err := b.settled(ctx, revision); err != nil {
		c.log.Warn("the gateway has not taken up a policy yet", "resource", b.id.String(), "error", err)
		return &arm.Error{Status: http.StatusGatewayTimeout, Code: "PolicyNotConfirmed",
			Message: fmt.Sprintf("The access policy of '%s' is stored, but the gateway has not confirmed within %s that it is in force. A gateway that cannot tell whether it is current admits nothing; send the request again to know.", b.id, settled)}
	}
	return nil
}

// bounds is what the audit log keeps of a policy; nil for none.
func bounds(p access.Policy) map[string]any {
	if p.ETag == "" {
		return nil
	}
	out := map[string]any{"locked": p.Locked}
	if !p.ExpiresOn.IsZero() {
		out["expiresOn"] = p.ExpiresOn
	}
	if p.LockReason != "" {
		out["lockReason"] = p.LockReason
	}
	if len(p.AllowedSourceRanges) > 0 {
		out["allowedSourceRanges"] = p.AllowedSourceRanges
	}
	return out
}
