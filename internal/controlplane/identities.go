package controlplane

import (
	"cmp"
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

// A user-assigned identity is a resource like any other (resources.go) that
// always has an identity. Here is what makes it one: that others may use it, and
// whom from outside it trusts.

// identityBody is the identity that a body asks for.
type identityBody struct {
	Type         string                     `json:"type"`
	UserAssigned map[string]json.RawMessage `json:"userAssignedIdentities"`
}

func (b *identityBody) has(kind string) bool {
	return b != nil && slices.ContainsFunc(strings.Split(b.Type, ","), func(t string) bool { return strings.EqualFold(strings.TrimSpace(t), kind) })
}

// maxUsed is how many user-assigned identities a resource may use.
const maxUsed = 20

// assignAction is what using an identity takes of it.
const assignAction = access.UserAssignedType + "/assign/action"

// planUses says which user-assigned identities a resource uses after the write,
// and the conditions of that. A PUT lists all; a PATCH adds those that it names
// and takes away those that it names as null. Whoever adds one must be allowed
// to assign it.
func (q *request) planUses(ctx context.Context, body *identityBody, have []access.UsedIdentity) ([]access.UsedIdentity, []store.Change, error) {
	switch {
	case body == nil:
		return have, nil, nil
	case !body.has("UserAssigned"):
		return nil, nil, nil
	}
	want, held := []access.UsedIdentity(nil), []store.Change(nil)
	if q.http.Method == http.MethodPatch {
		want = slices.Clone(have)
	}
	for text, value := range body.UserAssigned {
		id, err := access.ParseResourceID(text)
		if err != nil || !id.IsType(access.UserAssignedType) {
			return nil, nil, arm.InvalidParameter("identity.userAssignedIdentities", "'%s' is not the id of a %s.", access.Clip(text, 200), access.UserAssignedType)
		}
		want = slices.DeleteFunc(want, func(u access.UsedIdentity) bool { return u.ID.Equal(id) })
		if string(value) == "null" && q.http.Method == http.MethodPatch {
			continue
		}
		used, unchanged, err := q.planUse(ctx, id, have)
		if err != nil {
			return nil, nil, err
		}
		want, held = append(want, used), append(held, unchanged)
	}
	if len(want) == 0 || len(want) > maxUsed {
		return nil, nil, arm.InvalidParameter("identity.userAssignedIdentities", "identity.type '%s' takes 1 to %d identities, the body leaves %d.", access.Clip(body.Type, 100), maxUsed, len(want))
	}
	slices.SortFunc(want, func(a, b access.UsedIdentity) int { return cmp.Compare(a.ID.Key(), b.ID.Key()) })
	return want, held, nil
}

func (q *request) planUse(ctx context.Context, id access.ResourceID, have []access.UsedIdentity) (access.UsedIdentity, store.Change, error) {
	item, err := q.c.store.Resources.Get(ctx, id.Key())
	identity := item.Value.Identity
	isUsed := identity != nil && slices.ContainsFunc(have, func(u access.UsedIdentity) bool { return u.ID.Equal(id) && u.ObjectID == identity.ObjectID })
	if !isUsed { // also of one that is not there: who may not assign it need not learn that
		if err := q.requireLinked(ctx, assignAction, id); err != nil {
			return access.UsedIdentity{}, store.Change{}, err
		}
	}
	switch {
	case errors.Is(err, access.ErrNotFound) || err == nil && identity == nil:
		err = arm.InvalidParameter("identity.userAssignedIdentities", "'%s' does not exist; create it first.", id)
	case err == nil && !strings.EqualFold(item.Value.TenantID, q.subscription.Value.TenantID):
		err = arm.InvalidParameter("identity.userAssignedIdentities", "'%s' is of tenant %s, the resource of %s.", id, item.Value.TenantID, q.subscription.Value.TenantID)
	}
	if err != nil {
		return access.UsedIdentity{}, store.Change{}, err
	}
	return access.UsedIdentity{ID: item.Value.ID, ObjectID: identity.ObjectID, AppID: identity.AppID}, q.c.store.Resources.Unchanged(item), nil
}

// getIdentity shows the system-assigned identity of what the path extends.
func (c *ControlPlane) getIdentity(ctx context.Context, q *request) (reply, error) {
	id := q.path.Extended()
	item, err := c.store.Resources.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) || err == nil && (item.Value.Identity == nil || id.IsType(access.UserAssignedType)) {
		return reply{}, &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Message: "'" + id.String() + "' has no system-assigned identity."}
	}
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: arm.NewSystemIdentity(q.path, item.Value)}, nil
}

// userAssigned loads the user-assigned identity in the path.
func (q *request) userAssigned(ctx context.Context) (store.Item[access.Resource], error) {
	id, err := access.ParseResourceID("/subscriptions/" + q.vars["subscription"] + "/resourceGroups/" + q.vars["group"] + "/providers/" + access.UserAssignedType + "/" + q.vars["identity"])
	if err != nil {
		return store.Item[access.Resource]{}, err
	}
	item, err := q.c.store.Resources.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) {
		err = arm.ResourceNotFound(id)
	}
	return item, err
}

