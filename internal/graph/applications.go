package graph

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

const odataApplication = "#microsoft.graph.application"

// kept are the members of an application that its document keeps as they were
// written. Those that are objects themselves are merged member by member.
func kept() []string {
	return []string{
		"displayName", "identifierUris", "signInAudience", "api", "web", "spa", "publicClient", "isFallbackPublicClient",
		"groupMembershipClaims", "requiredResourceAccess", "appRoles", "tags", "notes", "optionalClaims", "info",
		"isDeviceOnlyAuthSupported", "oauth2RequirePostResponse", "description", "serviceManagementReference", "samlMetadataUrl",
		"parentalControlSettings", "addIns", "defaultRedirectUri", "tokenEncryptionKeyId",
	}
}

// showApplication shows the document, what is read-only, and a default for each
// member that clients count on.
func showApplication(a store.Application) object {
	o := object{
		"identifierUris": []string{}, "signInAudience": "AzureADMyOrg", "isFallbackPublicClient": nil, "groupMembershipClaims": nil,
		"requiredResourceAccess": []string{}, "appRoles": []string{}, "tags": []string{}, "addIns": []string{}, "notes": nil, "description": nil,
		"api":          object{"requestedAccessTokenVersion": nil, "oauth2PermissionScopes": []string{}, "preAuthorizedApplications": []string{}, "knownClientApplications": []string{}, "acceptMappedClaims": nil},
		"web":          object{"redirectUris": []string{}, "homePageUrl": nil, "logoutUrl": nil, "implicitGrantSettings": object{"enableAccessTokenIssuance": false, "enableIdTokenIssuance": false}},
		"spa":          object{"redirectUris": []string{}},
		"publicClient": object{"redirectUris": []string{}},
	}
	merge(o, documentOf(a))
	o["identifierUris"] = orEmpty(a.IdentifierURIs) // for filters, which want texts
	maps.Copy(o, object{
		"id": a.RegistrationID, "appId": a.ClientID, "displayName": a.Name, "createdDateTime": stamp(a.Created), "publisherDomain": nil, "deletedDateTime": nil,
		"passwordCredentials": showSecrets(a), "keyCredentials": showCertificates(a),
	})
	return o
}

func documentOf(a store.Application) object {
	doc := object{}
	if json.Unmarshal(a.Document, &doc) != nil { // a record without one
		return object{}
	}
	return doc
}

// merge writes from over to; objects in objects member by member.
func merge(to, from object) {
	for name, value := range from {
		inner, isObject := value.(object)
		old, wasObject := to[name].(object)
		if isObject && wasObject {
			old = maps.Clone(old)
			merge(old, inner)
			value = old
		}
		to[name] = value
	}
}

// applications are the tenant's that have a registration.
func (q *request) applications() ([]store.Item[store.Application], error) {
	items, _, err := q.store.Applications.List(q.ctx, "")
	return slices.DeleteFunc(items, func(i store.Item[store.Application]) bool {
		return i.Value.RegistrationID == "" || !strings.EqualFold(i.Value.TenantID, q.tenant)
	}), err
}

// application finds one by object id, or by (appId='...').
func (q *request) application(key string) (store.Item[store.Application], error) {
	items, err := q.applications()
	if err != nil {
		return store.Item[store.Application]{}, err
	}
	appID := alternateKey(key)
	for _, item := range items {
		if strings.EqualFold(item.Value.RegistrationID, key) || appID != "" && strings.EqualFold(item.Value.ClientID, appID) {
			return item, nil
		}
	}
	return store.Item[store.Application]{}, notFound(key)
}

// alternateKey returns the value of (appId='...').
func alternateKey(key string) string {
	inner, ok := strings.CutPrefix(key, "(")
	name, value, _ := strings.Cut(strings.TrimSuffix(inner, ")"), "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "appId") {
		return ""
	}
	return strings.Trim(strings.TrimSpace(value), "'")
}

func listApplications(q *request) (reply, error) {
	items, err := q.applications()
	if err != nil {
		return reply{}, err
	}
	var all []object
	for _, item := range items {
		all = append(all, showApplication(item.Value))
	}
	return q.list(all, "applications")
}

func getApplication(q *request) (reply, error) {
	item, err := q.application(q.vars["application"])
	if err != nil {
		return reply{}, err
	}
	return q.one(showApplication(item.Value), "applications")
}

func postApplication(q *request) (reply, error) {
	a := store.Application{TenantID: q.tenant, ClientID: uuid.NewString(), RegistrationID: uuid.NewString(), Created: q.cfg.Now().UTC()}
	if err := q.readApplication(&a); err != nil {
		return reply{}, err
	}
	shown := showApplication(a)
	if v, ok := field(q.body, "passwordCredentials"); ok && v != nil {
		first, refusal := firstOf(v, "passwordCredentials")
		if refusal != nil {
			return reply{}, refusal
		}
		if first != nil {
			secret, err := q.addSecret(&a, first)
			if err != nil {
				return reply{}, err
			}
			shown = showApplication(a)
			shown["passwordCredentials"] = []object{secret}
		}
	}
	if err := q.save(a, q.store.Applications.Creating(a)); err != nil {
		return reply{}, err
	}
	answer, err := q.one(shown, "applications")
	answer.status = http.StatusCreated
	return answer, err
}

