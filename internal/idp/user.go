package idp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// session is a user's sign-in to a client. A device code, an authorization
// code and a refresh token each stand for one. It ends when the user's stamp
// changes: with the password, or when the user is disabled.
type session struct {
	TenantID string `json:"tenant"`
	UserID   string `json:"user"`
	Stamp    string `json:"stamp"`
	ClientID string `json:"client"`
	Scope    string `json:"scope"` // what the client asked for at first
	SignedIn int64  `json:"signedIn"`
	Native   bool   `json:"native,omitempty"` // the client is one without a secret
	Nonce    string `json:"nonce,omitempty"`  // of OpenID, for the first id_token only
}

func invalidGrant(code int, format string, args ...any) *oauthError {
	return fail(http.StatusBadRequest, "invalid_grant", code, format, args...)
}

// tenantOfUser returns the tenant in which a user signs in: the path's, or by
// the domain of his name if that is a shared one.
func (p *Provider) tenantOfUser(ctx context.Context, path, upn string) (store.Tenant, *oauthError) {
	if !shared(path) {
		return p.tenant(ctx, path)
	}
	_, domain, _ := strings.Cut(upn, "@")
	return p.tenant(ctx, domain)
}

// wrongPassword is also what is said of a user that does not exist.
func wrongPassword() *oauthError {
	return invalidGrant(50126, "Error validating credentials due to invalid username or password.")
}

// signIn checks a user's name and password.
func (p *Provider) signIn(c *call, tenant store.Tenant, upn, password string) (store.User, *oauthError) {
	ctx, address := c.request.Context(), p.cfg.Remote(c.request)
	user, err := p.cfg.Directory.User(ctx, tenant.ID, upn)
	exists := err == nil
	if err != nil && !errors.Is(err, access.ErrNotFound) {
		return user, unavailable(err)
	}
	counted := upn // of a stranger too, or who is shut out would be known to exist
	if exists {
		counted = user.UPN
	}
	if !p.attempts.allowed(counted, address) {
		return user, invalidGrant(50053, "You've tried to sign in too many times with an incorrect user ID or password. Try again in a minute.")
	}
	done, err := p.attempts.hashing(ctx)
	if err != nil {
		return user, unavailable(err)
	}
	right := directory.PasswordIs(user.PasswordHash, password)
	done()
	switch {
	case !right || access.IsGUID(upn):
		p.attempts.fail(counted, address)
		return user, wrongPassword()
	case user.Disabled:
		return user, invalidGrant(50057, "The user account is disabled.")
	}
	return user, nil
}

func newSession(user store.User, clientID, scope string, now time.Time) session {
	return session{TenantID: user.TenantID, UserID: user.ObjectID, Stamp: user.Stamp, ClientID: clientID, Scope: scope, SignedIn: now.Unix()}
}

// ropc is the grant of a name and a password (RFC 6749 4.3).
func ropc(p *Provider, q *tokenRequest) (granted, *oauthError) {
	upn, password := q.form.Get("username"), q.form.Get("password")
	switch {
	case upn == "":
		return granted{}, missingParameter("username")
	case password == "":
		return granted{}, missingParameter("password")
	}
	tenant, failure := p.tenantOfUser(q.request.Context(), q.call.tenant, upn)
	if failure != nil {
		return granted{}, failure
	}
	app, acr, failure := p.authenticateClient(q, tenant, true)
	if failure != nil {
		return granted{}, failure
	}
	want, failure := p.wanted(q, tenant, "")
	if failure != nil {
		return granted{}, failure
	}
	user, failure := p.signIn(q.call, tenant, upn, password)
	if failure != nil {
		return granted{}, failure
	}
	return p.userTokens(q, newSession(user, app.ClientID, want.text(), p.cfg.Now()), acr, want)
}

// sessionTokens makes tokens of a session that a code or refresh token stands
// for. The client proves itself, and must be the session's.
func (p *Provider) sessionTokens(q *tokenRequest, s session) (granted, *oauthError) {
	tenant, failure := p.tenant(q.request.Context(), s.TenantID)
	if failure != nil {
		return granted{}, failure
	}
	if !shared(q.call.tenant) {
		asked, failure := p.tenant(q.request.Context(), q.call.tenant)
		if failure != nil {
			return granted{}, failure
		}
		if asked.ID != tenant.ID {
			return granted{}, invalidGrant(50020, "User account is of tenant '%s' and does not exist in tenant '%s'.", tenant.ID, asked.ID)
		}
	}
	q.native = s.Native
	app, acr, failure := p.authenticateClient(q, tenant, true)
	if failure != nil {
		return granted{}, failure
	}
	if !strings.EqualFold(app.ClientID, s.ClientID) {
		return granted{}, invalidGrant(700005, "The provided code or refresh token was issued to another client than '%s'.", app.ClientID)
	}
	want, failure := p.wanted(q, tenant, s.Scope)
	if failure != nil {
		return granted{}, failure
	}
	return p.userTokens(q, s, acr, want)
}

