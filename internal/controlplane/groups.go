package controlplane

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// read parses the request's body into v.
func (q *request) read(v any) error {
	text, err := arm.ReadBody(q.w, q.http)
	if err != nil {
		return err
	}
	return arm.Decode(text, v)
}

// group loads the path's resource group.
func (q *request) group(ctx context.Context) (store.Item[access.ResourceGroup], error) {
	id, err := q.groupID()
	if err != nil {
		return store.Item[access.ResourceGroup]{}, err
	}
	item, err := q.c.store.Groups.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) {
		return item, arm.ResourceGroupNotFound(id.Name())
	}
	return item, err
}

func (c *ControlPlane) listGroups(ctx context.Context, q *request) (reply, error) {
	items, _, err := c.store.Groups.List(ctx, q.subscription.Value.ID.Key()+"/")
	if err != nil {
		return reply{}, err
	}
	filter, err := arm.ParseFilter(q.http)
	if err != nil {
		return reply{}, err
	}
	var groups []arm.Group
	for _, item := range items {
		if g := item.Value; q.mayRead(g.ID) && filter.Matches(arm.Filterable{Name: g.ID.Name(), Location: g.Location, Tags: g.Tags}) {
			groups = append(groups, arm.NewGroup(g))
		}
	}
	page, err := arm.Paginate(q.http, groups, arm.PageSize, func(g arm.Group) string { return strings.ToLower(g.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

func (c *ControlPlane) getGroup(ctx context.Context, q *request) (reply, error) {
	item, err := q.group(ctx)
	return reply{status: http.StatusOK, body: arm.NewGroup(item.Value)}, err
}

// openGroup loads the path's resource group for something to be created in it.
// The condition that the write holds to is that the group is as it was read: a
// deletion that begins meanwhile changes it, and so nothing slips in.
func (q *request) openGroup(ctx context.Context) (store.Change, error) {
	item, err := q.group(ctx)
	if err == nil && item.Value.Deletion != "" {
		err = arm.GroupBeingDeleted(item.Value.ID.Name())
	}
	return q.c.store.Groups.Unchanged(item), err
}

// headGroup is how clients ask whether a group exists.
func (c *ControlPlane) headGroup(ctx context.Context, q *request) (reply, error) {
	_, err := q.group(ctx)
	return reply{status: http.StatusNoContent}, err
}

type groupBody struct {
	Location  string            `json:"location"`
	Tags      map[string]string `json:"tags"`
	ManagedBy string            `json:"managedBy"`
}

var locationForm = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// checkLocation returns a region in its one spelling, lower case without
// spaces. It becomes a segment of operation URLs.
func checkLocation(given string) (string, error) {
	location := strings.ToLower(strings.ReplaceAll(given, " ", ""))
	if location == "" {
		return "", arm.LocationRequired()
	}
	if !locationForm.MatchString(location) {
		return "", arm.InvalidParameter("location", "'%s' must be a region such as 'westeurope': 1 to 64 letters, digits or '-'.", access.Clip(given, 100))
	}
	return location, nil
}

func (c *ControlPlane) putGroup(ctx context.Context, q *request) (reply, error) {
	id, err := q.groupID()
	if err != nil {
		return reply{}, err
	}
	if len(id.Name()) > 90 || strings.HasSuffix(id.Name(), ".") {
		return reply{}, arm.InvalidParameter("resourceGroupName", "'%s' must have 1 to 90 characters and not end in '.'.", id.Name())
	}
	var body groupBody
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	location, err := checkLocation(body.Location)
	if err != nil {
		return reply{}, err
	}
	var answer reply
	err = retry(ctx, func() error {
		old, err := c.store.Groups.Get(ctx, id.Key())
		switch {
		case errors.Is(err, access.ErrNotFound):
			want := access.ResourceGroup{ID: id, Location: location, Tags: body.Tags, ManagedBy: body.ManagedBy, Created: c.cfg.Now()}
			answer = reply{status: http.StatusCreated, body: arm.NewGroup(want)}
			_, err = q.commit(ctx, c.store.Groups.Creating(want))
			return err
		case err != nil:
			return err
		case old.Value.Deletion != "":
			return arm.GroupBeingDeleted(old.Value.ID.Name())
		case old.Value.Location != location:
			return &arm.Error{Status: http.StatusConflict, Code: "InvalidResourceGroupLocation",
				Message: "The resource group '" + id.Name() + "' already exists in location '" + old.Value.Location + "', which '" + location + "' cannot replace."}
		}
		want := old.Value
		want.Tags, want.ManagedBy = body.Tags, body.ManagedBy
		answer = reply{status: http.StatusOK, body: arm.NewGroup(want)}
		_, err = q.commit(ctx, c.store.Groups.Updating(old, want))
		return err
	})
	return answer, err
}

// patchGroup replaces the tags, and nothing else of a group can change.
func (c *ControlPlane) patchGroup(ctx context.Context, q *request) (reply, error) {
	var body struct {
		Tags *map[string]string `json:"tags"`
	}
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	var want access.ResourceGroup
	err := retry(ctx, func() error {
		old, err := q.group(ctx)
		if err != nil {
			return err
		}
		if want = old.Value; want.Deletion != "" {
			return arm.GroupBeingDeleted(want.ID.Name())
		}
		if body.Tags != nil {
			want.Tags = *body.Tags
		}
		_, err = q.commit(ctx, c.store.Groups.Updating(old, want))
		return err
	})
	return reply{status: http.StatusOK, body: arm.NewGroup(want)}, err
}
