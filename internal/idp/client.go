package idp

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// assertionType is the one of RFC 7523 2.2.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// credentials are what a request says of its client.
type credentials struct {
	id        string
	secret    string
	basic     bool // id and secret came by HTTP Basic
	assertion string
}

// readClient takes the client's id and secret from the form or from HTTP
// Basic, in which both are form-encoded (RFC 6749 2.3.1), but not from both.
// An assertion names its client itself, but all clients send the id as well.
func readClient(r *http.Request, form url.Values) (credentials, *oauthError) {
	c := credentials{id: form.Get("client_id"), secret: form.Get("client_secret"), assertion: form.Get("client_assertion")}
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		if len(header) > 1 || c.secret != "" || c.assertion != "" {
			return c, invalidRequest("The client's secret must be given once, in the body or by HTTP Basic.")
		}
		id, secret, ok := basicAuth(header[0])
		if !ok {
			return c, invalidRequest("The Authorization header must be HTTP Basic with client id and secret, form-encoded.")
		}
		if c.id != "" && c.id != id {
			return c, invalidRequest("The parameter 'client_id' and the Authorization header name different clients.")
		}
		c.id, c.secret, c.basic = id, secret, true
	}
	switch {
	case c.id == "":
		return c, missingParameter("client_id")
	case c.secret != "" && c.assertion != "":
		return c, invalidRequest("The request has both 'client_secret' and 'client_assertion'; one is accepted.")
	case c.assertion != "" && form.Get("client_assertion_type") != assertionType:
		return c, invalidRequest("The parameter 'client_assertion_type' must be '%s'.", assertionType)
	}
	return c, nil
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

// client returns an application of the tenant, of which nothing is proven yet.
func (p *Provider) client(q *call, tenant store.Tenant, id string) (store.Application, *oauthError) {
	app, err := p.cfg.Directory.Application(q.request.Context(), tenant.ID, strings.ToLower(id))
	switch {
	case errors.Is(err, access.ErrNotFound):
		return app, unknownClient(id, tenant.ID)
	case err != nil:
		return app, unavailable(err)
	}
	if tenant.ID == "" { // at a shared tenant, before the user's is known
		return app, nil
	}
	return app, usable(app)
}

func unknownClient(id, tenant string) *oauthError {
	return fail(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%s' was not found in the directory '%s'.", clip(id), tenant)
}

// authenticateClient returns the application of a request that proved to be
// it, and how: "1" by a secret, "2" by an assertion (the claim appidacr). With
// public set, one that signs users in needs no proof if it is registered so:
// "0". A proof that is given must hold in any case.
func (p *Provider) authenticateClient(q *tokenRequest, tenant store.Tenant, public bool) (store.Application, string, *oauthError) {
	app, failure := p.client(q.call, tenant, q.client.id)
	if failure != nil {
		return app, "", failure
	}
	switch {
	case q.client.secret != "":
		return app, "1", p.checkSecret(q, app)
	case q.client.assertion != "":
		return app, "2", p.checkAssertion(q, tenant, app)
	case public && (app.PublicClient || q.native):
		return app, "0", nil
	}
	return app, "", fail(http.StatusUnauthorized, "invalid_client", 7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
}

// checkSecret holds the request's secret against all that the application has.
func (p *Provider) checkSecret(q *tokenRequest, app store.Application) *oauthError {
	failure := fail(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, for app '%s'.", app.ClientID)
	failure.basic = q.client.basic
	if directory.CheckSecret(string(app.SecretHash), q.client.secret) {
		return nil
	}
	now := p.cfg.Now()
	for _, s := range app.Secrets {
		if !directory.CheckSecret(string(s.Hash), q.client.secret) {
			continue
		}
		if now.Before(s.Start) || !now.Before(s.End) {
			failure.code, failure.text = 7000222, "The provided client secret keys for app '"+app.ClientID+"' are expired. Create new keys for your app."
			continue
		}
		return nil
	}
	return failure
}