func (c *ControlPlane) listFederatedCredentials(ctx context.Context, q *request) (reply, error) {
	identity, err := q.userAssigned(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.FederatedCredentials.List(ctx, identity.Key+"/")
	if err != nil {
		return reply{}, err
	}
	shown := make([]arm.FederatedCredential, len(items))
	for i, item := range items {
		shown[i] = arm.NewFederatedCredential(item.Value)
	}
	page, err := arm.Paginate(q.http, shown, arm.PageSize, func(f arm.FederatedCredential) string { return strings.ToLower(f.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

func (q *request) federatedCredential(ctx context.Context) (store.Item[access.FederatedCredential], error) {
	identity, err := q.userAssigned(ctx)
	if err != nil {
		return store.Item[access.FederatedCredential]{}, err
	}
	want := access.FederatedCredential{Identity: identity.Value.ID, Name: q.vars["credential"]}
	item, err := q.c.store.FederatedCredentials.Get(ctx, want.ID())
	if errors.Is(err, access.ErrNotFound) {
		err = &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Message: "The federated identity credential '" + want.Name + "' of '" + identity.Value.ID.String() + "' was not found."}
	}
	return item, err
}

func (c *ControlPlane) getFederatedCredential(ctx context.Context, q *request) (reply, error) {
	item, err := q.federatedCredential(ctx)
	return reply{status: http.StatusOK, body: arm.NewFederatedCredential(item.Value)}, err
}

// putFederatedCredential says whose tokens an identity trusts. Every such write
// writes the identity's record too, so that the rules over all of them hold.
func (c *ControlPlane) putFederatedCredential(ctx context.Context, q *request) (reply, error) {
	var body struct {
		Properties access.FederatedCredential `json:"properties"`
	}
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	want := access.FederatedCredential{Name: q.vars["credential"], Issuer: body.Properties.Issuer, Subject: body.Properties.Subject, Audiences: body.Properties.Audiences}
	status := http.StatusCreated
	err := retry(ctx, func() error {
		identity, err := q.userAssigned(ctx)
		if err != nil {
			return err
		}
		group, err := q.openGroup(ctx)
		if err != nil {
			return err
		}
		want.Identity, want.Created = identity.Value.ID, c.cfg.Now()
		items, _, err := c.store.FederatedCredentials.List(ctx, identity.Key+"/")
		if err != nil {
			return err
		}
		write := c.store.FederatedCredentials.Creating(want)
		others := items[:0:0]
		for _, item := range items {
			if strings.EqualFold(item.Value.Name, want.Name) {
				status, want.Name, want.Created = http.StatusOK, item.Value.Name, item.Value.Created
				write = c.store.FederatedCredentials.Updating(item, want)
				continue
			}
			others = append(others, item)
		}
		if err := checkFederated(want, others); err != nil {
			return err
		}
		if err := q.allow(map[string]any{"issuer": want.Issuer, "subject": want.Subject, "audiences": want.Audiences}); err != nil {
			return err
		}
		_, err = q.commit(ctx, group, c.store.Resources.Updating(identity, identity.Value), write)
		return err
	})
	return reply{status: status, body: arm.NewFederatedCredential(want)}, err
}

// checkFederated applies the rules of one and of all of an identity's
// (spec/identity.md 3.3).
func checkFederated(want access.FederatedCredential, others []store.Item[access.FederatedCredential]) error {
	bad := func(format string, args ...any) error {
		return &arm.Error{Status: http.StatusBadRequest, Code: "BadRequest", Message: fmt.Sprintf(format, args...)}
	}
	if err := access.CheckFederatedCredential(want); err != nil {
		return bad("%s", access.Message(err))
	}
	if len(others) >= access.MaxFederatedCredentials {
		return bad("Too many Federated Identity Credentials: '%s' has %d, the most that a Managed Identity can have.", want.Identity.Name(), len(others))
	}
	for _, item := range others {
		if item.Value.Issuer == want.Issuer && item.Value.Subject == want.Subject {
			return bad("Issuer and subject combination already exists for this Managed Identity.")
		}
	}
	return nil
}

func (c *ControlPlane) deleteFederatedCredential(ctx context.Context, q *request) (reply, error) {
	status := http.StatusOK
	err := retry(ctx, func() error {
		item, err := q.federatedCredential(ctx)
		var missing *arm.Error
		if errors.As(err, &missing) && missing.Code == "NotFound" {
			status = http.StatusNoContent
			return q.allow(nil)
		}
		if err != nil {
			return err
		}
		_, err = q.commit(ctx, c.store.FederatedCredentials.Deleting(item))
		return err
	})
	return reply{status: status}, err
}
