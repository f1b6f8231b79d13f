package graph

import (
	"net/http"
	"slices"
	"strings"
)

// route is one row of the table.
type route struct {
	method  string
	pattern string // segments; {name} is any one
	write   bool   // by operators only, and recorded
	serve   func(*request) (reply, error)
}

// table is all that is served.
func table() []route {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	return []route{
		{get, "oidc/userinfo", false, getUserinfo},
		{get, "organization", false, getOrganization},
		{get, "domains", false, getDomains},

		{get, "me", false, getMe},
		{get, "me/memberOf", false, listMemberOf},
		{get, "me/transitiveMemberOf", false, listMemberOf},
		{get, "me/ownedObjects", false, listOwned},
		{post, "me/getMemberGroups", false, postMemberGroups},
		{post, "me/getMemberObjects", false, postMemberGroups},
		{post, "me/checkMemberGroups", false, postCheckGroups},

		{get, "users", false, listUsers},
		{post, "users", true, postUser},
		{get, "users/{user}", false, getUser},
		{patch, "users/{user}", true, patchUser},
		{del, "users/{user}", true, deleteUser},
		{get, "users/{user}/memberOf", false, listMemberOf},
		{get, "users/{user}/transitiveMemberOf", false, listMemberOf},
		{post, "users/{user}/getMemberGroups", false, postMemberGroups},
		{post, "users/{user}/getMemberObjects", false, postMemberGroups},
		{post, "users/{user}/checkMemberGroups", false, postCheckGroups},

		{get, "groups", false, listGroups},
		{post, "groups", true, postGroup},
		{get, "groups/{group}", false, getGroup},
		{patch, "groups/{group}", true, patchGroup},
		{del, "groups/{group}", true, deleteGroup},
		{get, "groups/{group}/{list}", false, listGroupRefs}, // members, owners
		{post, "groups/{group}/{list}/$ref", true, postGroupRef},
		{del, "groups/{group}/{list}/{object}/$ref", true, deleteGroupRef},
		{post, "groups/{object}/getMemberGroups", false, postMemberGroups},
		{post, "groups/{object}/getMemberObjects", false, postMemberGroups},

		{get, "applications", false, listApplications},
		{post, "applications", true, postApplication},
		{get, "applications/{application}", false, getApplication},
		{patch, "applications/{application}", true, patchApplication},
		{del, "applications/{application}", true, deleteApplication},
		{get, "applications/{application}/owners", false, listNone},
		{post, "applications/{application}/addPassword", true, postAddPassword},
		{post, "applications/{application}/removePassword", true, postRemovePassword},

		{get, "servicePrincipals", false, listServicePrincipals},
		{post, "servicePrincipals", true, postServicePrincipal},
		{get, "servicePrincipals/{principal}", false, getServicePrincipal},
		{patch, "servicePrincipals/{principal}", true, patchServicePrincipal},
		{del, "servicePrincipals/{principal}", true, deleteServicePrincipal},
		{get, "servicePrincipals/{principal}/owners", false, listNone},
		{get, "servicePrincipals/{principal}/appRoleAssignments", false, listNone},
		{get, "servicePrincipals/{object}/memberOf", false, listMemberOf},
		{get, "servicePrincipals/{object}/transitiveMemberOf", false, listMemberOf},
		{post, "servicePrincipals/{object}/getMemberGroups", false, postMemberGroups},
		{post, "servicePrincipals/{object}/getMemberObjects", false, postMemberGroups},
		{post, "servicePrincipals/{principal}/addPassword", true, postAddPassword},
		{post, "servicePrincipals/{principal}/removePassword", true, postRemovePassword},

		{post, "directoryObjects/getByIds", false, postGetByIDs},
		{get, "directoryObjects/{object}", false, getDirectoryObject},
		{post, "directoryObjects/{object}/getMemberGroups", false, postMemberGroups},
		{post, "directoryObjects/{object}/getMemberObjects", false, postMemberGroups},
		{post, "directoryObjects/{object}/checkMemberGroups", false, postCheckGroups},
	}
}

// match finds the route of a request. Without one, allowed holds the methods
// that the path is served with.
func match(routes []route, method string, path []string) (found *route, vars map[string]string, allowed []string) {
	for i, rt := range routes {
		vars, ok := rt.match(path)
		if !ok {
			continue
		}
		if rt.method == method {
			return &routes[i], vars, nil
		}
		if !slices.Contains(allowed, rt.method) {
			allowed = append(allowed, rt.method)
		}
	}
	return nil, nil, allowed
}

// match compares literal segments in any casing, as OData does. A name may also
// be given by an alternate key: applications(appId='...').
func (rt route) match(path []string) (map[string]string, bool) {
	pattern := strings.Split(rt.pattern, "/")
	path = slices.Clone(path)
	for i, segment := range path {
		if collection, key, ok := strings.Cut(segment, "("); ok && strings.HasSuffix(key, ")") {
			path = slices.Replace(path, i, i+1, collection, "("+key)
			break
		}
	}
	if len(path) != len(pattern) {
		return nil, false
	}
	vars := map[string]string{}
	for i, want := range pattern {
		if name, ok := strings.CutPrefix(want, "{"); ok {
			vars[strings.TrimSuffix(name, "}")] = path[i]
			continue
		}
		if !strings.EqualFold(want, path[i]) {
			return nil, false
		}
	}
	return vars, true
}

func writes(routes []route, method, pattern string) bool {
	return slices.ContainsFunc(routes, func(rt route) bool { return rt.method == method && rt.pattern == pattern && rt.write })
}
