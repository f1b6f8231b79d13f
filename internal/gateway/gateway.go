package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/requestinfo"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// Authorizer is what the gateway asks about consent.
type Authorizer interface {
	// Grant decides whether p may act in the cluster from an address.
	Grant(p access.Principal, cluster access.ResourceID, from netip.Addr) (access.Grant, error)
	// Holds reports whether a grant given earlier still stands.
	Holds(access.Grant) error
}

// Config wires a [Gateway]. Every field is needed but Address, From, TokenGrace,
// ClusterDomain, ClusterID, BindingLimits, ClusterLimits, Now, Metrics and Tracer.
type Config struct {
	// Address tells where a request comes from, as rules and the audit log are
	// to see it. With an error, which wraps [access.ErrInvalid], the request is
	// refused, and recorded under the address if there is one. Default: the
	// address of the connection.
	Address func(*http.Request) (netip.Addr, error)
	// From reports whether requests from an address are served at all. Nil
	// serves all.
	From func(netip.Addr) bool

	Authenticate func(ctx context.Context, token string) (access.Principal, error)
	Authorizer   Authorizer
	Audit        audit.Log
	// To returns the way to a cluster's agent; its error wraps
	// [access.ErrUnavailable] when none is connected.
	To     func(clusterUID string) (http.RoundTripper, error)
	Live   *tunnel.Live
	Logger *slog.Logger
	// TokenGrace is how long a request that is being answered may outlive its
	// token: a watch or an exec ends then. 0 for not at all.
	TokenGrace time.Duration
	// ClusterDomain gives each cluster a host name of its own,
	// {uid}.{ClusterDomain}, beside its path; "" for none. ClusterID then says
	// which cluster has a uid, in lower case; its error wraps
	// [access.ErrNotFound].
	ClusterDomain string
	ClusterID     func(uid string) (access.ResourceID, error)
	// BindingLimits are what each binding may take of this gateway, and
	// ClusterLimits what all bindings of a cluster may take together.
	BindingLimits, ClusterLimits Limits
	Now                          func() time.Time // default [time.Now]
	// Metrics takes the gateway's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
	// Tracer makes the spans of a request; nil makes none.
	Tracer trace.Tracer
}

// Gateway serves the data plane. It is an [http.Handler] for paths below
// [PathPrefix], and for whatever [Gateway.HasHost] claims.
type Gateway struct {
	cfg     Config
	headers *tunnel.AllowList
	// refusals bounds what refused callers can write into the audit log.
	refusals  budgets
	throttle  *throttle
	metrics   *metrics
	forwarder tunnel.Forwarder
}

// New returns a gateway, or an error that names what is missing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Authenticate == nil || cfg.Authorizer == nil || cfg.Audit == nil || cfg.To == nil || cfg.Live == nil || cfg.Logger == nil {
		return nil, errors.New("gateway: Authenticate, Authorizer, Audit, To, Live and Logger must be set")
	}
	if cfg.ClusterDomain != "" && cfg.ClusterID == nil || cfg.TokenGrace < 0 {
		return nil, errors.New("gateway: ClusterDomain needs ClusterID, and TokenGrace may not be negative")
	}
	cfg.ClusterDomain = strings.ToLower(cfg.ClusterDomain)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Address == nil {
		cfg.Address = addresses.TrustedProxies{}.Client
	}
	if err := errors.Join(cfg.BindingLimits.check(), cfg.ClusterLimits.check()); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	m := newMetrics(cfg.Metrics)
	return &Gateway{
		cfg: cfg, headers: tunnel.NewAllowList(),
		throttle: newThrottle(cfg.BindingLimits, cfg.ClusterLimits, m), metrics: m,
	}, nil
}

