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

// reserved are namespaces whose resources are not generic: they have routes
// of their own here, or would be mistaken for something that decides.
var reserved = [...]string{"Microsoft.ContainerService", "Microsoft.Resources", "Microsoft.Authorization", "Microsoft.Features", "Sallyport.Gateway"}

// isReserved tells of namespace/type[/name...].
func isReserved(resource string) bool {
	namespace, _, _ := strings.Cut(resource, "/")
	return slices.ContainsFunc(reserved[:], func(r string) bool { return strings.EqualFold(r, namespace) })
}

// resource loads the path's generic resource.
func (q *request) resource(ctx context.Context) (store.Item[access.Resource], error) {
	id, err := q.resourceID()
	if err != nil {
		return store.Item[access.Resource]{}, err
	}
	item, err := q.c.store.Resources.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) {
		return item, arm.ResourceNotFound(id)
	}
	return item, err
}

func (c *ControlPlane) getResource(ctx context.Context, q *request) (reply, error) {
	item, err := q.resource(ctx)
	if err != nil {
		return reply{}, err
	}
	body, err := arm.NewResource(item.Value)
	return reply{status: http.StatusOK, body: body}, err
}

// listResources lists one type, in a group or in the whole subscription.
func (c *ControlPlane) listResources(ctx context.Context, q *request) (reply, error) {
	if isReserved(q.vars["type"]) {
		return reply{}, arm.NoRoute(q.path)
	}
	return c.resourcesOf(ctx, q, func(r access.Resource) bool {
		parent := strings.ToLower(q.path.String()) + "/"
		if q.vars["group"] == "" && len(q.path) == 5 { // /subscriptions/{s}/providers/{ns}/{type}: in all groups
			return r.ID.IsType(q.path.Type())
		}
		return r.ID.IsType(q.path.Type()) && strings.HasPrefix(r.ID.Key(), parent)
	})
}

// listAllResources lists every generic resource of a group or subscription.
func (c *ControlPlane) listAllResources(ctx context.Context, q *request) (reply, error) {
	return c.resourcesOf(ctx, q, func(access.Resource) bool { return true })
}

func (c *ControlPlane) resourcesOf(ctx context.Context, q *request, keep func(access.Resource) bool) (reply, error) {
	within := q.subscription.Value.ID.Key() + "/"
	if q.vars["group"] != "" {
		group, err := q.group(ctx)
		if err != nil {
			return reply{}, err
		}
		within = group.Value.ID.Key() + "/"
	}
	items, _, err := c.store.Resources.List(ctx, within)
	if err != nil {
		return reply{}, err
	}
	var kept []access.Resource
	for _, item := range items {
		if keep(item.Value) {
			kept = append(kept, item.Value)
		}
	}
	return documents(q, kept, func(r access.Resource) string { return r.ID.Key() }, arm.NewResource)
}

// documents answers a page of things that are shown as documents.
func documents[T any](q *request, things []T, key func(T) string, show func(T) (arm.Document, error)) (reply, error) {
	page, err := arm.Paginate(q.http, things, arm.PageSize, key)
	if err != nil {
		return reply{}, err
	}
	shown := arm.List[arm.Document]{Value: make([]arm.Document, len(page.Value)), NextLink: page.NextLink}
	for i, thing := range page.Value {
		if shown.Value[i], err = show(thing); err != nil {
			return reply{}, err
		}
	}
	return reply{status: http.StatusOK, body: shown}, nil
}

type resourceBody struct {
	Location string `json:"location"`
	Identity *struct {
		Type string `json:"type"`
	} `json:"identity"`
}

// putResource keeps a resource of any other provider: something that can be
// the source of a binding. Asking for a system-assigned identity gives it one,
// whose object id is new with each creation of the resource.
func (c *ControlPlane) putResource(ctx context.Context, q *request) (reply, error) {
	id, err := q.resourceID()
	if err != nil {
		return reply{}, err
	}
	text, err := arm.ReadBody(q.w, q.http)
	if err != nil {
		return reply{}, err
	}
	var body resourceBody
	if err := arm.Decode(text, &body); err != nil {
		return reply{}, err
	}
	if body.Location != "" {
		if body.Location, err = checkLocation(body.Location); err != nil {
			return reply{}, err
		}
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
		want, status, changes, err := c.planResource(ctx, q, id, body)
		if err != nil {
			return err
		}
		want.Document = kept
		shown, err := arm.NewResource(want)
		if err != nil {
			return err
		}
		answer = reply{status: status, body: shown}
		_, err = q.commit(ctx, changes(want)...)
		return err
	})
	return answer, err
}