func patchApplication(q *request) (reply, error) {
	item, err := q.application(q.vars["application"])
	if err != nil {
		return reply{}, err
	}
	a := item.Value
	if err := q.readApplication(&a); err != nil {
		return reply{}, err
	}
	return reply{}, q.save(a, q.store.Applications.Updating(item, a))
}

// save commits an application. The tenant's record is updated along, as by all
// who write applications: of two who take the same URI one comes second.
func (q *request) save(a store.Application, change store.Change) error {
	tenant, err := q.store.Tenants.Get(q.ctx, q.tenant)
	if err != nil {
		return err
	}
	if err := q.checkURIs(a); err != nil {
		return err
	}
	return q.commit(object{"appId": a.ClientID, "displayName": a.Name}, change, q.store.Tenants.Updating(tenant, tenant.Value))
}

// checkURIs refuses what another API is known by: a token for one must not be
// taken for the other's.
func (q *request) checkURIs(a store.Application) error {
	for _, uri := range a.IdentifierURIs {
		u, err := url.Parse(uri)
		if err != nil || !slices.Contains([]string{"api", "https", "http", "urn"}, u.Scheme) || strings.ContainsAny(uri, " '\"") {
			return badRequest("Invalid value specified for property 'identifierUris' of resource 'Application': '%s'.", access.Clip(uri, 200))
		}
		other, err := q.cfg.Directory.API(q.ctx, q.tenant, uri)
		if err == nil && other.ClientID != a.ClientID {
			return exists("identifierUris", uri)
		}
		if err != nil && !errors.Is(err, access.ErrNotFound) {
			return err
		}
	}
	return nil
}

// readApplication merges the body into the document, and takes from that what
// the identity provider goes by.
func (q *request) readApplication(a *store.Application) error {
	doc := documentOf(*a)
	changed := object{}
	for _, name := range kept() {
		if v, ok := field(q.body, name); ok {
			changed[name] = v
		}
	}
	merge(doc, changed)
	if err := applyDocument(a, doc); err != nil {
		return err
	}
	if v, ok := field(q.body, "keyCredentials"); ok {
		if err := q.readCertificates(a, v); err != nil {
			return err
		}
	}
	var err error
	a.Document, err = json.Marshal(doc)
	return err
}

func applyDocument(a *store.Application, doc object) error {
	name, _ := doc["displayName"].(string)
	if name == "" || len([]rune(name)) > maxText {
		return badRequest("A value is required for property 'displayName' of resource 'Application', of at most %d characters.", maxText)
	}
	a.Name = name
	a.PublicClient, _ = doc["isFallbackPublicClient"].(bool)
	claims, _ := doc["groupMembershipClaims"].(string)
	a.GroupClaims = claims != "" && !strings.EqualFold(claims, "None")
	var err *Error
	if a.IdentifierURIs, err = stringsOf(doc, "identifierUris"); err != nil {
		return err
	}
	a.RedirectURIs, a.WebRedirects = nil, nil
	for _, kind := range []string{"publicClient", "web", "spa"} {
		inner, err := objectOf(doc, kind)
		if err != nil {
			return err
		}
		uris, err := stringsOf(inner, "redirectUris")
		if err != nil {
			return err
		}
		a.RedirectURIs = append(a.RedirectURIs, uris...)
		if kind == "web" {
			a.WebRedirects = uris
		}
	}
	api, err := objectOf(doc, "api")
	if err != nil {
		return err
	}
	return applyAPI(a, api)
}

// applyAPI takes what tokens for the application look like.
func applyAPI(a *store.Application, api object) error {
	v, _ := field(api, "requestedAccessTokenVersion")
	switch v {
	case nil, 1.0:
		a.TokenVersion = 1
	case 2.0:
		a.TokenVersion = 2
	default:
		return invalidValue("requestedAccessTokenVersion")
	}
	a.Scopes = nil
	v, _ = field(api, "oauth2PermissionScopes")
	list, ok := v.([]any)
	if v != nil && !ok {
		return invalidValue("oauth2PermissionScopes")
	}
	for _, item := range list {
		scope, _ := item.(object)
		value, _ := scope["value"].(string)
		if value == "" || len(value) > 120 || strings.ContainsAny(value, " /\"\\") {
			return invalidValue("oauth2PermissionScopes")
		}
		if enabled, ok := scope["isEnabled"].(bool); !ok || enabled {
			a.Scopes = append(a.Scopes, value)
		}
	}
	return nil
}

// deleteApplication removes the registration and with it the service principal.
func deleteApplication(q *request) (reply, error) {
	item, err := q.application(q.vars["application"])
	if err != nil {
		return reply{}, err
	}
	if item.Value.Operator {
		return reply{}, operatorStays()
	}
	return reply{}, q.commit(object{"appId": item.Value.ClientID}, q.store.Applications.Deleting(item))
}

func operatorStays() *Error {
	return badRequest("The operator of this installation is not changed through Graph; see `sallyport server --new-operator`.")
}
