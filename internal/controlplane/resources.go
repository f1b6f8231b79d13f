package controlplane

import (
	"context"
	"errors"
	"fmt"
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
	return showResource(http.StatusOK, item.Value)
}

func showResource(status int, r access.Resource) (reply, error) {
	body, err := arm.NewResource(r)
	return reply{status: status, body: body, header: map[string]string{"ETag": arm.ETag(arm.ResourceETag(r))}}, err
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

// headResource is how clients ask whether a resource exists.
func (c *ControlPlane) headResource(ctx context.Context, q *request) (reply, error) {
	_, err := q.resource(ctx)
	return reply{status: http.StatusNoContent}, err
}

type resourceBody struct {
	Location string        `json:"location"`
	Identity *identityBody `json:"identity"`
}

// readResource parses a body, and what of it the server acts on.
func (q *request) readResource() (map[string]any, resourceBody, error) {
	var body resourceBody
	text, err := arm.ReadBody(q.w, q.http)
	if err == nil {
		err = arm.Decode(text, &body)
	}
	if err == nil && body.Location != "" {
		body.Location, err = checkLocation(body.Location)
	}
	if err != nil {
		return nil, body, err
	}
	doc, err := arm.ParseDocument(text)
	return doc, body, err
}

// putResource keeps a resource of any other provider: something that can be
// the source of a binding. Asking for a system-assigned identity gives it one,
// whose object id is new with each creation of the resource.
func (c *ControlPlane) putResource(ctx context.Context, q *request) (reply, error) {
	id, err := q.resourceID()
	if err != nil {
		return reply{}, err
	}
	doc, body, err := q.readResource()
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
		if answer, err = showResource(status, want); err != nil {
			return err
		}
		_, err = q.commit(ctx, changes(want)...)
		return err
	})
	return answer, err
}

