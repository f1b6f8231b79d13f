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
	groups := make([]arm.Group, len(items))
	for i, item := range items {
		groups[i] = arm.NewGroup(item.Value)
	}
	page, err := arm.Paginate(q.http, groups, arm.PageSize, func(g arm.Group) string { return strings.ToLower(g.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

func (c *ControlPlane) getGroup(ctx context.Context, q *request) (reply, error) {
	item, err := q.group(ctx)
	return reply{status: http.StatusOK, body: arm.NewGroup(item.Value)}, err
}

// headGroup is how clients ask whether a group exists.
func (c *ControlPlane) headGroup(ctx context.Context, q *request) (reply, error) {
	_, err := q.group(ctx)
	return reply{status: http.StatusNoContent}, err
}

type groupBody struct {
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
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
			want := access.ResourceGroup{ID: id, Location: location, Tags: body.Tags, Created: c.cfg.Now()}
			answer = reply{status: http.StatusCreated, body: arm.NewGroup(want)}
			_, err = q.commit(ctx, c.store.Groups.Creating(want))
			return err
		case err != nil:
			return err
		case old.Value.Location != location:
			return &arm.Error{Status: http.StatusConflict, Code: "InvalidResourceGroupLocation",
				Message: "The resource group '" + id.Name() + "' already exists in location '" + old.Value.Location + "', which '" + location + "' cannot replace."}
		}
		want := old.Value
		want.Tags = body.Tags
		answer = reply{status: http.StatusOK, body: arm.NewGroup(want)}
		_, err = q.commit(ctx, c.store.Groups.Updating(old, want))
		return err
	})
	return answer, err
}

// deleteGroup removes an empty group. Whoever creates something in a group
// writes the group's record too, so nothing can slip into one being deleted.
func (c *ControlPlane) deleteGroup(ctx context.Context, q *request) (reply, error) {
	err := retry(ctx, func() error {
		group, err := q.group(ctx)
		if err != nil {
			return err
		}
		within := group.Value.ID.Key() + "/"
		clusters, _, err := c.store.Clusters.List(ctx, within)
		if err != nil {
			return err
		}
		resources, _, err := c.store.Resources.List(ctx, within)
		if err != nil {
			return err
		}
		var first string
		switch {
		case len(clusters) > 0:
			first = clusters[0].Value.ID.String()
		case len(resources) > 0:
			first = resources[0].Value.ID.String()
		}
		if first != "" {
			return &arm.Error{Status: http.StatusConflict, Code: "ResourceGroupNotEmpty",
				Message: "The resource group '" + group.Value.ID.Name() + "' still holds '" + first + "'; delete what it holds first."}
		}
		_, err = q.commit(ctx, c.store.Groups.Deleting(group))
		return err
	})
	return reply{status: http.StatusOK}, err
}
