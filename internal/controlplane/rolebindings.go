package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// binding loads the path's binding, after its cluster.
func (q *request) binding(ctx context.Context) (store.Item[access.Cluster], store.Item[access.RoleBinding], error) {
	var none store.Item[access.RoleBinding]
	cluster, err := q.cluster(ctx)
	if err != nil {
		return cluster, none, err
	}
	id, err := q.bindingID()
	if err != nil {
		return cluster, none, err
	}
	item, err := q.c.store.Bindings.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) {
		return cluster, none, arm.BindingNotFound(id)
	}
	return cluster, item, err
}

func (c *ControlPlane) listBindings(ctx context.Context, q *request) (reply, error) {
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.Bindings.List(ctx, cluster.Value.ID.Key()+"/")
	if err != nil {
		return reply{}, err
	}
	bindings := make([]arm.RoleBinding, len(items))
	for i, item := range items {
		bindings[i] = arm.NewRoleBinding(item.Value)
	}
	page, err := arm.Paginate(q.http, bindings, arm.PageSize, func(b arm.RoleBinding) string { return strings.ToLower(b.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

func (c *ControlPlane) getBinding(ctx context.Context, q *request) (reply, error) {
	_, item, err := q.binding(ctx)
	return reply{status: http.StatusOK, body: arm.NewRoleBinding(item.Value)}, err
}

// consent is what a PUT asks for.
type consent struct {
	source access.ResourceID
	roles  []string
	policy *access.Policy // of a binding that is created with one; else nil
	// wide lets the source be the subscription. Only the preview API sets it.
	wide bool
}

// readConsent parses and checks what the body alone can tell.
func (q *request) readConsent() (consent, error) {
	var body struct {
		Properties *struct {
			SourceResourceID string   `json:"sourceResourceId"`
			Roles            []string `json:"roles"`
			// AccessPolicy is ours, for consent that never exists without its
			// bound. No answer shows it: the policy is a resource of its own.
			AccessPolicy json.RawMessage `json:"accessPolicy"`
		} `json:"properties"`
	}
	if err := q.read(&body); err != nil {
		return consent{}, err
	}
	p := body.Properties
	if p == nil {
		return consent{}, arm.InvalidContent("'properties' is required, with 'sourceResourceId' and 'roles'")
	}
	if p.SourceResourceID == "" {
		return consent{}, arm.InvalidParameter("properties.sourceResourceId", "it is required: the resource id of the source, such as '/subscriptions/{id}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{name}'.")
	}
	source, err := q.checkSource("properties.sourceResourceId", p.SourceResourceID)
	if err != nil {
		return consent{}, err
	}
	for _, role := range p.Roles {
		for i := range len(role) {
			if role[i] < ' ' || role[i] > '~' { // role names are ASCII; others only fold to one
				return consent{}, access.UnknownRoleError{Role: role}
			}
		}
	}
	if !source.IsSubscription() { // see planConsent
		err = access.CheckRoles(q.c.cfg.Catalogue, source, p.Roles)
	}
	want := consent{source: source, roles: p.Roles}
	if err == nil && p.AccessPolicy != nil && string(p.AccessPolicy) != "null" {
		var policy access.Policy
		if policy, err = q.c.readPolicy(p.AccessPolicy); err == nil {
			policy = q.written(policy)
			want.policy = &policy
		}
	}
	return want, err
}

// checkSource parses the id of a source, as a field of the body has it, and
// refuses what can be none. The cluster's own subscription passes.
func (q *request) checkSource(field, text string) (access.ResourceID, error) {
	source, err := access.ParseResourceID(text)
	switch {
	case err != nil:
		err = arm.InvalidParameter(field, "%s.", access.Message(err))
	case source.Type() == "" && !source.IsSubscription():
		err = arm.InvalidParameter(field, "'%s' is not a resource; a subscription or resource group cannot be a source.", source)
	case source.IsType(access.UserAssignedType):
		err = arm.InvalidParameter(field, "'%s' is a user-assigned identity; a source acts with its own system-assigned identity, so name the resource.", source)
	case !strings.EqualFold(source.Subscription(), q.vars["subscription"]):
		err = arm.InvalidParameter(field, "'%s' is in subscription '%s'; a source must be in the cluster's subscription, '%s'.", source, source.Subscription(), q.vars["subscription"])
	}
	return source, err
}

// putBinding takes an owner's consent. The reply is 201 in both cases and
// says Updating, whatever comes next (spec/trusted-access.md 2.1).
func (c *ControlPlane) putBinding(ctx context.Context, q *request) (reply, error) {
	if err := access.CheckBindingName(q.vars["binding"]); err != nil {
		return reply{}, err
	}
	want, err := q.readConsent()
	if err != nil {
		return reply{}, err
	}
	written, op, err := c.consent(ctx, q, want)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, body: arm.NewRoleBinding(written), header: map[string]string{
		"Azure-AsyncOperation": arm.OperationURL(q.http, op),
		"Retry-After":          pollAfter,
	}}, nil
}

// consent records and writes what an owner consents to, and returns it as it is
// answered, with its operation.
func (c *ControlPlane) consent(ctx context.Context, q *request, want consent) (access.RoleBinding, access.Operation, error) {
	var written access.RoleBinding
	var op access.Operation
	if err := q.checkConsenter(ctx, want); err != nil {
		return written, op, err
	}
	err := retry(ctx, func() error {
		plan, err := c.planConsent(ctx, q, want)
		if err != nil {
			return err
		}
		written, op = plan.binding, plan.op
		// What was consented to belongs in the record, not only that it was.
		detail := map[string]any{"source": want.source, "sourceOid": written.SourceOID, "roles": want.roles, "bindingUid": written.UID, "generation": written.Generation}
		if want.policy != nil {
			detail["policy"] = bounds(*want.policy)
		}
		if err := q.allow(detail); err != nil {
			return err
		}
		_, err = q.commit(ctx, plan.changes...)
		return err
	})
	written.State = access.Updating
	return written, op, err
}

// checkConsenter refuses the source itself, and a caller who may not even see
// what he would give to: nobody gives to a source that he cannot read
// (checklist, item 27). To all of a type, he must be able to read all of it.
func (q *request) checkConsenter(ctx context.Context, want consent) error {
	action, b := readAction(want.source), access.RoleBinding{Source: want.source, Roles: want.roles}
	itself := q.caller.Is(want.source)
	if b.Wide() && len(want.roles) == 1 {
		itself = b.ConsentsTo(q.caller.Resource) || b.ConsentsTo(q.caller.UsedBy)
		action = want.roles[0][:strings.LastIndexByte(want.roles[0], '/')+1] + "read"
	}
	if itself {
		return q.forbidden()
	}
	return q.requireLinked(ctx, action, want.source)
}

// checkWide refuses consent to a whole subscription but by the preview API, and
// an unchanged repetition of it, which is what clients write back that know
// only the current one.
func checkWide(old access.RoleBinding, isNew bool, want consent) error {
	if want.wide || !want.source.IsSubscription() || !isNew && old.Source.Equal(want.source) && len(lackingRoles(old.Roles, want.roles)) == 0 && len(want.roles) == len(old.Roles) {
		return nil
	}
	return arm.InvalidParameter("properties.sourceResourceId", "'%s' is not a resource; a subscription or resource group cannot be a source.", want.source)
}

// lackingRoles are the roles of want that are not in have.
func lackingRoles(have, want []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(role string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(h, role) })
	})
}