// patchResource merges a body into a resource: its members replace those that
// are there, properties one by one and tags as a whole.
func (c *ControlPlane) patchResource(ctx context.Context, q *request) (reply, error) {
	id, err := q.resourceID()
	if err != nil {
		return reply{}, err
	}
	doc, body, err := q.readResource()
	if err != nil {
		return reply{}, err
	}
	var answer reply
	err = retry(ctx, func() error {
		old, err := q.resource(ctx)
		if err != nil {
			return err
		}
		want, _, changes, err := c.planResource(ctx, q, id, body)
		if err != nil {
			return err
		}
		if want.Document, err = arm.PatchDocument(old.Value.Document, doc); err != nil {
			return err
		}
		if answer, err = showResource(http.StatusOK, want); err != nil {
			return err
		}
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
	var held []store.Change // conditions beside the resource itself
	if q.vars["group"] != "" {
		group, err := q.openGroup(ctx)
		if err != nil {
			return fail(err)
		}
		held = append(held, group)
	}
	want, status := old.Value, http.StatusOK
	if isNew {
		status = http.StatusCreated
		want = access.Resource{ID: id, UID: newID(), TenantID: q.subscription.Value.TenantID, Created: c.cfg.Now()}
		parent, err := q.openParent(ctx, id)
		if err != nil {
			return fail(err)
		}
		held = append(held, parent...)
	}
	if err := arm.CheckMatch(q.http, etagOf(old)); err != nil {
		return fail(err)
	}
	if body.Location != "" {
		want.Location = body.Location
	}
	uses, unchanged, err := q.planUses(ctx, body.Identity, want.Uses)
	if err != nil {
		return fail(err)
	}
	want.Uses, held = uses, append(held, unchanged...)
	hasSystem := body.Identity.has("SystemAssigned")
	switch {
	case id.IsType(access.UserAssignedType):
		if want.Location == "" {
			return fail(arm.LocationRequired())
		}
		if want.Uses = nil; want.Identity == nil {
			want.Identity = &access.Identity{ObjectID: newID(), AppID: newID()}
		}
	case !hasSystem && body.Identity != nil:
		want.Identity = nil
	case hasSystem && want.Identity == nil:
		want.Identity = &access.Identity{ObjectID: newID(), AppID: newID()}
	}
	return want, status, func(r access.Resource) []store.Change {
		if isNew {
			return append(held, c.store.Resources.Creating(r), c.store.ResourceUIDs.Creating(store.ResourceUID{UID: r.UID, ID: r.ID}))
		}
		return append(held, c.store.Resources.Updating(old, r))
	}, nil
}

// openParent holds a new resource to what it is created below: the provider's
// registration, and in a group the parent resource.
func (q *request) openParent(ctx context.Context, id access.ResourceID) ([]store.Change, error) {
	namespace, _, _ := strings.Cut(id.Type(), "/")
	if err := q.checkRegistered(ctx, namespace); err != nil {
		return nil, err
	}
	parent := id.Parent()
	// Those of the subscription, such as Microsoft.Security/pricings, are there
	// without anybody having created them.
	if id.ResourceGroup() == "" || parent.Type() == "" {
		return nil, nil
	}
	item, err := q.c.store.Resources.Get(ctx, parent.Key())
	if errors.Is(err, access.ErrNotFound) {
		return nil, arm.ParentNotFound(id)
	}
	return []store.Change{q.c.store.Resources.Unchanged(item)}, err
}

// etagOf is the entity tag of a resource as it was read, "" for none.
func etagOf(item store.Item[access.Resource]) string {
	if item.Version == 0 {
		return ""
	}
	return arm.ResourceETag(item.Value)
}

// deleteResource removes a resource with its children, and with each its
// identity. Bindings that name one stay, and admit nobody: the gateway holds
// their pinned object id against the directory, so tokens that are out already
// are refused too.
func (c *ControlPlane) deleteResource(ctx context.Context, q *request) (reply, error) {
	status := http.StatusOK
	var gone access.Resource
	err := retry(ctx, func() error {
		item, err := q.resource(ctx)
		var notFound *arm.Error
		if errors.As(err, &notFound) && notFound.Code == "ResourceNotFound" && q.http.Header.Get("If-Match") == "" {
			status = http.StatusNoContent
			return q.allow(nil)
		}
		if err != nil {
			return err
		}
		if err := arm.CheckMatch(q.http, etagOf(item)); err != nil {
			return err
		}
		children, _, err := c.store.Resources.List(ctx, item.Value.ID.Key()+"/")
		if err != nil {
			return err
		}
		if len(children) > maxChildren {
			return &arm.Error{Status: http.StatusConflict, Code: "NestedResourcesExist",
				Message: fmt.Sprintf("'%s' has %d child resources, more than the %d that are deleted with it; delete those first.", item.Value.ID, len(children), maxChildren)}
		}
		var changes []store.Change
		for _, one := range append(children, item) {
			removing, err := c.removingResource(ctx, one)
			if err != nil {
				return err
			}
			changes = append(changes, removing...)
		}
		gone = item.Value
		if err := q.allow(nil); err != nil {
			return err
		}
		unassigned, err := c.removingAssignments(ctx, gone.ID)
		if err != nil {
			return err
		}
		_, err = q.commit(ctx, append(changes, unassigned)...)
		return err
	})
	if err == nil && gone.UID != "" { // a connected cluster may have some
		if err := c.forgetExtensions(ctx, gone.ID, gone.UID); err != nil {
			c.log.Warn("extensions of a deleted cluster are left", "cluster", gone.ID.String(), "error", err)
		}
	}
	return reply{status: status}, err
}

// maxChildren keeps a resource's delete, two changes for each child, below the
// 128 that one transaction of the store can hold.
const maxChildren = 60

// removingResource is what takes a resource away, and the way to find it by
// its identity.
func (c *ControlPlane) removingResource(ctx context.Context, item store.Item[access.Resource]) ([]store.Change, error) {
	changes := []store.Change{c.store.Resources.Deleting(item)}
	uid, err := c.store.ResourceUIDs.Get(ctx, item.Value.UID)
	switch {
	case err == nil:
		changes = append(changes, c.store.ResourceUIDs.Deleting(uid))
	case !errors.Is(err, access.ErrNotFound):
		return nil, err
	}
	if !item.Value.ID.IsType(access.UserAssignedType) {
		return changes, nil
	}
	trusted, _, err := c.store.FederatedCredentials.List(ctx, item.Key+"/")
	for _, credential := range trusted {
		changes = append(changes, c.store.FederatedCredentials.Deleting(credential))
	}
	return changes, err
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
	if item.Value.ID.IsType(access.UserAssignedType) {
		return reply{}, arm.InvalidParameter("id", "'%s' is an identity itself, and asks for no tokens; a resource that uses it does.", item.Value.ID)
	}
	if item.Value.Identity == nil && len(item.Value.Uses) == 0 {
		return reply{}, arm.InvalidParameter("identity.type", "resource '%s' has no system-assigned identity; PUT it with identity.type 'SystemAssigned' first.", item.Value.ID)
	}
	if err := q.allow(nil); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: credentials{c.cfg.IdentityEndpoint, c.cfg.IdentityHeader(item.Value.UID)}}, nil
}
