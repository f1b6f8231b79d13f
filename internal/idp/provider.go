package idp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
)

// Directory knows who exists. What it does not know is an
// [access.ErrNotFound]; any other error is answered as unavailable.
type Directory interface {
	// Application returns the application with this client id (a GUID).
	Application(ctx context.Context, clientID string) (Application, error)
	// ManagedIdentity returns the system-assigned identity of the resource
	// with this uid.
	ManagedIdentity(ctx context.Context, resourceUID string) (Identity, error)
	// HasTenant reports whether the tenant (a GUID in lower case) exists.
	HasTenant(ctx context.Context, tenantID string) (bool, error)
}

// Application is a program with a secret of its own.
type Application struct {
	TenantID   string
	ClientID   string
	ObjectID   string // of its service principal
	SecretHash string // by HashSecret
}

// Identity is a resource's system-assigned managed identity.
type Identity struct {
	ResourceID access.ResourceID
	TenantID   string
	ObjectID   string
	AppID      string
}

// Lifetimes are how long tokens live; a zero means the default.
type Lifetimes struct {
	Application     time.Duration // 1 h
	ManagedIdentity time.Duration // 24 h and 5 min, as Entra's (spec/identity.md 1.2)
}

// Config is what a provider needs.
type Config struct {
	// BaseURL returns the provider's address as the client sees it,
	// https://host[:port] without a slash at the end.
	BaseURL func(*http.Request) string
	// Hosts are further names (host or host:port) under which clients reach
	// this provider; instance discovery answers for them and no others.
	Hosts     []string
	Keys      *Keys
	Directory Directory
	// AllowAudience admits audiences beside ARM's and Trusted Access's, such as
	// the server's own URL, for which Terraform asks; nil admits none.
	AllowAudience func(audience string) bool
	Lifetimes     Lifetimes
	Now           func() time.Time // nil for time.Now
	Logger        *slog.Logger     // one line per request; nil discards
	// Metrics takes the provider's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
}

// Provider is the identity provider. Safe for concurrent use; it has no
// goroutines.
type Provider struct {
	cfg     Config
	tokens  tokenCache
	metrics *metrics
}

// New returns a provider. A faulty configuration is an [access.ErrInvalid].
func New(cfg Config) (*Provider, error) {
	if cfg.BaseURL == nil || cfg.Keys == nil || cfg.Directory == nil {
		return nil, fmt.Errorf("idp: BaseURL, Keys and Directory are needed: %w", access.ErrInvalid)
	}
	if cfg.Lifetimes.Application == 0 {
		cfg.Lifetimes.Application = time.Hour
	}
	if cfg.Lifetimes.ManagedIdentity == 0 {
		cfg.Lifetimes.ManagedIdentity = 24*time.Hour + 5*time.Minute
	}
	if cfg.Lifetimes.Application < time.Minute || cfg.Lifetimes.ManagedIdentity < time.Minute {
		return nil, fmt.Errorf("idp: lifetimes are %v, and must be at least a minute: %w", cfg.Lifetimes, access.ErrInvalid)
	}
	if cfg.AllowAudience == nil {
		cfg.AllowAudience = func(string) bool { return false }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Provider{cfg: cfg, metrics: newMetrics(cfg.Metrics)}, nil
}

// Issuer returns the "iss" of a tenant's tokens, which package authenticate is
// to be configured with. It is Entra's v1 form, as clients and services expect.
func (p *Provider) Issuer(tenantID string) string { return tokenIssuer(strings.ToLower(tenantID)) }

func tokenIssuer(tenantID string) string { return "https://sts.windows.net/" + tenantID + "/" }

// call is one request to an endpoint.
type call struct {
	request *http.Request
	name    string // of the endpoint, for the log
	tenant  string // first segment of the path, in lower case; a GUID or not
	client  string // its id, for the log
}

// endpoint answers a call, with a value to be written as JSON or a failure.
type endpoint func(p *Provider, c *call) (any, *oauthError)

type route struct {
	path   string // after the tenant, in lower case
	method string
	name   string // for the log
	serve  endpoint
}

// routes returns all routes of the login host (spec/identity.md, checklist).
func routes() []route {
	return []route{
		{".well-known/openid-configuration", http.MethodGet, "discovery", discoveryV1},
		{"v2.0/.well-known/openid-configuration", http.MethodGet, "discovery", discoveryV2},
		{"discovery/keys", http.MethodGet, "keys", jwksOf},
		{"discovery/v2.0/keys", http.MethodGet, "keys", jwksOf},
		{"discovery/instance", http.MethodGet, "instance", instance}, // of "common" only
		{"oauth2/token", http.MethodPost, "token", tokenV1},
		{"oauth2/v2.0/token", http.MethodPost, "token", tokenV2},
	}
}

// ServeHTTP is the login host.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tenant, rest, ok := splitPath(r.URL.EscapedPath())
	c := &call{request: r, name: "none", tenant: tenant}
	var answer any
	failure := notFound()
	if ok {
		for _, route := range routes() {
			if route.path != rest {
				continue
			}
			c.name = route.name
			if route.method != r.Method {
				w.Header().Set("Allow", route.method)
				failure = methodNotAllowed(r.Method, route.method)
				break
			}
			answer, failure = route.serve(p, c)
		}
	}
	p.reply(w, c, answer, failure)
}

// splitPath returns a path's tenant and the rest, in lower case. Nothing is
// cleaned: an escape, a dot segment or an empty one is no path of ours. Only
// the slash doubled by a login endpoint that ends in one is forgiven, since
// Terraform sends it (spec/identity.md 7.6).
func splitPath(escaped string) (tenant, rest string, ok bool) {
	path, ok := strings.CutPrefix(escaped, "/")
	if !ok || strings.ContainsAny(path, "%\\") {
		return "", "", false
	}
	path = strings.ToLower(strings.TrimPrefix(path, "/"))
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", "", false
		}
	}
	return strings.Cut(path, "/")
}

// tenantOf checks that a tenant exists. With shared set, common and
// organizations will do, and give Entra's placeholder.
func (p *Provider) tenantOf(ctx context.Context, tenant string, shared bool) (string, *oauthError) {
	if shared && (tenant == "common" || tenant == "organizations") {
		return "{tenantid}", nil
	}
	if !access.IsGUID(tenant) {
		return "", unknownTenant(tenant)
	}
	known, err := p.cfg.Directory.HasTenant(ctx, tenant)
	switch {
	case errors.Is(err, access.ErrNotFound), err == nil && !known:
		return "", unknownTenant(tenant)
	case err != nil:
		return "", unavailable(err)
	}
	return tenant, nil
}