// plan is a write and all the conditions it rests on.
type plan struct {
	binding access.RoleBinding
	op      access.Operation
	changes []store.Change
}

func (c *ControlPlane) planConsent(ctx context.Context, q *request, want consent) (plan, error) {
	cluster, old, err := q.binding(ctx)
	isNew := isBindingNotFound(err)
	if err != nil && !isNew {
		return plan{}, err
	}
	if err := checkWide(old.Value, isNew, want); err != nil {
		return plan{}, err
	}
	oid, changes, err := c.pinSource(ctx, want.source)
	if err != nil {
		return plan{}, err
	}
	group, err := q.openGroup(ctx)
	if err != nil {
		return plan{}, err
	}
	changes = append(changes, group)
	b := old.Value
	if isNew {
		b, err = c.newBinding(ctx, q, cluster.Value)
		// Every new binding writes the cluster's record, so two that both saw
		// the last free place cannot both take it.
		changes = append(changes, c.store.Clusters.Updating(cluster, cluster.Value))
		if want.policy != nil {
			b.Policy = *want.policy
		}
	} else if err = errors.Join(checkSameSource(b, want.source), checkSamePolicy(b, want.policy)); err == nil {
		changes = append(changes, c.store.Clusters.Unchanged(cluster))
	}
	if err != nil {
		return plan{}, err
	}
	canceled, err := c.cancelling(ctx, b, "A later PUT of the binding took its place.")
	if err != nil {
		return plan{}, err
	}
	b.Generation++
	b.Source, b.Roles = want.source, want.roles
	if oid != "" || b.SourceOID == "" {
		b.SourceOID = oid // a source that left the directory keeps its pin
	}
	b.Operation = q.id
	b.Consented = access.Consent{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, At: c.cfg.Now()}
	b.Applied.Message = ""
	b.State = access.Updating
	if !cluster.Value.JoinIssued {
		b.State = access.Succeeded // there is no agent to wait for
	}
	op := c.newOperation(q, cluster.Value, b.ID, b.UID, b.Generation)
	changes = append(append(changes, c.starting(&op, cluster.Value.JoinIssued)...), canceled...)
	if isNew {
		changes = append(changes, c.store.Bindings.Creating(b))
	} else {
		changes = append(changes, c.store.Bindings.Updating(old, b))
	}
	return plan{binding: b, op: op, changes: changes}, nil
}

func isBindingNotFound(err error) bool {
	var e *arm.Error
	return errors.As(err, &e) && e.Subcode != "" && errors.Is(err, access.ErrNotFound)
}