// userTokens makes the tokens of a user, who must still be who signed in.
func (p *Provider) userTokens(q *tokenRequest, s session, acr string, want wanted) (granted, *oauthError) {
	ctx := q.request.Context()
	user, err := p.cfg.Directory.User(ctx, s.TenantID, s.UserID)
	switch {
	case errors.Is(err, access.ErrNotFound):
		return granted{}, invalidGrant(50034, "The user account does not exist in the directory '%s'.", s.TenantID)
	case err != nil:
		return granted{}, unavailable(err)
	case user.Disabled:
		return granted{}, invalidGrant(50057, "The user account is disabled.")
	case user.Stamp != s.Stamp:
		return granted{}, invalidGrant(50173, "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have changed or reset their password.")
	}
	who := subject{tenantID: s.TenantID, objectID: user.ObjectID, appID: strings.ToLower(s.ClientID), acr: acr}
	var failure *oauthError
	if who.groups, failure = p.groupsFor(ctx, want.api, who); failure != nil {
		return granted{}, failure
	}
	to := want.target(p.cfg.BaseURL(q.request))
	claims := userClaims(user, to.v2)
	maps := map[string]any{"sub": p.cfg.Keys.pairwise(user.ObjectID, want.api.ClientID), "scp": want.scp(), "idtyp": "user", "ipaddr": p.cfg.Remote(q.request)}
	for name, value := range maps {
		claims[name] = value
	}
	signer := p.cfg.Keys.current()
	t, err := p.signed(signer, who, to, tokenLife, claims)
	if err != nil {
		return granted{}, unavailable(err)
	}
	g := granted{access: t, audience: want.audience, scope: want.scope(), clientInfo: clientInfo(user)}
	if g.idToken, err = p.idToken(q, signer, user, s, t); err != nil {
		return granted{}, unavailable(err)
	}
	if q.v2 && !slices.Contains(want.openid, "offline_access") && !strings.Contains(s.Scope, "offline_access") {
		return g, nil
	}
	s.Nonce = ""
	if g.refreshToken, err = p.refreshToken(s); err != nil {
		return granted{}, unavailable(err)
	}
	return g, nil
}

// userClaims are what a token says of a person, for display alone
// (spec/identity.md 1.2).
func userClaims(user store.User, v2 bool) jwt.MapClaims {
	claims := jwt.MapClaims{"name": user.DisplayName}
	if v2 {
		claims["preferred_username"] = user.UPN
	} else {
		claims["upn"], claims["unique_name"] = user.UPN, user.UPN
		claims["acr"], claims["amr"] = "1", []string{"pwd"}
	}
	if user.GivenName != "" {
		claims["given_name"] = user.GivenName
	}
	if user.Surname != "" {
		claims["family_name"] = user.Surname
	}
	return claims
}

// idToken is for the client itself (OpenID Connect Core 2).
func (p *Provider) idToken(q *tokenRequest, key signingKey, user store.User, s session, t issued) (string, error) {
	tid := strings.ToLower(s.TenantID)
	claims := userClaims(user, q.v2)
	claims["iss"], claims["ver"] = tokenIssuer(tid), "1.0"
	if q.v2 {
		claims["iss"], claims["ver"] = issuerV2(p.cfg.BaseURL(q.request), tid), "2.0"
	}
	claims["aud"], claims["tid"], claims["oid"] = strings.ToLower(s.ClientID), tid, user.ObjectID
	claims["sub"] = p.cfg.Keys.pairwise(user.ObjectID, strings.ToLower(s.ClientID))
	claims["iat"], claims["nbf"], claims["exp"] = t.notBefore.Unix(), t.notBefore.Unix(), t.expires.Unix()
	claims["auth_time"], claims["rh"], claims["uti"] = s.SignedIn, opaque(), opaque()
	if s.Nonce != "" {
		claims["nonce"] = s.Nonce
	}
	return key.sign(claims)
}

// clientInfo is by what MSAL keeps accounts apart (spec/identity.md 3.2).
func clientInfo(user store.User) string {
	raw, err := json.Marshal(map[string]string{"uid": user.ObjectID, "utid": strings.ToLower(user.TenantID)})
	if err != nil {
		panic(err) // strings only
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// realm is what MSAL asks before it sends a password (spec/identity.md 7.1):
// managed here, or unknown. A federated one does not exist.
type realm struct {
	Version       string `json:"ver"`
	AccountType   string `json:"account_type"`
	DomainName    string `json:"domain_name,omitempty"`
	CloudInstance string `json:"cloud_instance_name"`
	CloudAudience string `json:"cloud_audience_urn,omitempty"`
}

// realmV2 is what sign-in pages and newer clients read, with api-version 2.1.
type realmV2 struct {
	Login            string `json:"Login"`
	NameSpaceType    string `json:"NameSpaceType"`
	DomainName       string `json:"DomainName,omitempty"`
	FederationBrand  string `json:"FederationBrandName,omitempty"`
	CloudInstance    string `json:"cloud_instance_name"`
	MicrosoftAccount int    `json:"MicrosoftAccount"`
}

// userRealm says of a user's domain, never of the user, whether it is ours.
func userRealm(p *Provider, c *call) (any, *oauthError) {
	query := c.request.URL.Query()
	upn := c.rest
	if upn == "" {
		upn = query.Get("user")
	}
	_, domain, ok := strings.Cut(upn, "@")
	if !ok {
		return nil, invalidRequest("The user's name must be name@domain.")
	}
	kind, brand := "Managed", ""
	tenant, failure := p.tenant(c.request.Context(), domain)
	switch {
	case failure != nil && failure.status == http.StatusServiceUnavailable:
		return nil, failure
	case failure != nil:
		kind, domain = "Unknown", ""
	default:
		brand = tenant.Name
	}
	const cloud = "microsoftonline.com"
	if strings.HasPrefix(query.Get("api-version"), "2.") {
		return realmV2{Login: clip(upn), NameSpaceType: kind, DomainName: domain, FederationBrand: brand, CloudInstance: cloud}, nil
	}
	answer := realm{Version: "1.0", AccountType: kind, DomainName: domain, CloudInstance: cloud}
	if kind == "Managed" {
		answer.CloudAudience = "urn:federation:MicrosoftOnline"
	}
	return answer, nil
}
