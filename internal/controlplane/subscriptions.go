package controlplane

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// subscriptionList carries the count that az reads (spec/identity.md 6.2).
type subscriptionList struct {
	arm.List[arm.Subscription]
	Count count `json:"count"`
}

type count struct {
	Type  string `json:"type"`
	Value int    `json:"value"`
}

// listSubscriptions shows a caller the subscriptions in which it has any role,
// be it on one resource, as the real service does.
func (c *ControlPlane) listSubscriptions(ctx context.Context, q *request) (reply, error) {
	items, _, err := c.store.Subscriptions.List(ctx, "")
	if err != nil {
		return reply{}, err
	}
	rights, err := c.roles.Within(ctx, q.caller, access.ResourceID{})
	if err != nil {
		return reply{}, err
	}
	var mine []arm.Subscription
	for _, item := range items {
		if rights.Touch(item.Value.ID) {
			mine = append(mine, arm.NewSubscription(item.Value))
		}
	}
	page, err := arm.Paginate(q.http, mine, arm.PageSize, func(s arm.Subscription) string { return s.ID })
	return reply{status: http.StatusOK, body: subscriptionList{page, count{"Total", len(mine)}}}, err
}

func (c *ControlPlane) getSubscription(_ context.Context, q *request) (reply, error) {
	return reply{status: http.StatusOK, body: arm.NewSubscription(q.subscription.Value)}, nil
}

// tenant is an entry of the tenants' list.
type tenant struct {
	ID             string   `json:"id"`
	TenantID       string   `json:"tenantId"`
	DisplayName    string   `json:"displayName"`
	DefaultDomain  string   `json:"defaultDomain"`
	Domains        []string `json:"domains"`
	TenantCategory string   `json:"tenantCategory"`
	CountryCode    string   `json:"countryCode"`
}

// listTenants shows a caller its own tenant, the one that its token is of. Of a
// real Entra tenant no domains are known here.
func (c *ControlPlane) listTenants(ctx context.Context, q *request) (reply, error) {
	id := q.caller.TenantID
	own := tenant{ID: "/tenants/" + id, TenantID: id, DisplayName: "Sallyport", DefaultDomain: id, Domains: []string{id}, TenantCategory: "Home", CountryCode: "ZZ"}
	known, err := c.store.Tenants.Get(ctx, id)
	switch {
	case err == nil:
		own.Domains = directory.Domains(known.Value)
		own.DefaultDomain = own.Domains[0]
		if known.Value.Name != "" {
			own.DisplayName = known.Value.Name
		}
	case !errors.Is(err, access.ErrNotFound):
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: arm.List[tenant]{Value: []tenant{own}}}, nil
}

type subscriptionBody struct {
	Properties struct {
		DisplayName string         `json:"displayName"`
		TenantID    string         `json:"tenantId"`
		Owners      []access.Owner `json:"owners"`
	} `json:"properties"`
}

// putSubscription lets an operator of the embedded directory create a
// subscription, and whoever may write it rename it. Real subscriptions are not
// made this way, but they must come from somewhere; only operators may, or
// anybody could take the id of a stranger's. The owners in the body are short
// for role assignments: Owner, at the subscription.
func (c *ControlPlane) putSubscription(ctx context.Context, q *request) (reply, error) {
	if q.subscription.Version == 0 {
		if err := q.checkOperator(ctx); err != nil {
			return reply{}, err
		}
	} else if err := q.require(ctx, q.action(), q.subscription.Value.ID); err != nil {
		return reply{}, err
	}
	var body subscriptionBody
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	want, err := wantSubscription(q, body)
	if err != nil {
		return reply{}, err
	}
	owners, err := c.planOwners(ctx, q, want, body.Properties.Owners)
	if err != nil {
		return reply{}, err
	}
	status, change := http.StatusOK, c.store.Subscriptions.Creating(want)
	if q.subscription.Version == 0 {
		status = http.StatusCreated
	} else {
		change = c.store.Subscriptions.Updating(q.subscription, want)
	}
	if err := q.allow(owners.detail()); err != nil {
		return reply{}, err
	}
	if _, err := q.commit(ctx, append(owners.changes, change)...); err != nil {
		return reply{}, err
	}
	return reply{status: status, body: arm.NewSubscription(want)}, nil
}

// ownersPlan is how the Owner assignments of a subscription become those that a
// PUT asks for.
type ownersPlan struct {
	added, removed []access.Owner
	changes        []store.Change
}

