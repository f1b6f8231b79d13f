package graph

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	odataGroup = "#microsoft.graph.group"
	// maxMembers keeps a group's record below what the store takes.
	maxMembers = 10_000
)

func showGroup(g store.Group) object {
	return object{
		"id": g.ObjectID, "displayName": g.DisplayName, "description": null(g.Description), "mailNickname": null(g.MailNickname),
		"createdDateTime": stamp(g.Created), "securityEnabled": true, "mailEnabled": false, "mail": nil, "groupTypes": []string{}, "visibility": nil,
		"securityIdentifier": nil, "onPremisesSyncEnabled": nil, "isAssignableToRole": nil, "proxyAddresses": []string{},
	}
}

func (q *request) groups() ([]store.Item[store.Group], error) {
	items, _, err := q.store.UserGroups.List(q.ctx, "")
	return slices.DeleteFunc(items, func(i store.Item[store.Group]) bool { return !strings.EqualFold(i.Value.TenantID, q.tenant) }), err
}

func listGroups(q *request) (reply, error) {
	items, err := q.groups()
	if err != nil {
		return reply{}, err
	}
	var all []object
	for _, item := range items {
		all = append(all, showGroup(item.Value))
	}
	return q.list(all, "groups")
}

func (q *request) group(id string) (store.Item[store.Group], error) {
	if !access.IsGUID(id) {
		return store.Item[store.Group]{}, notFound(id)
	}
	item, err := q.store.UserGroups.Get(q.ctx, id)
	if errors.Is(err, access.ErrNotFound) || err == nil && !strings.EqualFold(item.Value.TenantID, q.tenant) {
		return item, notFound(id)
	}
	return item, err
}

func getGroup(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	return q.one(showGroup(item.Value), "groups")
}

func postGroup(q *request) (reply, error) {
	g := store.Group{TenantID: q.tenant, ObjectID: uuid.NewString(), Created: q.cfg.Now().UTC()}
	if err := q.readGroup(&g); err != nil {
		return reply{}, err
	}
	if secure, ok, err := q.flag("securityEnabled"); err != nil || ok && !secure {
		return reply{}, badRequest("Only security groups are served: securityEnabled must be true.")
	}
	for list, to := range map[string]*[]string{"members@odata.bind": &g.Members, "owners@odata.bind": &g.Owners} {
		links, refusal := stringsOf(q.body, list)
		if refusal != nil {
			return reply{}, refusal
		}
		for _, link := range links {
			id, err := q.linked(link)
			if err != nil {
				return reply{}, err
			}
			*to = append(*to, id)
		}
	}
	if err := q.commit(object{"id": g.ObjectID, "displayName": g.DisplayName}, q.store.UserGroups.Creating(g)); err != nil {
		return reply{}, err
	}
	answer, err := q.one(showGroup(g), "groups")
	answer.status = http.StatusCreated
	return answer, err
}

func (q *request) readGroup(g *store.Group) error {
	if err := q.texts(map[string]*string{"displayName": &g.DisplayName, "description": &g.Description, "mailNickname": &g.MailNickname}); err != nil {
		return err
	}
	if g.DisplayName == "" {
		return badRequest("A value is required for property 'displayName' of resource 'Group'.")
	}
	return nil
}

func patchGroup(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	g := item.Value
	if err := q.readGroup(&g); err != nil {
		return reply{}, err
	}
	return reply{}, q.commit(object{"id": g.ObjectID}, q.store.UserGroups.Updating(item, g))
}

func deleteGroup(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	return reply{}, q.commit(object{"id": item.Value.ObjectID}, q.store.UserGroups.Deleting(item))
}

// refs is the list of a group that the path names, members or owners; nil for
// the groups it is in itself, which can only be read.
func (q *request) refs(g *store.Group) (*[]string, error) {
	switch name := strings.ToLower(q.vars["list"]); {
	case name == "members", name == "transitivemembers" && q.http.Method == http.MethodGet:
		return &g.Members, nil
	case name == "owners":
		return &g.Owners, nil
	case q.http.Method == http.MethodGet && (name == "memberof" || name == "transitivememberof"):
		return nil, nil
	}
	return nil, refuse(http.StatusNotFound, "Request_ResourceNotFound", "Resource not found for the segment '%s'.", access.Clip(q.vars["list"], 100))
}

func listGroupRefs(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	list, err := q.refs(&item.Value)
	if err != nil {
		return reply{}, err
	}
	if list == nil {
		return listMemberOf(q)
	}
	ids := *list
	if strings.EqualFold(q.vars["list"], "transitiveMembers") {
		if ids, err = q.allMembers(item.Value); err != nil {
			return reply{}, err
		}
	}
	all, err := q.objects(ids)
	if err != nil {
		return reply{}, err
	}
	return q.list(all, "directoryObjects")
}

// allMembers are those of a group and of the groups in it.
func (q *request) allMembers(g store.Group) ([]string, error) {
	items, err := q.groups()
	if err != nil {
		return nil, err
	}
	inside := map[string][]string{}
	for _, item := range items {
		inside[item.Value.ObjectID] = item.Value.Members
	}
	seen := map[string]bool{g.ObjectID: true}
	var ids []string
	for next := slices.Clone(g.Members); len(next) > 0; next = next[1:] {
		if !seen[next[0]] {
			seen[next[0]] = true
			ids = append(ids, next[0])
			next = append(next, inside[next[0]]...)
		}
	}
	return ids, nil
}

// linked returns the id that an @odata.id names:
// https://graph.microsoft.com/v1.0/directoryObjects/{id}. It must exist.
func (q *request) linked(link string) (string, error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", invalidValue("@odata.id")
	}
	id := strings.ToLower(u.Path[strings.LastIndexByte(u.Path, '/')+1:])
	if !access.IsGUID(id) {
		return "", invalidValue("@odata.id")
	}
	found, err := q.objects([]string{id})
	if err == nil && len(found) == 0 {
		err = notFound(id)
	}
	return id, err
}

func postGroupRef(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	g := item.Value
	list, err := q.refs(&g)
	if err != nil {
		return reply{}, err
	}
	v, _ := field(q.body, "@odata.id")
	link, _ := v.(string)
	id, err := q.linked(link)
	switch {
	case err != nil:
		return reply{}, err
	case slices.Contains(*list, id):
		return reply{}, badRequest("One or more added object references already exist for the following modified properties: '%s'.", strings.ToLower(q.vars["list"]))
	case len(*list) >= maxMembers:
		return reply{}, badRequest("A group has at most %d %s.", maxMembers, strings.ToLower(q.vars["list"]))
	}
	*list = append(slices.Clone(*list), id)
	return reply{}, q.commit(object{"id": g.ObjectID, "added": id}, q.store.UserGroups.Updating(item, g))
}

func deleteGroupRef(q *request) (reply, error) {
	item, err := q.group(q.vars["group"])
	if err != nil {
		return reply{}, err
	}
	g := item.Value
	list, err := q.refs(&g)
	if err != nil {
		return reply{}, err
	}
	id := strings.ToLower(q.vars["object"])
	if !slices.Contains(*list, id) {
		return reply{}, notFound(id)
	}
	*list = slices.DeleteFunc(slices.Clone(*list), func(have string) bool { return have == id })
	return reply{}, q.commit(object{"id": g.ObjectID, "removed": id}, q.store.UserGroups.Updating(item, g))
}
