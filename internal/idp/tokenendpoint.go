package idp

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// maxBody bounds a token request in bytes.
const maxBody = 64 << 10

// tokenRequest is a token request, parsed once.
type tokenRequest struct {
	tenantID string
	clientID string
	secret   string
	basic    bool // client and secret came by HTTP Basic
	audience string
}

// answerV1 is the v1 endpoint's answer: numbers are strings (spec/identity.md
// 3.2). There is never an id_token for client_credentials.
type answerV1 struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    string `json:"expires_in"`
	ExtExpiresIn string `json:"ext_expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	AccessToken  string `json:"access_token"`
}

type answerV2 struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
}

// tokenV1 is POST /{tenant}/oauth2/token with resource=.
func tokenV1(p *Provider, c *call) (any, *oauthError) {
	req, t, failure := p.clientCredentials(c, audienceOfResource)
	if failure != nil {
		return nil, failure
	}
	// One less than exp, as Entra says, so that no client uses the last second.
	left := strconv.FormatInt(int64(t.expires.Sub(t.notBefore).Seconds())-1, 10)
	return answerV1{
		TokenType: "Bearer", ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(t.expires.Unix(), 10), NotBefore: strconv.FormatInt(t.notBefore.Unix(), 10),
		Resource: req.audience, AccessToken: t.token,
	}, nil
}

// tokenV2 is POST /{tenant}/oauth2/v2.0/token with scope=.
func tokenV2(p *Provider, c *call) (any, *oauthError) {
	_, t, failure := p.clientCredentials(c, audienceOfScope)
	if failure != nil {
		return nil, failure
	}
	left := int64(t.expires.Sub(t.notBefore).Seconds()) - 1
	return answerV2{TokenType: "Bearer", ExpiresIn: left, ExtExpiresIn: left, AccessToken: t.token}, nil
}

// clientCredentials makes a token for an application (RFC 6749 4.4).
func (p *Provider) clientCredentials(c *call, audience func(url.Values) (string, *oauthError)) (tokenRequest, issued, *oauthError) {
	// The grant first: a client of another grant learns what is not supported
	// whatever tenant it names.
	r := c.request
	form, failure := readForm(r)
	if failure != nil {
		return tokenRequest{}, issued{}, failure
	}
	switch grant := form.Get("grant_type"); grant {
	case "":
		return tokenRequest{}, issued{}, missingParameter("grant_type")
	case "client_credentials":
	default:
		return tokenRequest{}, issued{}, fail(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%s'; client_credentials is supported.", clip(grant))
	}
	var req tokenRequest
	if req.tenantID, failure = p.tenantOf(r.Context(), c.tenant, false); failure != nil {
		return req, issued{}, failure
	}
	if failure = req.readClient(r, form); failure != nil {
		return req, issued{}, failure
	}
	c.client = req.clientID
	app, failure := p.application(r, req)
	if failure != nil {
		return req, issued{}, failure
	}
	if req.audience, failure = audience(form); failure != nil {
		return req, issued{}, failure
	}
	if !p.audienceKnown(req.audience) {
		return req, issued{}, unknownResource(req.audience, req.tenantID)
	}
	t, err := p.mint(p.cfg.Keys.current(), subject{
		tenantID: req.tenantID, objectID: app.ObjectID, appID: app.ClientID, acr: "1",
	}, req.audience, p.cfg.Lifetimes.Application)
	if err != nil {
		return req, issued{}, unavailable(err)
	}
	p.metrics.tokens.WithLabelValues("client_credentials").Inc()
	return req, t, nil
}

// application returns the application of a request that showed its secret.
func (p *Provider) application(r *http.Request, req tokenRequest) (Application, *oauthError) {
	unknown := fail(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%s' was not found in the directory '%s'.", clip(req.clientID), req.tenantID)
	if !access.IsGUID(req.clientID) {
		return Application{}, unknown
	}
	app, err := p.cfg.Directory.Application(r.Context(), strings.ToLower(req.clientID))
	switch {
	case errors.Is(err, access.ErrNotFound), err == nil && !strings.EqualFold(app.TenantID, req.tenantID):
		return Application{}, unknown
	case err != nil:
		return Application{}, unavailable(err)
	case !CheckSecret(app.SecretHash, req.secret):
		failure := fail(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, for app '%s'.", req.clientID)
		failure.basic = req.basic
		return Application{}, failure
	}
	return app, nil
}

// readForm reads the body of a token request. Unknown parameters are left to
// lie, as clients send many; one of ours given twice is refused (RFC 6749 3.1),
// and the query is not looked at.
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
	form, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, invalidRequest("The request's body is not a form.")
	}
	if name, ok := repeated(form, "grant_type", "client_id", "client_secret", "resource", "scope"); ok {
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

// readClient takes the client's id and secret from the form or from HTTP
// Basic, in which both are form-encoded (RFC 6749 2.3.1), but not from both.
func (req *tokenRequest) readClient(r *http.Request, form url.Values) *oauthError {
	req.clientID, req.secret = form.Get("client_id"), form.Get("client_secret")
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		if len(header) > 1 || req.secret != "" {
			return invalidRequest("The client's secret must be given once, in the body or by HTTP Basic.")
		}
		id, secret, ok := basicAuth(header[0])
		if !ok {
			return invalidRequest("The Authorization header must be HTTP Basic with client id and secret, form-encoded.")
		}
		if req.clientID != "" && req.clientID != id {
			return invalidRequest("The parameter 'client_id' and the Authorization header name different clients.")
		}
		req.clientID, req.secret, req.basic = id, secret, true
	}
	switch {
	case req.clientID == "":
		return missingParameter("client_id")
	case req.secret == "":
		return fail(http.StatusUnauthorized, "invalid_client", 7000218, "The request body must contain the following parameter: 'client_secret'; client assertions are not supported here.")
	}
	return nil
}

func basicAuth(header string) (id, secret string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !strings.EqualFold(scheme, "Basic") || err != nil {
		return "", "", false
	}
	id, secret, ok = strings.Cut(string(raw), ":")
	id, errID := url.QueryUnescape(id)
	secret, errSecret := url.QueryUnescape(secret)
	return id, secret, ok && errID == nil && errSecret == nil
}

func audienceOfResource(form url.Values) (string, *oauthError) {
	if form.Get("resource") == "" {
		return "", missingParameter("resource")
	}
	return form.Get("resource"), nil
}

// audienceOfScope returns the one scope that ends in /.default, without its
// last /.default: a slash before it stays (spec/identity.md 3.1). MSAL appends
// the scopes of OpenID, which mean nothing here.
func audienceOfScope(form url.Values) (string, *oauthError) {
	if form.Get("scope") == "" {
		return "", missingParameter("scope")
	}
	var audience string
	for scope := range strings.FieldsSeq(form.Get("scope")) {
		switch scope {
		case "openid", "profile", "email", "offline_access":
			continue
		}
		resource, ok := strings.CutSuffix(scope, "/.default")
		if !ok || resource == "" || audience != "" {
			return "", invalidScope(form.Get("scope"))
		}
		audience = resource
	}
	if audience == "" {
		return "", invalidScope(form.Get("scope"))
	}
	return audience, nil
}

func invalidScope(scope string) *oauthError {
	return fail(http.StatusBadRequest, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid: '%s'. It must be one resource followed by /.default.", clip(scope))
}