// ServeHTTP admits a request and forwards it, in the order the package comment
// gives.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := g.cfg.Now()
	answer := &recorder{ResponseWriter: w}
	rec := audit.Record{ID: uuid.NewString(), Method: access.Clip(r.Method, 20), Path: access.Clip(r.URL.EscapedPath(), 256)}
	r, seen := g.observe(answer, r, rec.ID)
	defer seen.end()
	adm, err := g.admit(r, &rec)
	defer func() { adm.lease.leave(g.cfg.Now()) }()
	seen.read(adm, r.Method)
	step := adm.step(rec.ObjectID != "")
	if err == nil || g.refusals.admit(start, &rec) {
		if recordErr := g.record(audit.Decision, rec, err); recordErr != nil {
			err, step = recordErr, "audit" // not recorded means refused
		}
	}
	if err != nil {
		g.refuse(answer, step, refusal{rec.ID, adm.path, err})
		return
	}
	ctx, release := g.cfg.Live.Register(r.Context(), adm.grant.BindingUID)
	defer release()
	ctx, cancel := context.WithDeadlineCause(ctx, adm.until, errTokenEnded)
	defer cancel()
	defer cutWrites(ctx, w)()

	defer func() {
		rec.Status, rec.Bytes, rec.Duration = answer.status, answer.bytes, g.cfg.Now().Sub(start)
		if seen.cause = context.Cause(ctx); seen.cause != nil {
			rec.Reason = seen.cause.Error()
		} else if answer.refused != nil {
			rec.Reason = answer.refused.Error()
		}
		if err := g.record(audit.Complete, rec, nil); err != nil {
			g.cfg.Logger.Error("completion not recorded", "request", rec.ID, "error", err)
		}
	}()
	// The binding may have gone between the decision and the registration.
	if err := g.cfg.Authorizer.Holds(adm.grant); err != nil {
		g.refuse(answer, "authorize", refusal{rec.ID, adm.path, err})
		return
	}
	seen.admitted(adm)
	adm.to = timed{paced{adm.to, adm.lease}, seen}
	g.forward(ctx, answer, r, &adm, rec.ID)
}

// admission is a request that was allowed, with all that forwarding needs.
type admission struct {
	target
	info    requestinfo.Info
	grant   access.Grant
	to      http.RoundTripper
	lease   lease
	upgrade bool
	from    netip.Addr
	until   time.Time // when the token, and its grace, have ended
}

// lastWords is how long a client that was cut may take to read why.
const lastWords = 5 * time.Second

// cutWrites lets no write to a client outlast its request's end for long. One
// that reads nothing holds its handler in a write, which no context ends. The
// answer must still be w's when stop is called.
func cutWrites(ctx context.Context, w http.ResponseWriter) (stop func()) {
	done := make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(done)
		// A writer that knows no deadlines is a test's, and does not block.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lastWords))
	})
	return func() {
		if !stopped() {
			<-done
		}
	}
}

// errTokenEnded cuts a request that outlives its token.
var errTokenEnded = fmt.Errorf("the token has expired and the grace for requests under way is over; send the request again with a new token: %w", access.ErrUnauthenticated)

// kind says whose headers the request has.
func (a admission) kind() tunnel.Kind {
	return tunnel.Kind{Upgrade: a.upgrade, Application: a.info.Application()}
}

