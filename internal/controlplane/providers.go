package controlplane

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// namespace looks a resource provider up: one of the shipped list, or one that
// the subscription has resources of. Types of such resources are added, so
// that clients find an api-version for everything they can see.
func (q *request) namespace(ctx context.Context, name string) (arm.Namespace, error) {
	all, err := q.namespaces(ctx)
	if err != nil {
		return arm.Namespace{}, err
	}
	for _, n := range all {
		if strings.EqualFold(n.Name, name) {
			return n, nil
		}
	}
	return arm.Namespace{}, arm.NoNamespace(name)
}

func (q *request) namespaces(ctx context.Context) ([]arm.Namespace, error) {
	all := arm.Namespaces()
	if q.subscription.Version != 0 {
		items, _, err := q.c.store.Resources.List(ctx, q.subscription.Value.ID.Key()+"/")
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			all = withType(all, item.Value.ID.Type())
		}
	}
	slices.SortFunc(all, func(a, b arm.Namespace) int {
		return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return all, nil
}

func withType(all []arm.Namespace, fullType string) []arm.Namespace {
	name, typ, _ := strings.Cut(fullType, "/")
	for i := range all {
		if strings.EqualFold(all[i].Name, name) {
			all[i] = all[i].With(typ)
			return all
		}
	}
	return append(all, arm.Namespace{Name: name}.With(typ))
}

func (c *ControlPlane) listProviders(ctx context.Context, q *request) (reply, error) {
	all, err := q.namespaces(ctx)
	if err != nil {
		return reply{}, err
	}
	scope := ""
	states := map[string]access.RegistrationState{}
	if q.subscription.Version != 0 {
		scope = q.subscription.Value.ID.String()
		items, _, err := c.store.Registrations.List(ctx, q.subscription.Value.ID.Key()+"/")
		if err != nil {
			return reply{}, err
		}
		for _, item := range items {
			if item.Value.Feature == "" {
				states[strings.ToLower(item.Value.Namespace)] = item.Value.State
			}
		}
	}
	locations := arm.Locations(scope)
	shown := make([]arm.Provider, len(all))
	for i, n := range all {
		shown[i] = arm.NewProvider(scope, n, cmp.Or(states[strings.ToLower(n.Name)], access.Registered), locations)
	}
	page, err := arm.Paginate(q.http, shown, arm.PageSize, func(p arm.Provider) string { return strings.ToLower(p.Namespace) })
	return reply{status: http.StatusOK, body: page}, err
}

func (c *ControlPlane) getProvider(ctx context.Context, q *request) (reply, error) {
	n, err := q.namespace(ctx, q.vars["namespace"])
	if err != nil {
		return reply{}, err
	}
	if q.subscription.Version == 0 {
		return reply{status: http.StatusOK, body: arm.NewProvider("", n, "", arm.Locations(""))}, nil
	}
	r, err := q.registration(ctx, n.Name, "")
	return reply{status: http.StatusOK, body: q.provider(n, r.Value.State)}, err
}

func (q *request) provider(n arm.Namespace, state access.RegistrationState) arm.Provider {
	scope := q.subscription.Value.ID.String()
	return arm.NewProvider(scope, n, state, arm.Locations(scope))
}

// registration reads what the subscription said of a provider or feature; what
// it said nothing of has version 0.
func (q *request) registration(ctx context.Context, namespace, feature string) (store.Item[access.Registration], error) {
	item, err := q.c.store.Registrations.Get(ctx, store.RegistrationKey(q.subscription.Value.ID, namespace, feature))
	if !errors.Is(err, access.ErrNotFound) {
		return item, err
	}
	state := access.Registered
	if feature != "" {
		state = access.NotRegistered
	}
	item.Value = access.Registration{Subscription: q.subscription.Value.ID, Namespace: namespace, Feature: feature, State: state}
	return item, nil
}

// register writes a registration, and answers what it is then. Doing it again
// changes nothing.
func (q *request) register(ctx context.Context, namespace, feature string, state access.RegistrationState) (access.Registration, error) {
	var now access.Registration
	err := retry(ctx, func() error {
		old, err := q.registration(ctx, namespace, feature)
		if err != nil {
			return err
		}
		if now = old.Value; now.State == state {
			return q.allow(nil)
		}
		now.State, now.Changed = state, q.c.cfg.Now()
		change := q.c.store.Registrations.Creating(now)
		if old.Version != 0 {
			change = q.c.store.Registrations.Updating(old, now)
		}
		_, err = q.commit(ctx, change)
		return err
	})
	return now, err
}

// postRegister registers a resource provider. It is done with the answer;
// everything is registered until it is unregistered, so that nothing has to be.
func (c *ControlPlane) postRegister(ctx context.Context, q *request) (reply, error) {
	n, err := q.namespace(ctx, q.vars["namespace"])
	if err != nil {
		return reply{}, err
	}
	r, err := q.register(ctx, n.Name, "", access.Registered)
	return reply{status: http.StatusOK, body: q.provider(n, r.State)}, err
}

// postUnregister unregisters a resource provider: what is there stays, and
// nothing more of it can be created.
func (c *ControlPlane) postUnregister(ctx context.Context, q *request) (reply, error) {
	n, err := q.namespace(ctx, q.vars["namespace"])
	if err != nil {
		return reply{}, err
	}
	r, err := q.register(ctx, n.Name, "", access.Unregistered)
	return reply{status: http.StatusOK, body: q.provider(n, r.State)}, err
}

// checkRegistered refuses a creation in a provider that was unregistered.
func (q *request) checkRegistered(ctx context.Context, namespace string) error {
	r, err := q.registration(ctx, namespace, "")
	if err == nil && r.Value.State != access.Registered {
		return arm.NotRegistered(r.Value.Namespace)
	}
	return err
}

func (c *ControlPlane) listLocations(_ context.Context, q *request) (reply, error) {
	return reply{status: http.StatusOK, body: arm.List[arm.Location]{Value: arm.Locations(q.subscription.Value.ID.String())}}, nil
}
