package controlplane

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
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

// listSubscriptions shows a caller the subscriptions that it owns.
func (c *ControlPlane) listSubscriptions(ctx context.Context, q *request) (reply, error) {
	items, _, err := c.store.Subscriptions.List(ctx, "")
	if err != nil {
		return reply{}, err
	}
	var mine []arm.Subscription
	for _, item := range items {
		if item.Value.OwnedBy(q.caller) {
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

// listTenants shows a caller its own tenant, the one that its token is of.
func (c *ControlPlane) listTenants(_ context.Context, q *request) (reply, error) {
	id := q.caller.TenantID
	own := tenant{ID: "/tenants/" + id, TenantID: id, DisplayName: "Sallyport", DefaultDomain: id, Domains: []string{id}, TenantCategory: "Home", CountryCode: "ZZ"}
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
// subscription, and its owners rename it or replace its owners. Real
// subscriptions are not made this way, but they must come from somewhere; only
// operators may, or anybody could take the id of a stranger's.
func (c *ControlPlane) putSubscription(ctx context.Context, q *request) (reply, error) {
	isNew := q.subscription.Version == 0
	if isNew {
		if err := q.checkOperator(ctx); err != nil {
			return reply{}, err
		}
	} else if !q.subscription.Value.OwnedBy(q.caller) {
		return reply{}, q.forbidden()
	}
	var body subscriptionBody
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	want, err := wantSubscription(q, body)
	if err != nil {
		return reply{}, err
	}
	status, change := http.StatusOK, c.store.Subscriptions.Creating(want)
	if isNew {
		status = http.StatusCreated
	} else {
		change = c.store.Subscriptions.Updating(q.subscription, want)
	}
	if err := q.allow(ownersChanged(q.subscription.Value.Owners, want.Owners)); err != nil {
		return reply{}, err
	}
	if _, err := q.commit(ctx, change); err != nil {
		return reply{}, err
	}
	return reply{status: status, body: arm.NewSubscription(want)}, nil
}

// ownersChanged is the audit log's detail of who was added to a subscription's
// owners and who removed, nil for nobody.
func ownersChanged(old, want []access.Owner) any {
	without := func(all, some []access.Owner) []access.Owner {
		return slices.DeleteFunc(slices.Clone(all), func(o access.Owner) bool {
			return slices.ContainsFunc(some, func(p access.Owner) bool {
				return strings.EqualFold(o.TenantID, p.TenantID) && strings.EqualFold(o.ObjectID, p.ObjectID)
			})
		})
	}
	detail := map[string]any{}
	if added := without(want, old); len(added) > 0 {
		detail["ownersAdded"] = added
	}
	if removed := without(old, want); len(removed) > 0 {
		detail["ownersRemoved"] = removed
	}
	if len(detail) == 0 {
		return nil
	}
	return detail
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
	if p.Owners == nil && want.Owners != nil {
		return want, nil
	}
	want.Owners = nil
	for _, o := range p.Owners {
		if !access.IsGUID(o.TenantID) || !access.IsGUID(o.ObjectID) {
			return want, arm.InvalidParameter("properties.owners", "tenantId '%s' and objectId '%s' must both be GUIDs.", access.Clip(o.TenantID, 100), access.Clip(o.ObjectID, 100))
		}
		want.Owners = append(want.Owners, o)
	}
	// The caller stays an owner: nobody locks himself out by a slip.
	if self := (access.Owner{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID}); !slices.Contains(want.Owners, self) {
		want.Owners = append(want.Owners, self)
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