// admit reads, authenticates and authorizes a request, noting in rec what it
// learns. It forwards nothing.
func (g *Gateway) admit(r *http.Request, rec *audit.Record) (adm admission, err error) {
	t, malformed := g.target(r)
	adm.target = t
	if adm.from, err = g.origin(r, rec); err != nil {
		return adm, err
	}
	if malformed != nil {
		return adm, malformed
	}
	if size := tunnel.HeaderSize(r.Header); size > tunnel.HeaderLimit {
		return adm, fmt.Errorf("%w: %d bytes with 32 for each field, more than %d", errHeadersTooLarge, size, tunnel.HeaderLimit)
	}
	rec.Cluster, rec.Path = t.cluster.String(), access.Clip(t.path, 1024)
	if preflight(r) {
		return adm, fmt.Errorf("a browser's cross-origin requests are not served: whoever calls a cluster sends a token of its own: %w", access.ErrForbidden)
	}
	if adm.info, err = requestinfo.Parse(r.Method, t.path, t.query); err != nil {
		return adm, err
	}
	describe(rec, adm.info)
	token, err := authenticate.BearerToken(r.Header)
	if err != nil {
		return adm, err
	}
	principal, err := g.authenticate(r.Context(), token)
	if err != nil {
		return adm, err
	}
	adm.until = principal.Expires.Add(g.cfg.TokenGrace)
	rec.TenantID, rec.ObjectID, rec.Source = principal.TenantID, principal.ObjectID, principal.Resource.String()
	if name := tunnel.SpoofsIdentity(r.Header); name != "" {
		return adm, fmt.Errorf("header %q: the identity in the cluster is set by the binding alone, nested impersonation is refused: %w", access.Clip(name, 64), access.ErrForbidden)
	}
	proto, err := tunnel.UpgradeRequest(r)
	if err != nil {
		return adm, err
	}
	if adm.upgrade = proto != ""; adm.upgrade && !adm.info.MayUpgrade() {
		return adm, fmt.Errorf("only exec, attach, portforward and proxy of a pod, and proxy of a service, can be upgraded: %w", access.ErrInvalid)
	}
	adm.grant, err = g.authorize(r.Context(), principal, t.cluster, adm.from)
	if err != nil {
		return adm, err
	}
	rec.Binding, rec.BindingUID, rec.Roles = adm.grant.Binding, adm.grant.BindingUID, adm.grant.Roles
	if adm.to, err = g.cfg.To(adm.grant.ClusterUID); err != nil {
		return adm, errNoAgent(t.cluster)
	}
	// Last, so that nothing is taken for what is refused anyway.
	adm.lease, err = g.throttle.enter(adm.grant, g.cfg.Now())
	return adm, err
}

// preflight reports whether a browser asks for leave, on behalf of another
// origin's page (Fetch, 4.8; checklist, item 29). It sends no token with it.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

func errNoAgent(cluster access.ResourceID) error {
	return fmt.Errorf("no agent of cluster %s is connected: %w", cluster.Name(), access.ErrUnavailable)
}

// describe notes what Kubernetes takes the request to be. Only what the client
// wrote without a bound of its own is clipped.
func describe(rec *audit.Record, info requestinfo.Info) {
	rec.Verb = info.Verb
	rec.APIGroup, rec.Resource, rec.Subresource = access.Clip(info.APIGroup, 256), access.Clip(info.Resource, 256), access.Clip(info.Subresource, 256)
	rec.Namespace, rec.Name = access.Clip(info.Namespace, 256), access.Clip(info.Name, 256)
}

// record writes one audit record. Its error means the request must be refused.
func (g *Gateway) record(stage audit.Stage, rec audit.Record, refusal error) error {
	rec.Time, rec.Stage = g.cfg.Now().UTC(), stage
	if stage == audit.Decision {
		allowed := refusal == nil
		rec.Allowed = &allowed
		if !allowed {
			rec.Reason = refusal.Error()
		}
	}
	return g.cfg.Audit(rec)
}

// Revoke cuts the live requests of a binding and records how many there were.
// It does not block on them.
func (g *Gateway) Revoke(bindingUID, cause string) {
	n := g.cfg.Live.Cut(bindingUID, cutError{fmt.Errorf("%s: %w", cause, access.ErrForbidden), g.cfg.Now()})
	g.metrics.revocations.Inc()
	g.metrics.cut.Add(float64(n))
	if n == 0 {
		return
	}
	rec := audit.Record{Time: g.cfg.Now().UTC(), Stage: audit.Revoked, ID: uuid.NewString(), BindingUID: bindingUID, Reason: cause, Cut: n}
	if err := g.cfg.Audit(rec); err != nil {
		g.cfg.Logger.Error("revocation not recorded", "binding", bindingUID, "error", err)
	}
}