// detail is for the audit log: who was added and who removed, nil for nobody.
func (p ownersPlan) detail() any {
	detail := map[string]any{}
	if len(p.added) > 0 {
		detail["ownersAdded"] = p.added
	}
	if len(p.removed) > 0 {
		detail["ownersRemoved"] = p.removed
	}
	if len(detail) == 0 {
		return nil
	}
	return detail
}

// planOwners leaves the owners alone where the body has none, but for a new
// subscription, which is at least its creator's. The caller stays an owner:
// nobody locks himself out by a slip.
func (c *ControlPlane) planOwners(ctx context.Context, q *request, sub access.Subscription, owners []access.Owner) (ownersPlan, error) {
	var plan ownersPlan
	if owners == nil && q.subscription.Version != 0 {
		return plan, nil
	}
	var want []access.Owner
	for _, o := range append(slices.Clone(owners), access.Owner{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID}) {
		if !access.IsGUID(o.TenantID) || !access.IsGUID(o.ObjectID) {
			return plan, arm.InvalidParameter("properties.owners", "tenantId '%s' and objectId '%s' must both be GUIDs.", access.Clip(o.TenantID, 100), access.Clip(o.ObjectID, 100))
		}
		if !slices.ContainsFunc(want, o.Equal) {
			want = append(want, o)
		}
	}
	have, _, err := c.store.RoleAssignments.List(ctx, store.AssignmentsAt(sub.ID))
	if err != nil {
		return plan, err
	}
	var kept []access.Owner
	for _, item := range have {
		o := access.Owner{TenantID: item.Value.TenantID, ObjectID: item.Value.PrincipalID}
		switch {
		case !strings.EqualFold(item.Value.Role, access.OwnerRole):
		case slices.ContainsFunc(want, o.Equal):
			kept = append(kept, o)
		default:
			plan.removed = append(plan.removed, o)
			plan.changes = append(plan.changes, c.store.RoleAssignments.Deleting(item))
		}
	}
	for _, o := range want {
		if !slices.ContainsFunc(kept, o.Equal) {
			plan.added = append(plan.added, o)
			plan.changes = append(plan.changes, c.store.RoleAssignments.Creating(access.NewOwner(newID(), sub.ID, o, q.caller.ObjectID, c.cfg.Now())))
		}
	}
	if q.subscription.Version == 0 {
		return plan, nil
	}
	if len(plan.added) > 0 {
		err = q.require(ctx, access.RoleAssignmentType+"/write", sub.ID)
	}
	if err == nil && len(plan.removed) > 0 {
		err = q.require(ctx, access.RoleAssignmentType+"/delete", sub.ID)
	}
	return plan, err
}

func wantSubscription(q *request, body subscriptionBody) (access.Subscription, error) {
	want := q.subscription.Value
	p := body.Properties
	if want.ID.IsZero() {
		id, err := access.ParseResourceID("/subscriptions/" + q.vars["subscription"])
		if err != nil {
			return want, err
		}
		want = access.Subscription{ID: id, DisplayName: id.Name(), TenantID: q.caller.TenantID, Created: q.c.cfg.Now()}
		if p.TenantID != "" {
			want.TenantID = p.TenantID
		}
	} else if p.TenantID != "" && p.TenantID != want.TenantID {
		return want, arm.InvalidParameter("properties.tenantId", "'%s' cannot replace '%s': a subscription stays in its tenant.", p.TenantID, want.TenantID)
	}
	if !access.IsGUID(want.TenantID) {
		return want, arm.InvalidParameter("properties.tenantId", "'%s' is not a GUID.", access.Clip(want.TenantID, 100))
	}
	if p.DisplayName != "" {
		want.DisplayName = access.Clip(p.DisplayName, 256)
	}
	return want, nil
}

// checkOperator admits the embedded directory's operators: the application's
// tenant, client id and object id must all be the caller's.
func (q *request) checkOperator(ctx context.Context) error {
	if q.caller.AppID == "" || !q.caller.Resource.IsZero() {
		return q.forbidden()
	}
	app, err := q.c.store.Applications.Get(ctx, q.caller.AppID)
	if errors.Is(err, access.ErrNotFound) || errors.Is(err, access.ErrInvalid) {
		return q.forbidden()
	}
	if err != nil {
		return err
	}
	if !isOperator(app.Value, q.caller) {
		return q.forbidden()
	}
	return nil
}

func isOperator(app store.Application, p access.Principal) bool {
	return app.Operator && app.TenantID == p.TenantID && app.ClientID == p.AppID && app.ObjectID == p.ObjectID
}