// newBinding begins a binding, if the cluster has a place left. Its id is the
// cluster's with the name as the first PUT wrote it.
func (c *ControlPlane) newBinding(ctx context.Context, q *request, cluster access.Cluster) (access.RoleBinding, error) {
	have, _, err := c.store.Bindings.List(ctx, cluster.ID.Key()+"/")
	if err != nil {
		return access.RoleBinding{}, err
	}
	if len(have) >= c.cfg.BindingLimit {
		return access.RoleBinding{}, &arm.Error{Status: http.StatusBadRequest, Code: "QuotaExceeded", Bare: true,
			Message: fmt.Sprintf("Cluster '%s' has %d trusted access role bindings, the most it can have is %d: '%s' cannot be added. Delete one first, or add the role to a binding of the same source.",
				cluster.ID.Name(), len(have), c.cfg.BindingLimit, q.vars["binding"])}
	}
	id, err := cluster.ID.Child("trustedAccessRoleBindings", q.vars["binding"])
	return access.RoleBinding{ID: id, UID: newID(), Created: c.cfg.Now()}, err
}

func checkSameSource(b access.RoleBinding, source access.ResourceID) error {
	if b.Source.Equal(source) {
		return nil
	}
	return &arm.Error{Status: http.StatusBadRequest, Code: "PropertyChangeNotAllowed", Bare: true,
		Message: fmt.Sprintf("Changing property 'properties.sourceResourceId' is not allowed: binding '%s' has '%s', and '%s' cannot replace it. Delete the binding and create it again, or create another.", b.Name(), b.Source, source)}
}

// checkSamePolicy lets a repeated creation pass, and no other: whoever writes
// roles again and again must not undo a lock.
func checkSamePolicy(b access.RoleBinding, policy *access.Policy) error {
	if policy == nil || b.Policy.SameBounds(*policy) {
		return nil
	}
	return &arm.Error{Status: http.StatusConflict, Code: "PropertyChangeNotAllowed", Bare: true,
		Message: fmt.Sprintf("Property 'properties.accessPolicy' is for the creation of a binding, and '%s' exists with another. Write %s/providers/Sallyport.Gateway/accessPolicies/default instead.", b.Name(), b.ID)}
}

// pinSource returns the object id of a source that the directory knows, and
// the condition that this is still so when the binding is written.
func (c *ControlPlane) pinSource(ctx context.Context, source access.ResourceID) (string, []store.Change, error) {
	if source.IsSubscription() { // each of its resources is held against the directory when it acts
		return "", nil, nil
	}
	item, err := c.store.Resources.Get(ctx, source.Key())
	switch {
	case errors.Is(err, access.ErrNotFound) && c.cfg.RequireKnownSources:
		return "", nil, arm.InvalidParameter("properties.sourceResourceId", "'%s' does not exist; create it with a system-assigned identity first.", source)
	case errors.Is(err, access.ErrNotFound):
		return "", []store.Change{c.store.Resources.Absent(source.Key())}, nil
	case err != nil:
		return "", nil, err
	case item.Value.Identity == nil:
		return "", nil, arm.InvalidParameter("properties.sourceResourceId", "'%s' has no system-assigned identity to act with; PUT it with identity.type 'SystemAssigned' first.", source)
	}
	return item.Value.Identity.ObjectID, []store.Change{c.store.Resources.Unchanged(item)}, nil
}

// deleteBinding withdraws consent. With the one transaction the gateway's
// index loses the binding, and the tombstone has the agent clean up.
func (c *ControlPlane) deleteBinding(ctx context.Context, q *request) (reply, error) {
	var op access.Operation
	var revision int64
	err := retry(ctx, func() error {
		cluster, item, err := q.binding(ctx)
		if err != nil {
			return err
		}
		b := item.Value
		if q.actsBy(b) { // the next binding of the source might allow it more
			return q.forbidden()
		}
		op = c.newOperation(q, cluster.Value, b.ID, b.UID, b.Generation)
		op.Delete = true
		canceled, err := c.cancelling(ctx, b, "The binding was deleted.")
		if err != nil {
			return err
		}
		changes := append([]store.Change{c.store.Clusters.Unchanged(cluster), c.store.Bindings.Deleting(item)}, canceled...)
		changes = append(changes, c.starting(&op, c.cfg.Settled != nil)...)
		if cluster.Value.JoinIssued {
			changes = append(changes, c.store.Tombstones.Creating(access.Tombstone{Cluster: cluster.Value.ID, Name: b.Name(), UID: b.UID, Deleted: c.cfg.Now()}))
		}
		if err := q.allow(map[string]any{"source": b.Source, "roles": b.Roles, "bindingUid": b.UID}); err != nil {
			return err
		}
		unassigned, err := c.removingAssignments(ctx, b.ID)
		if err != nil {
			return err
		}
		revision, err = q.commit(ctx, append(changes, unassigned)...)
		return err
	})
	if isBindingNotFound(err) {
		return reply{status: http.StatusNoContent}, q.allow(nil)
	}
	if err != nil {
		return reply{}, err
	}
	c.settle(ctx, op, revision)
	return accepted(q, op), nil
}
