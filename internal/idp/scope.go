package idp

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// wanted is what a client asks a token for.
type wanted struct {
	audience string            // as it was asked for
	api      store.Application // that the audience means
	names    []string          // of the API's scopes
	defaults bool              // /.default: all the scopes there are
	openid   []string          // OpenID's scopes, in the order asked
}

// scp is the token's claim: for what the user lets the client act.
func (w wanted) scp() string {
	if !w.defaults && len(w.names) > 0 {
		return strings.Join(w.names, " ")
	}
	if len(w.api.Scopes) == 0 {
		return "user_impersonation"
	}
	return strings.Join(w.api.Scopes, " ")
}

// scope is the answer's parameter. MSAL finds a token in its cache by it, so
// what was asked for is in it as it was asked.
func (w wanted) scope() string {
	var all []string
	for name := range strings.FieldsSeq(w.scp()) {
		all = append(all, w.audience+"/"+name)
	}
	if w.defaults {
		all = append(all, w.audience+"/.default")
	}
	for _, name := range w.openid {
		if name != "offline_access" {
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

// text is what to ask for again to get the same.
func (w wanted) text() string {
	all := slices.Clone(w.openid)
	if w.defaults {
		all = append(all, w.audience+"/.default")
	}
	for _, name := range w.names {
		all = append(all, w.audience+"/"+name)
	}
	return strings.Join(all, " ")
}

// target is the API as tokens name it. In v1 the audience is what was asked
// for, in v2 always the client id (spec/identity.md 1.2).
func (w wanted) target(host string) target {
	if w.api.TokenVersion == 2 {
		return target{audience: w.api.ClientID, v2: true, host: host}
	}
	return target{audience: w.audience}
}

// wanted reads what a token request asks for; earlier is what it asked for
// before, if the grant remembers that, and it may then say nothing.
func (p *Provider) wanted(q *tokenRequest, tenant store.Tenant, earlier string) (wanted, *oauthError) {
	name, text := "scope", q.form.Get("scope")
	if !q.v2 {
		name, text = "resource", q.form.Get("resource")
		if text != "" {
			text += "/.default"
		}
	}
	if text == "" {
		text = earlier
	}
	if text == "" {
		return wanted{}, missingParameter(name)
	}
	return p.parseScope(q.call, tenant, text)
}

// parseScope reads a list of scopes: those of one API, each the API's name, a
// slash and the scope's own name or .default, and OpenID's. A slash before
// that last one belongs to the API's name (spec/identity.md 3.1). A name alone
// is Graph's, and OpenID's alone are as well, as in Entra.
func (p *Provider) parseScope(c *call, tenant store.Tenant, text string) (wanted, *oauthError) {
	var w wanted
	for scope := range strings.FieldsSeq(text) {
		switch scope {
		case "openid", "profile", "email", "offline_access":
			w.openid = append(w.openid, scope)
			continue
		}
		audience, name := graphURI, scope
		if i := strings.LastIndexByte(scope, '/'); i >= 0 {
			audience, name = scope[:i], scope[i+1:]
		}
		if audience == "" || name == "" || w.audience != "" && w.audience != audience {
			return w, invalidScope(text, "it must be of one resource, each the resource, a slash, and a name or .default")
		}
		w.audience = audience
		if name == ".default" {
			w.defaults = true
			continue
		}
		w.names = append(w.names, name)
	}
	if w.audience == "" {
		w.audience, w.names = graphURI, []string{"User.Read"}
	}
	api, err := p.api(c.request.Context(), tenant.ID, w.audience)
	switch {
	case errors.Is(err, access.ErrNotFound):
		return w, unknownResource(w.audience, tenant.ID)
	case err != nil:
		return w, unavailable(err)
	}
	w.api = api
	for _, name := range w.names {
		if !scopeName(name) || api.TenantID != "" && len(api.Scopes) > 0 && api.RegistrationID != "" && !slices.Contains(api.Scopes, name) {
			return w, fail(http.StatusBadRequest, "invalid_scope", 650053, "The application asked for scope '%s' that doesn't exist on the resource '%s'.", clip(name), api.ClientID)
		}
	}
	return w, nil
}

const graphURI = "https://graph.microsoft.com"

// api finds an API by its audience. The names under which clients reach this
// very server mean what the wiring says.
func (p *Provider) api(ctx context.Context, tenantID, audience string) (store.Application, error) {
	if id, ok := p.cfg.Aliases[strings.TrimSuffix(audience, "/")]; ok {
		audience = id
	}
	return p.cfg.Directory.API(ctx, tenantID, audience)
}

// ARMAudiences returns the four spellings for ARM (spec/identity.md 6.3).
func ARMAudiences() []string {
	return []string{
		"https://management.azure.com", "https://management.azure.com/",
		"https://management.core.windows.net", "https://management.core.windows.net/",
	}
}

// GraphAudiences returns the spellings for Microsoft Graph.
func GraphAudiences() []string { return []string{graphURI, graphURI + "/", directory.Graph} }

func scopeName(s string) bool {
	return len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

func invalidScope(scope, why string) *oauthError {
	return fail(http.StatusBadRequest, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid: '%s': %s.", clip(scope), why)
}
