package graph

import (
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

const odataPrincipal = "#microsoft.graph.servicePrincipal"

// microsoftTenant owns Microsoft's own applications.
const microsoftTenant = "f8cdef31-a31e-4b4a-93e4-5f571e91255a"

// principal is a service principal of one of three kinds.
type principal struct {
	app      store.Item[store.Application] // version 0: Microsoft's own
	resource *access.Resource              // whose managed identity it is; nil for an application
}

func (p principal) id() string {
	if p.resource != nil {
		return p.resource.Identity.ObjectID
	}
	return p.app.Value.ObjectID
}

func (p principal) show() object {
	o := object{
		"accountEnabled": true, "appOwnerOrganizationId": nil, "appRoleAssignmentRequired": false, "appRoles": []string{}, "homepage": nil,
		"keyCredentials": []object{}, "passwordCredentials": []object{}, "replyUrls": []string{}, "tags": []string{}, "alternativeNames": []string{},
		"oauth2PermissionScopes": []object{}, "signInAudience": nil, "servicePrincipalType": "Application", "description": nil, "notes": nil,
	}
	if r := p.resource; r != nil {
		explicit := "isExplicit=False"
		if r.ID.IsType(access.UserAssignedType) {
			explicit = "isExplicit=True"
		}
		names := []string{r.Identity.AppID, "https://identity.azure.net/" + r.Identity.AppID}
		merge(o, object{
			"id": r.Identity.ObjectID, "appId": r.Identity.AppID, "displayName": r.ID.Name(), "appDisplayName": nil, "createdDateTime": stamp(r.Created),
			"servicePrincipalType": "ManagedIdentity", "servicePrincipalNames": names, "alternativeNames": []string{explicit, r.ID.String()},
		})
		return o
	}
	a := p.app.Value
	owner := a.TenantID
	if p.app.Version == 0 {
		owner = microsoftTenant
	}
	scopes := []object{}
	for _, name := range a.Scopes {
		scopes = append(scopes, object{"id": uuid.NewSHA1(uuid.NameSpaceURL, []byte(a.ClientID+"/"+name)).String(), "value": name, "type": "User", "isEnabled": true})
	}
	merge(o, object{
		"id": a.ObjectID, "appId": a.ClientID, "displayName": a.Name, "appDisplayName": a.Name, "createdDateTime": stamp(a.Created),
		"accountEnabled": !a.Disabled, "appOwnerOrganizationId": owner, "signInAudience": "AzureADMyOrg", "replyUrls": orEmpty(a.RedirectURIs),
		"servicePrincipalNames": append([]string{a.ClientID}, a.IdentifierURIs...), "oauth2PermissionScopes": scopes,
		"passwordCredentials": showSecrets(a), "keyCredentials": showCertificates(a),
	})
	return o
}

// principals are all of the tenant: of applications, Microsoft's own, and the
// managed identities of resources.
func (q *request) principals() ([]principal, error) {
	apps, _, err := q.store.Applications.List(q.ctx, "")
	if err != nil {
		return nil, err
	}
	resources, _, err := q.store.Resources.List(q.ctx, "")
	if err != nil {
		return nil, err
	}
	var all []principal
	for _, app := range directory.FirstParty(q.tenant) {
		all = append(all, principal{app: store.Item[store.Application]{Value: app}})
	}
	for _, item := range apps {
		if item.Value.ObjectID != "" && strings.EqualFold(item.Value.TenantID, q.tenant) {
			all = append(all, principal{app: item})
		}
	}
	for _, item := range resources {
		if r := item.Value; r.Identity != nil && strings.EqualFold(r.TenantID, q.tenant) {
			all = append(all, principal{resource: &r})
		}
	}
	return all, nil
}

// principal finds one by object id, or by (appId='...').
func (q *request) principal(key string) (principal, error) {
	all, err := q.principals()
	if err != nil {
		return principal{}, err
	}
	appID := alternateKey(key)
	for _, p := range all {
		id, _ := p.show()["appId"].(string)
		if strings.EqualFold(p.id(), key) || appID != "" && strings.EqualFold(id, appID) {
			return p, nil
		}
	}
	return principal{}, notFound(key)
}

// ownPrincipal finds one that can be written.
func (q *request) ownPrincipal(key string) (store.Item[store.Application], error) {
	p, err := q.principal(key)
	switch {
	case err != nil:
		return p.app, err
	case p.resource != nil:
		return p.app, badRequest("The service principal of the managed identity of '%s' is changed with that resource.", p.resource.ID)
	case p.app.Version == 0:
		return p.app, badRequest("The service principal of '%s' is Microsoft's, and cannot be changed.", p.app.Value.Name)
	case p.app.Value.Operator:
		return p.app, operatorStays()
	}
	return p.app, nil
}

func listServicePrincipals(q *request) (reply, error) {
	principals, err := q.principals()
	if err != nil {
		return reply{}, err
	}
	var all []object
	for _, p := range principals {
		all = append(all, p.show())
	}
	return q.list(all, "servicePrincipals")
}

func getServicePrincipal(q *request) (reply, error) {
	p, err := q.principal(q.vars["principal"])
	if err != nil {
		return reply{}, err
	}
	return q.one(p.show(), "servicePrincipals")
}

// postServicePrincipal gives an application its service principal, without
// which nobody signs in by it.
func postServicePrincipal(q *request) (reply, error) {
	id, _, refusal := q.text("appId")
	if refusal != nil {
		return reply{}, refusal
	}
	item, err := q.application("(appId='" + id + "')")
	if err != nil {
		return reply{}, badRequest("The appId '%s' of the service principal does not reference a valid application object.", access.Clip(id, 100))
	}
	a := item.Value
	if a.ObjectID != "" {
		return reply{}, refuse(http.StatusConflict, "Request_MultipleObjectsWithSameKeyValue", "The service principal cannot be created, updated, or restored because the service principal name %s is already in use.", a.ClientID)
	}
	a.ObjectID = uuid.NewString()
	enabled, ok, refusal := q.flag("accountEnabled")
	if refusal != nil {
		return reply{}, refusal
	}
	a.Disabled = ok && !enabled
	if err := q.commit(object{"appId": a.ClientID, "id": a.ObjectID}, q.store.Applications.Updating(item, a)); err != nil {
		return reply{}, err
	}
	answer, err := q.one(principal{app: store.Item[store.Application]{Value: a, Version: item.Version}}.show(), "servicePrincipals")
	answer.status = http.StatusCreated
	return answer, err
}

// patchServicePrincipal enables or disables; the rest is the application's.
func patchServicePrincipal(q *request) (reply, error) {
	item, err := q.ownPrincipal(q.vars["principal"])
	if err != nil {
		return reply{}, err
	}
	a := item.Value
	enabled, ok, refusal := q.flag("accountEnabled")
	if refusal != nil {
		return reply{}, refusal
	}
	for name := range q.body {
		if !strings.EqualFold(name, "accountEnabled") {
			return reply{}, badRequest("Property '%s' of a service principal cannot be changed here; accountEnabled can, and the rest is the application's.", access.Clip(name, 100))
		}
	}
	if ok {
		a.Disabled = !enabled
	}
	return reply{}, q.commit(object{"appId": a.ClientID, "disabled": a.Disabled}, q.store.Applications.Updating(item, a))
}

func deleteServicePrincipal(q *request) (reply, error) {
	item, err := q.ownPrincipal(q.vars["principal"])
	if err != nil {
		return reply{}, err
	}
	a := item.Value
	a.ObjectID, a.Disabled = "", false
	change := q.store.Applications.Updating(item, a)
	if a.RegistrationID == "" {
		change = q.store.Applications.Deleting(item)
	}
	return reply{}, q.commit(object{"appId": a.ClientID}, change)
}
