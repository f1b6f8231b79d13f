package idp

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/store"
)

// authorizeRequest is a request for a code (RFC 6749 4.1.1), sealed into the
// sign-in page: what comes back with the password is what was checked.
type authorizeRequest struct {
	Tenant      string `json:"tenant"` // of the path, perhaps a shared one
	ClientID    string `json:"client"`
	ClientName  string `json:"clientName"`
	RedirectURI string `json:"redirectUri"`
	Native      bool   `json:"native"` // the redirect is to the user's own machine
	Scope       string `json:"scope"`
	State       string `json:"state"`
	Mode        string `json:"mode"`
	Nonce       string `json:"nonce"`
	Challenge   string `json:"challenge"`
	Hint        string `json:"hint"`
	Expires     int64  `json:"expires"`
}

const (
	authorizePurpose = "authorize request"
	authorizeLife    = time.Hour // a page left open for longer is out of date
)

func authorizeV1(p *Provider, c *call) (any, *oauthError) { return p.authorize(c, false) }
func authorizeV2(p *Provider, c *call) (any, *oauthError) { return p.authorize(c, true) }

// authorize shows the sign-in page. Until the client and its redirect are known
// to be registered, what is wrong is shown here and sent nowhere.
func (p *Provider) authorize(c *call, v2 bool) (any, *oauthError) {
	query, failure := parseForm(c.request.URL.RawQuery, "query")
	if failure != nil {
		return nil, failure
	}
	for _, name := range []string{"client_id", "redirect_uri"} {
		if query.Get(name) == "" {
			return nil, missingParameter(name)
		}
	}
	c.client = query.Get("client_id")
	tenant, failure := p.tenantOfClient(c, c.client)
	if failure != nil {
		return nil, failure
	}
	app, failure := p.client(c, tenant, c.client)
	if failure != nil {
		return nil, failure
	}
	a := authorizeRequest{
		Tenant: c.tenant, ClientID: app.ClientID, ClientName: app.Name, RedirectURI: query.Get("redirect_uri"), Mode: query.Get("response_mode"),
		State: query.Get("state"), Nonce: query.Get("nonce"), Challenge: query.Get("code_challenge"), Hint: query.Get("login_hint"),
		Expires: p.cfg.Now().Add(authorizeLife).Unix(),
	}
	var ok bool
	if a.Native, ok = redirectOf(app, a.RedirectURI); !ok {
		return nil, fail(http.StatusBadRequest, "invalid_request", 50011, "The redirect URI '%s' specified in the request does not match the redirect URIs configured for the application '%s'.", clip(a.RedirectURI), app.ClientID)
	}
	if failure := p.checkAuthorize(c, tenant, query, &a, v2); failure != nil {
		return a.refuse(failure), nil
	}
	return p.signInPage(c, a, "")
}

// checkAuthorize looks at the rest of the request, whose refusals the client is
// told.
func (p *Provider) checkAuthorize(c *call, tenant store.Tenant, query url.Values, a *authorizeRequest, v2 bool) *oauthError {
	if a.Mode == "" {
		a.Mode = "query"
	}
	method := query.Get("code_challenge_method")
	switch {
	case a.Mode != "query" && a.Mode != "form_post":
		a.Mode = "query"
		return fail(http.StatusBadRequest, "invalid_request", 70007, "The response_mode '%s' is not served; query and form_post are.", clip(query.Get("response_mode")))
	case query.Get("response_type") != "code":
		return fail(http.StatusBadRequest, "unsupported_response_type", 70005, "The response_type '%s' is not served; code is.", clip(query.Get("response_type")))
	case a.Challenge == "" && a.Native:
		return fail(http.StatusBadRequest, "invalid_request", 9002325, "Proof Key for Code Exchange is required: send a code_challenge with method S256.")
	case a.Challenge != "" && (method != "S256" || len(a.Challenge) != 43):
		return fail(http.StatusBadRequest, "invalid_request", 501491, "The code_challenge_method must be S256, and the code_challenge 43 characters of base64url.")
	case query.Get("prompt") == "none":
		return fail(http.StatusBadRequest, "login_required", 50058, "A silent sign-in request was sent but no user is signed in: there are no sessions in browsers here.")
	}
	q := &tokenRequest{call: c, form: query, v2: v2}
	if !v2 && query.Get("resource") == "" {
		q.v2 = true // OpenID alone, or scopes: v1 clients send either
	}
	if q.v2 && query.Get("scope") == "" {
		query.Set("scope", "openid")
	}
	scope, failure := p.deviceScope(q, tenant)
	a.Scope = scope
	if !v2 && failure == nil && !strings.Contains(scope, "offline_access") {
		a.Scope += " offline_access" // v1 always gives a refresh token
	}
	return failure
}

