package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// Config is what a control plane is made of. Store, Authenticate, Peer and
// Audit are required.
type Config struct {
	// Store keeps everything.
	Store *store.Store
	// Authenticate verifies an ARM bearer token. Errors wrap
	// [access.ErrUnauthenticated], or [access.ErrUnavailable] when keys could
	// not be had; the caller is told the text of an [authenticate.Refusal] only.
	Authenticate func(ctx context.Context, token string) (access.Principal, error)
	// Peer tells from a request's verified client certificate whose it is.
	Peer func(*http.Request) (Peer, error)
	// Remote tells a request's source address, for logs and records. Default:
	// the address of the connection.
	Remote func(*http.Request) string
	// Audit records each decision on a write before it is done. When it
	// fails, the write is refused.
	Audit audit.Log
	// Records reads the audit log to owners. Nil: not served.
	Records AuditReader
	// Explain says what would become of a request of p, which nobody makes. The
	// id is the question's. Nil: not served.
	Explain func(ctx context.Context, p access.Principal, cluster access.ResourceID, q access.Question, id string) access.Explanation

	// Catalogue holds the roles that bindings may name, in the order listed.
	Catalogue []access.Role
	// BindingLimit is the most bindings a cluster may have; default 8, as AKS,
	// and at most 40: a cluster goes with its bindings in one transaction.
	BindingLimit int
	// PreviewRoleBindings serves the preview API of 2022, azureResourceRoleBindings,
	// by which a cluster's owner can consent to every resource of a type in the
	// subscription. Without it such bindings that there are do not serve.
	PreviewRoleBindings bool
	// RequireKnownSources refuses bindings whose source is not in the
	// embedded directory. Without it such a source is taken to be a resource
	// of the real cloud, whose object id nobody here can pin.
	RequireKnownSources bool

	// IdentityHeader makes the secret that a resource shows at
	// IdentityEndpoint to get its tokens. Nil: listCredentials is not served.
	IdentityHeader   func(resourceUID string) string
	IdentityEndpoint string
	// Enrol serves an agent's enrolment, and its certificates, for one
	// cluster; action is "enrol" or "certificate". It checks its caller
	// itself: there is no bearer token of ARM's. Nil: not served.
	Enrol func(w http.ResponseWriter, r *http.Request, cluster access.ResourceID, action string)
	// IssueJoinToken makes a one-time token for a cluster's agent and, with it
	// or not at all, sets the cluster's JoinIssued. With reset, the agent that
	// enrols need not prove to be the enrolled cluster's. Nil: not served.
	IssueJoinToken func(ctx context.Context, cluster access.Cluster, reset bool) (token string, expires time.Time, err error)
	// IssueLease makes a short-lived token that names a caller, for an audience.
	// The error wraps [access.ErrNotFound] for a caller of a tenant that no
	// tokens are issued in. Nil: listClusterAdminCredential is not served.
	IssueLease func(ctx context.Context, caller access.Principal, audience string, most time.Duration) (Lease, error)
	// CACertificates, in PEM, is what the gateway's own certificate is known by,
	// for kubeconfigs. Nil: no certificates.
	CACertificates func() []byte
	// GatewayAddress (host:port) is what agents are told to find the gateway.
	// Owners see it in an agent's status.
	GatewayAddress string
	// CAHashes are those of the CAs by which agents know the gateway, the older
	// first. Owners see the newest, and agents hear of all. Nil: of none.
	CAHashes func() []string
	// ClusterAddress returns the URL of a cluster's own host on the gateway, ""
	// where clusters have none. Optional.
	ClusterAddress func(clusterUID string) string
	// Settled returns once the gateway has seen the store's revision. A
	// delete's operation succeeds only then. Nil: it succeeds with the write.
	Settled func(ctx context.Context, revision int64) error
	// ClusterSettled is Settled for a change of a cluster's policy.
	ClusterSettled func(ctx context.Context, revision int64) error
	// CheckRanges says what is wrong with a policy's source ranges; its error
	// wraps [access.ErrInvalid]. Nil: policies cannot have any.
	CheckRanges func(ranges []string) error

	// Tunnel says how many live connections a cluster's proxy has. Nil: the
	// proxy's feed alone says whether it is there.
	Tunnel func(clusterUID string) int

	// AgentTimeout is how long a binding's write waits for the cluster's
	// agent; default 60 s.
	AgentTimeout time.Duration
	// Unserved is told of each request that no route serves; nil tells nobody.
	Unserved func(*http.Request)
	// AzureHosts are the names of Azure's hosts on which this server answers, and
	// AzureHostsCA is the PEM certificate of the CA that speaks for them. Empty:
	// not served.
	AzureHosts   []string
	AzureHostsCA string
	// LoginEndpoint is the authority in 401 challenges; default
	// https://login.windows.net, as the real service.
	LoginEndpoint string
	// Now is the clock; default [time.Now].
	Now func() time.Time
	// Logger gets one line for each request; default: discarded.
	Logger *slog.Logger
	// Metrics takes the control plane's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
	// Tracer makes a span for each request; nil makes none.
	Tracer trace.Tracer
}

