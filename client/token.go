package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Audiences of tokens.
const (
	// ManagementScope is the scope of control-plane tokens.
	ManagementScope = "https://management.azure.com/.default"
	// DataPlaneAudience is the audience of tokens for clusters
	// (spec/identity.md, fixed identifiers).
	DataPlaneAudience = "839858a7-cb51-4fcf-ad2f-222fe0d2d0d0"
)

// tokenTimeout bounds one token request.
const tokenTimeout = 30 * time.Second

// Token is an access token. Formatted, it shows only its expiry.
type Token struct {
	Value   string
	Expires time.Time
}

// String hides the token, so that it cannot slip into a log.
func (t Token) String() string { return "token until " + t.Expires.UTC().Format(time.RFC3339) }

// GoString hides the token from %#v.
func (t Token) GoString() string { return t.String() }

// TokenSource fetches a token and keeps it until a tenth of its lifetime is
// left. It is safe for concurrent use.
type TokenSource struct {
	fetch func(context.Context) (Token, error)
	// cached is a channel of one, rather than a mutex, so that a caller who
	// waits for another's fetch still heeds his own context.
	cached chan cachedToken
}

type cachedToken struct {
	token   Token
	refresh time.Time
}

func newTokenSource(fetch func(context.Context) (Token, error)) *TokenSource {
	s := &TokenSource{fetch: fetch, cached: make(chan cachedToken, 1)}
	s.cached <- cachedToken{}
	return s
}

// Token returns a token that is still valid. When a refresh fails, a kept token
// serves on until its end.
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	var c cachedToken
	select {
	case c = <-s.cached:
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	defer func() { s.cached <- c }()
	now := time.Now()
	if now.Before(c.refresh) {
		return c.token, nil
	}
	t, err := s.fetch(ctx)
	if err != nil {
		if now.Before(c.token.Expires) {
			return c.token, nil
		}
		return Token{}, err
	}
	c = cachedToken{token: t, refresh: t.Expires.Add(-time.Until(t.Expires) / 10)}
	return t, nil
}

// Bearer returns the token's text; it is a [Config.Token].
func (s *TokenSource) Bearer(ctx context.Context) (string, error) {
	t, err := s.Token(ctx)
	return t.Value, err
}

// CredentialsConfig is an application's own credentials.
type CredentialsConfig struct {
	Authority    string // https URL of the identity provider, no path
	TenantID     string // GUID
	ClientID     string
	ClientSecret string
	Scope        string         // "" means ManagementScope
	RootCAs      *x509.CertPool // nil means the system's roots
	HTTP         *http.Client   // replaces the client made from RootCAs
}

// ClientCredentials gets tokens with a client secret (RFC 6749 4.4, in Entra's
// v2.0 form: spec/identity.md 3.1). The error wraps access.ErrInvalid.
func ClientCredentials(cfg CredentialsConfig) (*TokenSource, error) {
	base, err := baseURL(cfg.Authority)
	if err != nil {
		return nil, err
	}
	if !access.IsGUID(cfg.TenantID) || cfg.ClientID == "" || cfg.ClientSecret == "" {
		return nil, fmt.Errorf("client credentials need a tenant id (a GUID; have %q), a client id (have %q) and a secret: %w", cfg.TenantID, cfg.ClientID, access.ErrInvalid)
	}
	if cfg.Scope == "" {
		cfg.Scope = ManagementScope
	}
	h := httpClient(cfg.HTTP, cfg.RootCAs)
	endpoint := base.JoinPath(cfg.TenantID, "oauth2/v2.0/token").String()
	form := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {cfg.ClientID},
		"client_secret": {cfg.ClientSecret},
		"scope":         {cfg.Scope},
	}.Encode()
	return newTokenSource(func(ctx context.Context) (Token, error) {
		return requestToken(ctx, h, func(ctx context.Context) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form))
			if err == nil {
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			return req, err
		})
	}), nil
}

// ManagedIdentity gets tokens of a managed identity by App Service's protocol,
// version 2019-08-01 (spec/identity.md 2.2): endpoint and header are the
// process's IDENTITY_ENDPOINT and IDENTITY_HEADER. Plain http is usual there,
// and proxies of the environment are not used: the header is a secret. The error wraps
// access.ErrInvalid.
func ManagedIdentity(endpoint, header, resource string) (*TokenSource, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("identity endpoint %q must be an http or https URL: %w", endpoint, access.ErrInvalid)
	}
	if header == "" || resource == "" {
		return nil, fmt.Errorf("managed identity at %s needs a header and a resource: %w", endpoint, access.ErrInvalid)
	}
	q := u.Query()
	q.Set("api-version", "2019-08-01")
	q.Set("resource", resource)
	u.RawQuery = q.Encode()
	h := httpClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, nil)
	return newTokenSource(func(ctx context.Context) (Token, error) {
		return requestToken(ctx, h, func(ctx context.Context) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
			if err == nil {
				req.Header.Set("X-Identity-Header", header)
			}
			return req, err
		})
	}), nil
}

// requestToken makes a token request; repeating it is harmless, since it
// changes nothing but the hour.
func requestToken(ctx context.Context, h *http.Client, build func(context.Context) (*http.Request, error)) (Token, error) {
	r, err := retry(ctx, maxAttempts, func() (reply, error) { return roundTrip(ctx, h, tokenTimeout, build) })
	if err != nil {
		return Token{}, err
	}
	var body struct {
		AccessToken string    `json:"access_token"`
		ExpiresIn   stringInt `json:"expires_in"`
		ExpiresOn   stringInt `json:"expires_on"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		// The cause could quote the reply, and the reply holds a token.
		return Token{}, fmt.Errorf("token reply with status %d is not the expected JSON: %w", r.status, access.ErrUnavailable)
	}
	t := Token{Value: body.AccessToken, Expires: time.Unix(int64(body.ExpiresOn), 0)}
	if body.ExpiresOn == 0 {
		t.Expires = time.Now().Add(time.Duration(body.ExpiresIn) * time.Second)
	}
	if t.Value == "" || !time.Now().Before(t.Expires) {
		return Token{}, fmt.Errorf("token reply with status %d holds no valid token: %w", r.status, access.ErrUnavailable)
	}
	return t, nil
}

// stringInt is a number that managed-identity endpoints write as a string.
type stringInt int64

// UnmarshalJSON accepts 3599 and "3599".
func (n *stringInt) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("not a number of seconds: %w", access.ErrInvalid)
	}
	*n = stringInt(v)
	return nil
}
