package idp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Directory knows who exists; [directory.Directory] is one but for managed
// identities. What it does not know is an [access.ErrNotFound]; any other error
// is answered as unavailable.
type Directory interface {
	// Tenant returns the tenant with this id or verified domain.
	Tenant(ctx context.Context, name string) (store.Tenant, error)
	// Home returns the tenant that an application is of, "" for all.
	Home(ctx context.Context, clientID string) (tenantID string, err error)
	// Application returns the tenant's application with this client id (a GUID).
	Application(ctx context.Context, tenantID, clientID string) (store.Application, error)
	// API returns the tenant's application that an audience means.
	API(ctx context.Context, tenantID, audience string) (store.Application, error)
	// User returns the tenant's user with this object id or UPN.
	User(ctx context.Context, tenantID, name string) (store.User, error)
	// Groups returns the ids of all groups that an object is in.
	Groups(ctx context.Context, tenantID, objectID string) ([]string, error)
	// ManagedIdentity returns the identity that is wanted of those that the
	// resource with this uid may use.
	ManagedIdentity(ctx context.Context, resourceUID string, want WantedIdentity) (Identity, error)
}

// Identity is a managed identity.
type Identity struct {
	ResourceID access.ResourceID // whose it is
	Location   string            // of that resource
	TenantID   string
	ObjectID   string
	AppID      string
	// UsedBy is the resource that asks, of a user-assigned identity; else zero.
	UsedBy access.ResourceID
}

// How long tokens live.
const (
	tokenLife           = time.Hour                    // of applications and users
	refreshTokenLife    = 90 * 24 * time.Hour          // from its last use, as Entra's
	managedIdentityLife = 24*time.Hour + 5*time.Minute // as Entra's (spec/identity.md 1.2)
)

// Config is what a provider needs.
type Config struct {
	// BaseURL returns the provider's address as the client sees it,
	// https://host[:port] without a slash at the end.
	BaseURL func(*http.Request) string
	// Hosts are further names (host or host:port) under which clients reach
	// this provider. Beside Address and Entra's login hosts, they are all that
	// instance discovery answers for and a client's assertion may be made for.
	Hosts     []string
	Keys      *Keys
	Directory Directory
	// Aliases are further audiences, without a slash at the end, and the client
	// ids of the APIs they mean: the server's own URL, for which Terraform asks,
	// is ARM.
	Aliases map[string]string
	// Address is this provider's own, https://host[:port], where a browser
	// that no proxy leads here finds it. Default: as the client sees it.
	Address string
	// ArcTokens is the folder for the challenges of Arc's protocol; clients
	// believe only /var/opt/azcmagent/tokens. Empty: not served.
	ArcTokens string
	// Remote tells a request's source address, by which failed sign-ins are
	// counted. Default: the address of the connection.
	Remote func(*http.Request) string
	Now    func() time.Time // nil for time.Now
	Logger *slog.Logger     // one line per request; nil discards
	// Unserved is told of each request that no route serves; nil tells nobody.
	Unserved func(*http.Request)
	// Metrics takes the provider's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
}

// Provider is the identity provider. Safe for concurrent use; it has no
// goroutines.
type Provider struct {
	cfg      Config
	tokens   tokenCache
	attempts *attempts
	devices  *deviceFlows
	codes    *authorizations
	metrics  *metrics
}

// New returns a provider. A faulty configuration is an [access.ErrInvalid].
func New(cfg Config) (*Provider, error) {
	if cfg.BaseURL == nil || cfg.Keys == nil || cfg.Directory == nil {
		return nil, fmt.Errorf("idp: BaseURL, Keys and Directory are needed: %w", access.ErrInvalid)
	}
	if cfg.Remote == nil {
		cfg.Remote = func(r *http.Request) string { host, _, _ := net.SplitHostPort(r.RemoteAddr); return host }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Unserved == nil {
		cfg.Unserved = func(*http.Request) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Provider{cfg: cfg, metrics: newMetrics(cfg.Metrics), attempts: newAttempts(cfg.Now), devices: newDeviceFlows(), codes: newAuthorizations()}, nil
}

// Issuer returns the "iss" of a tenant's tokens, which package authenticate is
// to be configured with. It is Entra's v1 form, as clients and services expect.
func (p *Provider) Issuer(tenantID string) string { return tokenIssuer(strings.ToLower(tenantID)) }

func tokenIssuer(tenantID string) string { return "https://sts.windows.net/" + tenantID + "/" }

// issuerV2 is that of v2 tokens, and of id_tokens of the v2 endpoint: the one
// of the v2 discovery document, on the host that the client asked.
func issuerV2(host, tenantID string) string { return host + "/" + tenantID + "/v2.0" }

// call is one request to an endpoint.
type call struct {
	request *http.Request
	name    string // of the endpoint, for the log
	tenant  string // first segment of the path, in lower case: an id, a domain or "common"
	rest    string // of the path, where the route leaves some
	client  string // its id, for the log
	page    bool
}

// endpoint answers a call, with a value to be written as JSON or a failure.
type endpoint func(p *Provider, c *call) (any, *oauthError)

type route struct {
	path   string // after the tenant, in lower case; with a slash at the front: the whole; with one at the end: what begins so
	method string
	name   string // for the log
	page   bool   // for people: refusals are pages as well
	serve  endpoint
}

// routes returns all routes of the login host (spec/identity.md, checklist).
func routes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{".well-known/openid-configuration", get, "discovery", false, discoveryV1},
		{"v2.0/.well-known/openid-configuration", get, "discovery", false, discoveryV2},
		{"discovery/keys", get, "keys", false, jwksOf},
		{"discovery/v2.0/keys", get, "keys", false, jwksOf},
		{"discovery/instance", get, "instance", false, instance}, // of "common" only
		{"userrealm", get, "userrealm", false, userRealm},
		{"userrealm/", get, "userrealm", false, userRealm},
		{"oauth2/token", post, "token", false, tokenV1},
		{"oauth2/v2.0/token", post, "token", false, tokenV2},
		{"oauth2/authorize", get, "authorize", true, authorizeV1},
		{"oauth2/authorize", post, "authorize", true, authorizeSignIn},
		{"oauth2/v2.0/authorize", get, "authorize", true, authorizeV2},
		{"oauth2/v2.0/authorize", post, "authorize", true, authorizeSignIn},
		{"oauth2/logout", get, "logout", true, logout},
		{"oauth2/v2.0/logout", get, "logout", true, logout},
		{"oauth2/devicecode", post, "devicecode", false, deviceCodeV1},
		{"oauth2/v2.0/devicecode", post, "devicecode", false, deviceCodeV2},
		{"/devicelogin", get, "devicelogin", true, deviceLogin},
		{"/devicelogin", post, "devicelogin", true, deviceSignIn},
		{"common/oauth2/deviceauth", get, "devicelogin", true, deviceLogin},
	}
}