// redirectOf reports whether an application may be answered at this address,
// and whether it is a native client there, which needs no secret: the address is
// on the user's own machine, and was not registered as a web application's, as
// that of one under development. Of a loopback address the port is not compared:
// native clients take one that is free (RFC 8252 7.3).
func redirectOf(app store.Application, given string) (native, ok bool) {
	got, err := url.Parse(given)
	if err != nil || got.Scheme == "" || got.Fragment != "" || got.User != nil || got.Opaque != "" {
		return false, false
	}
	web := got.Scheme == "https" || got.Scheme == "http" && !isLoopback(got.Hostname())
	native = !web || strings.EqualFold(given, "https://login.microsoftonline.com/common/oauth2/nativeclient")
	if slices.Contains(app.RedirectURIs, given) { // before any that differs in its port
		return native && !slices.Contains(app.WebRedirects, given), true
	}
	for _, registered := range app.RedirectURIs {
		want, err := url.Parse(registered)
		if err == nil && want.Scheme == "http" && got.Scheme == "http" && isLoopback(got.Hostname()) && want.Hostname() == got.Hostname() &&
			want.RawQuery == got.RawQuery && strings.TrimSuffix(want.EscapedPath(), "/") == strings.TrimSuffix(got.EscapedPath(), "/") {
			return !slices.Contains(app.WebRedirects, registered), true
		}
	}
	return false, false
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (p *Provider) signInPage(c *call, a authorizeRequest, warning string) (any, *oauthError) {
	sealed, err := p.cfg.Keys.seal(authorizePurpose, a)
	if err != nil {
		return nil, unavailable(err)
	}
	pg := page{
		Title: "Sign in", Warning: warning, Form: true, Action: c.request.URL.EscapedPath(), Hidden: map[string]string{"ctx": sealed}, SignIn: true,
		Login: clipEmpty(a.Hint), Text: "to " + a.ClientName + " (" + a.ClientID + "), which will act as you.", Origin: originOf(a.RedirectURI),
		Buttons: []button{{"signin", "Sign in"}},
	}
	if warning != "" {
		pg.status = http.StatusBadRequest
	}
	return pg, nil
}

// originOf is a source for a Content-Security-Policy: browsers hold the
// redirect after a form to it.
func originOf(redirectURI string) string {
	u, err := url.Parse(redirectURI)
	if err != nil || strings.ContainsAny(u.Scheme+u.Host, ";, '") {
		return ""
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}

// authorizeSignIn takes the sign-in page's form, and gives the client a code.
func authorizeSignIn(p *Provider, c *call) (any, *oauthError) {
	form, failure := readForm(c.request)
	if failure != nil {
		return nil, failure
	}
	var a authorizeRequest
	if err := p.cfg.Keys.open(authorizePurpose, form.Get("ctx"), &a); err != nil || p.cfg.Now().Unix() >= a.Expires {
		return nil, invalidRequest("This page is out of date. Begin again in the program that sent you here.")
	}
	c.client = a.ClientID
	upn := form.Get("username")
	tenant, failure := p.tenantOfUser(c.request.Context(), a.Tenant, upn)
	var user store.User
	if failure == nil {
		user, failure = p.signIn(c, tenant, upn, form.Get("password"))
	}
	switch {
	case failure != nil && failure.status >= http.StatusInternalServerError:
		return nil, failure
	case failure != nil && failure.code == 90002: // no tenant has that domain
		return p.signInPage(c, a, wrongPassword().text)
	case failure != nil:
		a.Hint = upn
		return p.signInPage(c, a, failure.text)
	}
	now := p.cfg.Now()
	s := newSession(user, a.ClientID, a.Scope, now)
	s.Nonce, s.Native = a.Nonce, a.Native
	one := authorization{code: random(), session: s, redirectURI: a.RedirectURI, challenge: a.Challenge, expires: now.Add(codeLife)}
	p.codes.add(one, now)
	return a.answer(url.Values{"code": {one.code}, "session_state": {uuid.NewString()}}), nil
}

// refuse tells the client what was wrong with its request (RFC 6749 4.1.2.1).
func (a authorizeRequest) refuse(failure *oauthError) page {
	return a.answer(url.Values{"error": {failure.kind}, "error_description": {failure.described()}})
}

// answer sends the browser on to the client: by a redirect, or by a form that
// posts itself.
func (a authorizeRequest) answer(values url.Values) page {
	if a.State != "" {
		values.Set("state", a.State)
	}
	if a.Mode == "form_post" {
		hidden := map[string]string{}
		for name := range values {
			hidden[name] = values.Get(name)
		}
		return page{Title: "Continue", Form: true, Auto: true, Action: a.RedirectURI, Hidden: hidden, Origin: originOf(a.RedirectURI), Buttons: []button{{"continue", "Continue"}}}
	}
	to := a.RedirectURI
	separator := "?"
	if strings.Contains(to, "?") {
		separator = "&"
	}
	return page{redirect: to + separator + values.Encode(), status: http.StatusFound}
}