// planResource says what the resource becomes and how that is written.
func (c *ControlPlane) planResource(ctx context.Context, q *request, id access.ResourceID, body resourceBody) (access.Resource, int, func(access.Resource) []store.Change, error) {
	fail := func(err error) (access.Resource, int, func(access.Resource) []store.Change, error) {
		return access.Resource{}, 0, nil, err
	}
	old, err := c.store.Resources.Get(ctx, id.Key())
	if err != nil && !errors.Is(err, access.ErrNotFound) {
		return fail(err)
	}
	isNew := err != nil
	want, status := old.Value, http.StatusOK
	if isNew {
		status = http.StatusCreated
		want = access.Resource{ID: id, UID: newID(), TenantID: q.subscription.Value.TenantID, Created: c.cfg.Now()}
	}
	if body.Location != "" {
		want.Location = body.Location
	}
	hasSystem := body.Identity != nil && strings.Contains(strings.ToLower(body.Identity.Type), "systemassigned")
	switch {
	case !hasSystem && body.Identity != nil:
		want.Identity = nil
	case hasSystem && want.Identity == nil:
		want.Identity = &access.Identity{ObjectID: newID(), AppID: newID()}
	}
	if !isNew {
		return want, status, func(r access.Resource) []store.Change {
			return []store.Change{c.store.Resources.Updating(old, r)}
		}, nil
	}
	var group []store.Change
	if q.vars["group"] != "" {
		item, err := q.group(ctx)
		if err != nil {
			return fail(err)
		}
		group = append(group, c.store.Groups.Updating(item, item.Value)) // see deleteGroup
	}
	return want, status, func(r access.Resource) []store.Change {
		return append(group, c.store.Resources.Creating(r), c.store.ResourceUIDs.Creating(store.ResourceUID{UID: r.UID, ID: r.ID}))
	}, nil
}

// deleteResource removes a resource and with it its identity. Bindings that
// name it stay, and admit nobody: the gateway holds their pinned object id
// against the directory, so tokens that are out already are refused too.
func (c *ControlPlane) deleteResource(ctx context.Context, q *request) (reply, error) {
	status := http.StatusOK
	err := retry(ctx, func() error {
		item, err := q.resource(ctx)
		var notFound *arm.Error
		if errors.As(err, &notFound) && notFound.Code == "ResourceNotFound" {
			status = http.StatusNoContent
			return q.allow(nil)
		}
		if err != nil {
			return err
		}
		changes := []store.Change{c.store.Resources.Deleting(item)}
		uid, err := c.store.ResourceUIDs.Get(ctx, item.Value.UID)
		switch {
		case err == nil:
			changes = append(changes, c.store.ResourceUIDs.Deleting(uid))
		case !errors.Is(err, access.ErrNotFound):
			return err
		}
		_, err = q.commit(ctx, changes...)
		return err
	})
	return reply{status: status}, err
}

type credentials struct {
	IdentityEndpoint string `json:"identityEndpoint"`
	IdentityHeader   string `json:"identityHeader"`
}

// postListCredentials gives a resource's owner what the resource itself needs
// to get tokens: the secret of the managed-identity endpoint. Whoever holds it
// is the resource, so reading it is recorded like a write.
func (c *ControlPlane) postListCredentials(ctx context.Context, q *request) (reply, error) {
	if c.cfg.IdentityHeader == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	item, err := q.resource(ctx)
	if err != nil {
		return reply{}, err
	}
	if item.Value.Identity == nil {
		return reply{}, arm.InvalidParameter("identity.type", "resource '%s' has no system-assigned identity; PUT it with identity.type 'SystemAssigned' first.", item.Value.ID)
	}
	if err := q.allow(nil); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: credentials{c.cfg.IdentityEndpoint, c.cfg.IdentityHeader(item.Value.UID)}}, nil
}
