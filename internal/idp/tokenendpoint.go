package idp

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/internal/store"
)

// maxBody bounds a request's body in bytes.
const maxBody = 64 << 10

// tokenRequest is a token request, parsed once.
type tokenRequest struct {
	*call
	form url.Values
	v2   bool // else resource= says what the token is for
	// client is what the request says of its client; nothing of it is proven.
	client credentials
	// native says that the client signed its user in by an address of the
	// user's own machine, where it cannot keep a secret.
	native bool
}

// granted is what a grant gives. What is empty is left out of the answer:
// there is never an id_token for client_credentials (spec/identity.md 3.2).
type granted struct {
	access       issued
	audience     string
	scope        string
	idToken      string
	refreshToken string
	clientInfo   string
}

// grant is one way to get a token (RFC 6749 4). It finds the tenant itself:
// users may ask at a shared one.
type grant func(p *Provider, q *tokenRequest) (granted, *oauthError)

func grants() map[string]grant {
	return map[string]grant{
		"client_credentials": clientCredentials,
		"authorization_code": authorizationCode,
		"password":           ropc,
		"refresh_token":      refresh,
		"device_code":        deviceCode, // MSAL for Go
		"urn:ietf:params:oauth:grant-type:device_code": deviceCode,
	}
}

// answerV1 is the v1 endpoint's answer: numbers are strings (spec/identity.md
// 3.2).
type answerV1 struct {
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope,omitempty"`
	ExpiresIn    string `json:"expires_in"`
	ExtExpiresIn string `json:"ext_expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`
}

type answerV2 struct {
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope,omitempty"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`
}

// tokenV1 is POST /{tenant}/oauth2/token with resource=.
func tokenV1(p *Provider, c *call) (any, *oauthError) {
	g, failure := p.token(c, false)
	if failure != nil {
		return nil, failure
	}
	left := strconv.FormatInt(g.access.left(), 10)
	return answerV1{
		TokenType: "Bearer", Scope: g.scope, ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(g.access.expires.Unix(), 10), NotBefore: strconv.FormatInt(g.access.notBefore.Unix(), 10),
		Resource: g.audience, AccessToken: g.access.token,
		RefreshToken: g.refreshToken, IDToken: g.idToken, ClientInfo: g.clientInfo,
	}, nil
}

// tokenV2 is POST /{tenant}/oauth2/v2.0/token with scope=.
func tokenV2(p *Provider, c *call) (any, *oauthError) {
	g, failure := p.token(c, true)
	if failure != nil {
		return nil, failure
	}
	return answerV2{
		TokenType: "Bearer", Scope: g.scope, ExpiresIn: g.access.left(), ExtExpiresIn: g.access.left(), AccessToken: g.access.token,
		RefreshToken: g.refreshToken, IDToken: g.idToken, ClientInfo: g.clientInfo,
	}, nil
}

// token reads the request and has its grant answer it.
func (p *Provider) token(c *call, v2 bool) (granted, *oauthError) {
	form, failure := readForm(c.request)
	if failure != nil {
		return granted{}, failure
	}
	// The grant first: a client of another grant learns what is not supported
	// whatever tenant it names.
	name := form.Get("grant_type")
	if name == "" {
		return granted{}, missingParameter("grant_type")
	}
	serve, ok := grants()[name]
	if !ok {
		return granted{}, fail(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%s'.", clip(name))
	}
	q := &tokenRequest{call: c, form: form, v2: v2}
	if q.client, failure = readClient(c.request, form); failure != nil {
		return granted{}, failure
	}
	c.client = q.client.id
	g, failure := serve(p, q)
	if failure == nil {
		p.metrics.tokens.WithLabelValues(grantLabel(name)).Inc()
	}
	return g, failure
}

// clientCredentials makes a token for an application (RFC 6749 4.4).
func clientCredentials(p *Provider, q *tokenRequest) (granted, *oauthError) {
	tenant, failure := p.tenant(q.request.Context(), q.call.tenant)
	if failure != nil {
		return granted{}, failure
	}
	app, acr, failure := p.authenticateClient(q, tenant, false)
	if failure != nil {
		return granted{}, failure
	}
	want, failure := p.wanted(q, tenant, "")
	if failure != nil {
		return granted{}, failure
	}
	if !want.defaults {
		return granted{}, invalidScope(q.form.Get("scope"), "an application's scope must be one resource followed by /.default")
	}
	s := subject{tenantID: tenant.ID, objectID: app.ObjectID, appID: app.ClientID, acr: acr}
	if s.groups, failure = p.groupsFor(q.request.Context(), want.api, s); failure != nil {
		return granted{}, failure
	}
	t, err := p.mint(p.cfg.Keys.current(), s, want.target(p.cfg.BaseURL(q.request)), tokenLife)
	if err != nil {
		return granted{}, unavailable(err)
	}
	return granted{access: t, audience: want.audience}, nil
}

// ours are the parameters that are read of a form, here or by a grant.
func ours() []string {
	return []string{
		"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "resource", "scope",
		"username", "password", "refresh_token", "device_code", "code", "redirect_uri", "code_verifier",
		"response_type", "response_mode", "state", "nonce", "code_challenge", "code_challenge_method", "prompt", "login_hint",
	}
}

// readForm reads a body. Unknown parameters are left to lie, as clients send
// many; one of ours given twice is refused (RFC 6749 3.1), and the query is not
// looked at.
func readForm(r *http.Request) (url.Values, *oauthError) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("The request's Content-Type must be application/x-www-form-urlencoded.")
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, invalidRequest("The request's body could not be read.")
	}
	if len(raw) > maxBody {
		return nil, fail(http.StatusRequestEntityTooLarge, "invalid_request", 9002313, "The request's body is larger than %d bytes.", maxBody)
	}
	return parseForm(string(raw), "body")
}

func parseForm(text, part string) (url.Values, *oauthError) {
	form, err := url.ParseQuery(text)
	if err != nil {
		return nil, invalidRequest("The request's %s is not a form.", part)
	}
	if name, ok := repeated(form, ours()...); ok {
		return nil, invalidRequest("The parameter '%s' is given %d times.", name, len(form[name]))
	}
	return form, nil
}

// repeated returns the first of these parameters that is given more than once.
func repeated(form url.Values, names ...string) (string, bool) {
	i := slices.IndexFunc(names, func(name string) bool { return len(form[name]) > 1 })
	if i < 0 {
		return "", false
	}
	return names[i], true
}

// usable says why nobody gets a token by this application, or nil.
func usable(app store.Application) *oauthError {
	switch {
	case app.ObjectID == "":
		return fail(http.StatusBadRequest, "unauthorized_client", 7000229, "The client application %s is missing service principal in the tenant %s.", app.ClientID, app.TenantID)
	case app.Disabled:
		return fail(http.StatusBadRequest, "unauthorized_client", 7000112, "Application '%s' is disabled.", app.ClientID)
	}
	return nil
}
