package idp

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// ManagedIdentityPath and ManagedIdentityVersion are those of App Service
// (spec/identity.md 2.2); a client gets them through IDENTITY_ENDPOINT, and its
// secret, [Keys.IdentityHeader], through IDENTITY_HEADER.
const (
	ManagedIdentityPath    = "/msi/token"
	ManagedIdentityVersion = "2019-08-01"
)

// msiAnswer is App Service's: all values are strings.
type msiAnswer struct {
	AccessToken string `json:"access_token"`
	ClientID    string `json:"client_id"`
	ExpiresOn   string `json:"expires_on"`
	NotBefore   string `json:"not_before"`
	Resource    string `json:"resource"`
	TokenType   string `json:"token_type"`
}

// msiError has the fields of spec/identity.md 2.1.
type msiError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// ManagedIdentity returns the handler of the managed-identity endpoint. It is
// plain HTTP, since that is what clients expect, so the wiring must bind it to
// a loopback address.
func (p *Provider) ManagedIdentity() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, failure := p.managedIdentity(r)
		fields := []any{"endpoint", "managed identity", "method", clip(r.Method)}
		if failure != nil {
			if failure.status == http.StatusMethodNotAllowed {
				w.Header().Set("Allow", http.MethodGet)
			}
			p.metrics.answered("managed_identity", failure.status)
			writeJSON(w, failure.status, msiError{Error: failure.kind, Description: failure.text})
			fields = append(fields, "error", failure.kind, "status", failure.status)
			if failure.cause != nil {
				fields = append(fields, "cause", failure.cause)
			}
		} else {
			p.metrics.answered("managed_identity", http.StatusOK)
			p.metrics.tokens.WithLabelValues("managed_identity").Inc()
			writeJSON(w, http.StatusOK, answer)
			fields = append(fields, "client", answer.ClientID, "status", http.StatusOK)
		}
		p.cfg.Logger.Info("identity provider", fields...)
	})
}

// managedIdentity answers one request. The caller is proved before anything
// else of the request is looked at.
func (p *Provider) managedIdentity(r *http.Request) (msiAnswer, *oauthError) {
	bad := func(format string, args ...any) (msiAnswer, *oauthError) {
		return msiAnswer{}, fail(http.StatusBadRequest, "invalid_request", 0, format, args...)
	}
	switch {
	case !strings.EqualFold(strings.TrimSuffix(r.URL.EscapedPath(), "/"), ManagedIdentityPath):
		return msiAnswer{}, fail(http.StatusNotFound, "not_found", 0, "There is no such endpoint; tokens are at %s.", ManagedIdentityPath)
	case r.Method != http.MethodGet:
		return msiAnswer{}, fail(http.StatusMethodNotAllowed, "invalid_request", 0, "The endpoint accepts GET.")
	case len(r.Header.Values("X-Forwarded-For")) > 0: // a proxy was talked into it (spec/identity.md 2.1)
		return bad("A request with X-Forwarded-For is refused: ask directly.")
	}
	secrets := r.Header.Values("X-IDENTITY-HEADER")
	if len(secrets) != 1 {
		return bad("Required X-IDENTITY-HEADER header not specified; its value is in IDENTITY_HEADER.")
	}
	uid, ok := p.cfg.Keys.headerUID(secrets[0])
	if !ok {
		return msiAnswer{}, fail(http.StatusUnauthorized, "access_denied", 0, "X-IDENTITY-HEADER is not valid.")
	}
	identity, err := p.cfg.Directory.ManagedIdentity(r.Context(), uid)
	switch {
	case errors.Is(err, access.ErrNotFound):
		return bad("Identity not found")
	case err != nil:
		failure := fail(http.StatusServiceUnavailable, "temporarily_unavailable", 0, "Please try again.")
		failure.cause = err
		return msiAnswer{}, failure
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return bad("The query is malformed.")
	}
	if name, ok := repeated(query, "api-version", "resource", "client_id", "clientid", "object_id", "principal_id", "mi_res_id", "msi_res_id"); ok {
		return bad("The parameter '%s' is given %d times.", name, len(query[name]))
	}
	if version := query.Get("api-version"); version != ManagedIdentityVersion {
		return bad("The api-version '%s' is not supported; it must be %s.", clip(version), ManagedIdentityVersion)
	}
	if name, ok := namesOther(query.Get, identity); ok {
		return bad("Identity not found: %s names another identity than this endpoint's.", name)
	}
	audience := query.Get("resource")
	if !p.audienceKnown(audience) {
		return msiAnswer{}, fail(http.StatusBadRequest, "invalid_resource", 0, "AADSTS500011: The resource principal named %s was not found in the tenant named %s.", clip(audience), identity.TenantID)
	}
	t, err := p.identityToken(identity, audience)
	if err != nil {
		failure := fail(http.StatusInternalServerError, "unknown", 0, "The token could not be made.")
		failure.cause = err
		return msiAnswer{}, failure
	}
	return msiAnswer{
		AccessToken: t.token, ClientID: identity.AppID, Resource: audience, TokenType: "Bearer",
		ExpiresOn: strconv.FormatInt(t.expires.Unix(), 10), NotBefore: strconv.FormatInt(t.notBefore.Unix(), 10),
	}, nil
}

// namesOther reports which parameter, if any, asks for an identity that is not
// this one. Clients differ in the parameters they send (spec/identity.md 2.2).
func namesOther(parameter func(string) string, identity Identity) (string, bool) {
	for name, own := range map[string]string{
		"client_id": identity.AppID, "clientid": identity.AppID,
		"object_id": identity.ObjectID, "principal_id": identity.ObjectID,
	} {
		if v := parameter(name); v != "" && !strings.EqualFold(v, own) {
			return name, true
		}
	}
	for _, name := range []string{"mi_res_id", "msi_res_id"} {
		if v := parameter(name); v != "" {
			if id, err := access.ParseResourceID(v); err != nil || !id.Equal(identity.ResourceID) {
				return name, true
			}
		}
	}
	return "", false
}

// identityToken returns a token of the identity, one made earlier if less
// than half of its life is over.
func (p *Provider) identityToken(identity Identity, audience string) (issued, error) {
	signer := p.cfg.Keys.current()
	key := tokenKey{audience: audience, kid: signer.kid, subject: subject{
		tenantID: identity.TenantID, objectID: identity.ObjectID, appID: identity.AppID,
		acr: "2", resource: identity.ResourceID.String(),
	}}
	now := p.cfg.Now()
	if t, ok := p.tokens.get(key, now); ok {
		return t, nil
	}
	t, err := p.mint(signer, key.subject, audience, p.cfg.Lifetimes.ManagedIdentity)
	if err != nil {
		return issued{}, err
	}
	p.tokens.put(key, t, now)
	return t, nil
}
