package graph

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// typed marks an object with its type, as lists of several kinds do.
func typed(o object, kind string) object {
	o["@odata.type"] = kind
	return o
}

// objects returns those of the tenant's objects that have these ids. Ids of
// nothing are left out.
func (q *request) objects(ids []string) ([]object, error) {
	var found []object
	var principals []object
	for _, id := range ids {
		if !access.IsGUID(id) {
			continue
		}
		user, err := q.store.Users.Get(q.ctx, id)
		if err == nil && strings.EqualFold(user.Value.TenantID, q.tenant) {
			found = append(found, typed(showUser(user.Value), odataUser))
			continue
		}
		if err != nil && !errors.Is(err, access.ErrNotFound) {
			return nil, err
		}
		group, err := q.store.UserGroups.Get(q.ctx, id)
		if err == nil && strings.EqualFold(group.Value.TenantID, q.tenant) {
			found = append(found, typed(showGroup(group.Value), odataGroup))
			continue
		}
		if err != nil && !errors.Is(err, access.ErrNotFound) {
			return nil, err
		}
		if principals == nil {
			if principals, err = q.programs(); err != nil {
				return nil, err
			}
		}
		for _, o := range principals {
			if strings.EqualFold(idOf(o), id) {
				found = append(found, o)
			}
		}
	}
	return found, nil
}

// programs are all service principals and applications, marked with their types.
func (q *request) programs() ([]object, error) {
	principals, err := q.principals()
	if err != nil {
		return nil, err
	}
	all := []object{}
	for _, p := range principals {
		all = append(all, typed(p.show(), odataPrincipal))
	}
	apps, err := q.applications()
	for _, item := range apps {
		all = append(all, typed(showApplication(item.Value), odataApplication))
	}
	return all, err
}

func getDirectoryObject(q *request) (reply, error) {
	found, err := q.objects([]string{q.vars["object"]})
	if err != nil {
		return reply{}, err
	}
	if len(found) == 0 {
		return reply{}, notFound(q.vars["object"])
	}
	return q.one(found[0], "directoryObjects")
}

// postGetByIDs answers what az asks to put names to the ids of role assignments.
func postGetByIDs(q *request) (reply, error) {
	ids, refusal := stringsOf(q.body, "ids")
	if refusal != nil {
		return reply{}, refusal
	}
	types, refusal := stringsOf(q.body, "types")
	if refusal != nil {
		return reply{}, refusal
	}
	found, err := q.objects(ids)
	if err != nil {
		return reply{}, err
	}
	found = slices.DeleteFunc(found, func(o object) bool {
		kind, _ := o["@odata.type"].(string)
		return len(types) > 0 && !slices.ContainsFunc(types, func(t string) bool {
			return strings.EqualFold(t, "directoryObject") || strings.EqualFold("#microsoft.graph."+t, kind)
		})
	})
	if found == nil {
		found = []object{}
	}
	return reply{http.StatusOK, object{"@odata.context": q.base + "/$metadata#directoryObjects", "value": found}}, nil
}

// subject is the id of the object whose groups are asked for: the path's, which
// must exist, or the caller's.
func (q *request) subject() (string, error) {
	if name := q.vars["user"]; name != "" {
		item, err := q.user(name)
		return item.Value.ObjectID, err
	}
	id := q.vars["object"] + q.vars["group"]
	if id == "" {
		return q.caller.ObjectID, nil
	}
	found, err := q.objects([]string{id})
	if err == nil && len(found) == 0 {
		err = notFound(id)
	}
	return strings.ToLower(id), err
}

// listMemberOf lists the groups that an object is in: at once, or for
// transitiveMemberOf through others as well.
func listMemberOf(q *request) (reply, error) {
	id, err := q.subject()
	if err != nil {
		return reply{}, err
	}
	var ids []string
	if strings.Contains(strings.ToLower(q.http.URL.Path), "/transitivememberof") {
		if ids, err = q.cfg.Directory.Groups(q.ctx, q.tenant, id); err != nil {
			return reply{}, err
		}
	} else {
		groups, err := q.groups()
		if err != nil {
			return reply{}, err
		}
		for _, item := range groups {
			if slices.Contains(item.Value.Members, id) {
				ids = append(ids, item.Value.ObjectID)
			}
		}
	}
	all, err := q.objects(ids)
	if err != nil {
		return reply{}, err
	}
	return q.list(all, "directoryObjects")
}

// postMemberGroups answers the ids of all groups that an object is in; what
// asks for them when a token has no room (spec/identity.md 4.4).
func postMemberGroups(q *request) (reply, error) {
	id, err := q.subject()
	if err != nil {
		return reply{}, err
	}
	groups, err := q.cfg.Directory.Groups(q.ctx, q.tenant, id)
	if err != nil {
		return reply{}, err
	}
	return q.values(groups), nil
}

// postCheckGroups answers which of some groups an object is in.
func postCheckGroups(q *request) (reply, error) {
	asked, refusal := stringsOf(q.body, "groupIds")
	if refusal != nil {
		return reply{}, refusal
	}
	id, err := q.subject()
	if err != nil {
		return reply{}, err
	}
	groups, err := q.cfg.Directory.Groups(q.ctx, q.tenant, id)
	if err != nil {
		return reply{}, err
	}
	return q.values(slices.DeleteFunc(groups, func(g string) bool {
		return !slices.ContainsFunc(asked, func(a string) bool { return strings.EqualFold(a, g) })
	})), nil
}

func (q *request) values(list []string) reply {
	return reply{http.StatusOK, object{"@odata.context": q.base + "/$metadata#Collection(Edm.String)", "value": orEmpty(list)}}
}

// listOwned lists the groups that the caller owns; owners of other things are
// not kept.
func listOwned(q *request) (reply, error) {
	groups, err := q.groups()
	if err != nil {
		return reply{}, err
	}
	var all []object
	for _, item := range groups {
		if slices.Contains(item.Value.Owners, q.caller.ObjectID) {
			all = append(all, typed(showGroup(item.Value), odataGroup))
		}
	}
	return q.list(all, "directoryObjects")
}