// ControlPlane serves owners and agents. Its methods are safe for concurrent
// use.
type ControlPlane struct {
	cfg     Config
	store   *store.Store
	roles   *authorize.Roles
	builtIn []access.RoleDefinition
	// directory says who is in which group of the tenants that we keep.
	directory *directory.Directory
	log       *slog.Logger
	routes    []route
	feeds     *feeds
	metrics   *metrics
	// removals wakes Run for a group that is being deleted.
	removals chan struct{}

	stopOnce sync.Once
	stopped  chan struct{} // closed when Run ends; feeds end with it
}

// New makes a control plane. The error wraps [access.ErrInvalid] and names the
// missing field.
func New(cfg Config) (*ControlPlane, error) {
	missing := ""
	switch {
	case cfg.Store == nil:
		missing = "Store"
	case cfg.Authenticate == nil:
		missing = "Authenticate"
	case cfg.Peer == nil:
		missing = "Peer"
	case cfg.Audit == nil:
		missing = "Audit"
	}
	if missing != "" {
		return nil, fmt.Errorf("control plane: Config.%s must be set: %w", missing, access.ErrInvalid)
	}
	if cfg.BindingLimit < 0 || cfg.BindingLimit > maxBindingLimit {
		return nil, fmt.Errorf("control plane: Config.BindingLimit %d must be 1 to %d: %w", cfg.BindingLimit, maxBindingLimit, access.ErrInvalid)
	}
	for _, role := range cfg.Catalogue {
		if err := access.CheckRoleName(role.Name); err != nil {
			return nil, fmt.Errorf("control plane: catalogue: %w", err)
		}
	}
	cfg.BindingLimit = cmp.Or(cfg.BindingLimit, 8)
	cfg.AgentTimeout = cmp.Or(cfg.AgentTimeout, time.Minute)
	cfg.LoginEndpoint = cmp.Or(cfg.LoginEndpoint, "https://login.windows.net")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Remote == nil {
		cfg.Remote = func(r *http.Request) string { return r.RemoteAddr }
	}
	if cfg.CACertificates == nil {
		cfg.CACertificates = func() []byte { return nil }
	}
	if cfg.CAHashes == nil {
		cfg.CAHashes = func() []string { return nil }
	}
	if cfg.Unserved == nil {
		cfg.Unserved = func(*http.Request) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	who := directory.New(cfg.Store)
	builtIn, err := access.BuiltInRoles()
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	c := &ControlPlane{cfg: cfg, store: cfg.Store, roles: authorize.NewRoles(cfg.Store, builtIn, cfg.Catalogue, who.GroupsOf), builtIn: builtIn, directory: who, log: cfg.Logger, feeds: newFeeds(), removals: make(chan struct{}, 1), stopped: make(chan struct{})}
	c.routes = c.table()
	c.metrics = newMetrics(cfg.Metrics, c.feeds)
	return c, nil
}

const (
	// tick is how often Run looks for operations past their deadline.
	tick = time.Second
	// settled is how long a delete's request waits for the gateway before Run
	// takes over.
	settled = 3 * time.Second
	// maxBindingLimit keeps a cluster's delete, three changes for each binding,
	// below the 128 that one transaction of the store can hold.
	maxBindingLimit = 40
	// keepOperations is how long an ended operation can be polled.
	keepOperations = 24 * time.Hour
)

// Run does the background work until ctx ends, and then returns nil: it wakes
// agents' feeds at changes, fails operations past their deadline, empties groups
// that are being deleted, takes up what a restart left, and forgets old ones. Feeds end with it.
func (c *ControlPlane) Run(ctx context.Context) error {
	defer c.stopOnce.Do(func() { close(c.stopped) })
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	fail := make(chan error, 5)
	for _, follow := range []func(context.Context) error{c.followClusters, c.followBindings, c.followTombstones, c.followResources, c.followOperations} {
		wg.Go(func() { fail <- follow(ctx) })
	}
	wg.Go(func() { c.removeGroups(ctx) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var swept time.Time
	for {
		c.checkPending(ctx)
		if now := c.cfg.Now(); now.Sub(swept) > time.Hour {
			swept = now
			c.sweep(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		case err := <-fail:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("control plane: follow the store: %w", cmp.Or(err, errors.New("ended")))
		}
	}
}

// attempts bounds how often a write is tried again when what it read was
// changed meanwhile. Each round lets at least one of the contenders through.
const attempts = 32

// errRaced marks a transaction whose conditions did not hold.
var errRaced = fmt.Errorf("what the write had read was changed meanwhile, again and again: %w", access.ErrConflict)

// retry runs try until it does not end in errRaced.
func retry(ctx context.Context, try func() error) error {
	for range attempts {
		if err := try(); !errors.Is(err, errRaced) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), access.ErrUnavailable)
		}
	}
	return errRaced
}

// raced turns a transaction's conflict into errRaced.
func raced(err error) error {
	if errors.Is(err, access.ErrConflict) {
		return errRaced
	}
	return err
}