// serves reports whether the route is for a path, and returns its tenant and
// what is after the route's own part.
func (r route) serves(path string) (tenant, rest string, ok bool) {
	if whole, found := strings.CutPrefix(r.path, "/"); found {
		return "", "", path == whole
	}
	tenant, path, _ = strings.Cut(path, "/")
	if strings.HasSuffix(r.path, "/") {
		rest, ok = strings.CutPrefix(path, r.path)
		return tenant, rest, ok && rest != ""
	}
	return tenant, "", path == r.path
}

// ServeHTTP is the login host.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{request: r, name: "none"}
	var answer any
	failure := notFound()
	path, ok := cleanPath(r.URL.EscapedPath())
	var allowed []string
	for _, route := range routes() {
		tenant, rest, serves := route.serves(path)
		if !ok || !serves {
			continue
		}
		c.name, c.page, c.tenant, c.rest = route.name, route.page, tenant, rest
		if route.method == r.Method {
			allowed = nil
			answer, failure = route.serve(p, c)
			break
		}
		allowed = append(allowed, route.method)
	}
	if allowed != nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		failure = methodNotAllowed(r.Method, strings.Join(allowed, ", "))
	}
	if c.name == "none" || allowed != nil {
		p.cfg.Unserved(r)
	}
	p.reply(w, c, answer, failure)
}

// cleanPath returns a path in lower case, without the slash at its front.
// Nothing else is cleaned: an escape, a dot segment or an empty one is no path
// of ours. Only the slash doubled by a login endpoint that ends in one is
// forgiven, since Terraform sends it (spec/identity.md 7.6), and the escape of
// the @ in a user's name.
func cleanPath(escaped string) (string, bool) {
	path, ok := strings.CutPrefix(escaped, "/")
	path = strings.ReplaceAll(path, "%40", "@")
	if !ok || strings.ContainsAny(path, "%\\") {
		return "", false
	}
	path = strings.ToLower(strings.TrimPrefix(path, "/"))
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", false
		}
	}
	return path, true
}

// shared reports whether a path's tenant is none in particular.
func shared(tenant string) bool { return tenant == "common" || tenant == "organizations" }

// tenant returns the tenant with this id or domain.
func (p *Provider) tenant(ctx context.Context, name string) (store.Tenant, *oauthError) {
	if !access.IsGUID(name) && !strings.Contains(name, ".") {
		return store.Tenant{}, unknownTenant(name)
	}
	tenant, err := p.cfg.Directory.Tenant(ctx, name)
	switch {
	case errors.Is(err, access.ErrNotFound):
		return tenant, unknownTenant(name)
	case err != nil:
		return tenant, unavailable(err)
	}
	return tenant, nil
}

// tenantID is the id of a path's tenant, or Entra's placeholder for a shared
// one.
func (p *Provider) tenantID(ctx context.Context, name string) (string, *oauthError) {
	if shared(name) {
		return "{tenantid}", nil
	}
	tenant, failure := p.tenant(ctx, name)
	return strings.ToLower(tenant.ID), failure
}

// isOwnHost reports whether a host (host or host:port) leads to this provider.
// What a request names as its host says nothing: an assertion made for another
// server would be good here by that name.
func (p *Provider) isOwnHost(r *http.Request, host string) bool {
	own := append([]string{strings.TrimPrefix(cmp.Or(p.cfg.Address, p.cfg.BaseURL(r)), "https://")}, append(loginHosts(), p.cfg.Hosts...)...)
	return host != "" && slices.ContainsFunc(own, func(h string) bool { return strings.EqualFold(h, host) })
}

// forBrowser is where a browser finds this provider: as the client does, but
// for a client that a proxy led here by the name of Entra's host. The user's
// browser is not behind that proxy, and would ask Entra itself.
func (p *Provider) forBrowser(r *http.Request) string {
	host := p.cfg.BaseURL(r)
	if p.cfg.Address != "" && slices.Contains(loginHosts(), strings.ToLower(strings.TrimPrefix(host, "https://"))) {
		return p.cfg.Address
	}
	return host
}
