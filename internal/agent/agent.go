package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/impersonate"
	"github.com/sallyport/sallyport/internal/rbac"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// Config of an agent. The manifest of `sallyport agent manifest` sets it by
// flags; at least one of the two account directories is needed.
type Config struct {
	// Gateway is the server's address, host:port.
	Gateway string
	// Cluster is the registration this agent belongs to.
	Cluster access.ResourceID
	// CAHash pins the server's CA: "sha256:" and the hash of its public key.
	CAHash string
	// JoinTokenFile holds the one-time join token. It is shown at start; a
	// token used up earlier is no error, because pods restart.
	JoinTokenFile string
	// ProxyAccount and ReconcilerAccount are directories with the projected
	// tokens of the two service accounts: "token" for the API server,
	// "gateway-token" (audience "sallyport") for the gateway, and optionally
	// "ca.crt". An empty one leaves that half to another process.
	ProxyAccount, ReconcilerAccount string
	// APIServer is the cluster's API server, https://host[:port]; default is
	// the one a pod's environment names.
	APIServer string
	// APIServerCA is a PEM file with the API server's CA; default is ca.crt of
	// the account directory.
	APIServerCA string
	// Connections is how many the proxy keeps up to the gateway, spread over the
	// addresses of its name; 0 is [DefaultConnections], and more than
	// [tunnel.MaxDialled] is refused.
	Connections int
	// DrainTimeout is how long running requests may go on when the agent is
	// stopped. Keep it below the pod's terminationGracePeriodSeconds; 0 cuts them.
	DrainTimeout time.Duration
	// Prefix begins the names of objects, users and groups in the cluster;
	// default "aks:trustedaccess".
	Prefix string
	// Impersonation says which rules the reconciler writes for the proxy; default
	// [rbac.Legacy].
	Impersonation rbac.Impersonation
	Logger        *slog.Logger // nil discards
	// Health is told how the halves fare; nil tells nobody.
	Health *Health
	// Metrics takes the agent's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
	// Tracer makes the agent's spans; nil makes none.
	Tracer trace.Tracer
}

// What an agent does unless it is told otherwise. The drain fits the 30 s that
// Kubernetes gives a pod to end.
const (
	DefaultConnections  = 2
	DefaultDrainTimeout = 25 * time.Second
)

// Names of the files in an account directory.
const (
	apiTokenFile     = "token"
	gatewayTokenFile = "gateway-token"
	caFile           = "ca.crt"
)

// Run keeps the agent's halves running until ctx ends. Only a configuration
// that can never work makes it return earlier.
func Run(ctx context.Context, cfg Config) error {
	if cfg.ProxyAccount == "" && cfg.ReconcilerAccount == "" {
		return fmt.Errorf("agent: neither a proxy account nor a reconciler account is given: %w", access.ErrInvalid)
	}
	if cfg.APIServer == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return fmt.Errorf("agent: no API server: not in a pod (KUBERNETES_SERVICE_HOST is not set) and none given: %w", access.ErrInvalid)
		}
		cfg.APIServer = "https://" + net.JoinHostPort(host, port)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = access.DefaultPrefix
	}
	if cfg.Health == nil {
		cfg.Health = &Health{}
	}
	a := &agent{cfg: cfg, metrics: newMetrics(cfg.Metrics, cfg.Health), gateway: &enroll.Client{
		Address:   cfg.Gateway,
		ClusterID: cfg.Cluster,
		CAHash:    cfg.CAHash,
		Proxy:     http.ProxyFromEnvironment,
		Log:       cfg.Logger,
	}}
	group, ctx := errgroup.WithContext(ctx)
	if cfg.ReconcilerAccount != "" {
		a.begin(halfReconciler)
		group.Go(func() error { return a.reconcile(ctx) })
	}
	if cfg.ProxyAccount != "" {
		a.begin(halfProxy)
		group.Go(func() error { return a.proxy(ctx) })
	}
	return group.Wait()
}

type agent struct {
	cfg     Config
	gateway *enroll.Client
	renew   renewal
	metrics *metrics
}

func (a *agent) begin(half string) {
	a.cfg.Health.begin(half)
	watchFeed(a.cfg.Metrics, a.cfg.Health, half)
}

// account is one service account's view of the API server.
type account struct {
	dir  string
	rest *rest.Config
}

func (a *agent) account(dir string) (account, error) {
	ca := a.cfg.APIServerCA
	if ca == "" {
		ca = filepath.Join(dir, caFile)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return account{}, fmt.Errorf("agent: read the API server's CA: %w", err)
	}
	return account{dir: dir, rest: &rest.Config{
		Host: a.cfg.APIServer,
		// The file is read again when the kubelet has renewed it.
		BearerTokenFile: filepath.Join(dir, apiTokenFile),
		TLSClientConfig: rest.TLSClientConfig{CAData: pem},
		UserAgent:       "sallyport-agent",
		QPS:             -1, // bounded by the number of bindings, not by a client-side limit
		Timeout:         30 * time.Second,
		// HTTPS_PROXY is the way out of the cluster's network. The API server is
		// inside, and a proxy out there has no way back.
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}}, nil
}

func (acc account) credentials(c *enroll.Client, role enroll.Role) *enroll.Credentials {
	return enroll.NewCredentials(c, role, func() (string, error) { return readToken(acc.dir, gatewayTokenFile) })
}

func readToken(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("read service-account token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// reconcile runs the half that writes the roles.
func (a *agent) reconcile(ctx context.Context) error {
	acc, err := a.account(a.cfg.ReconcilerAccount)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(watchable(acc.rest))
	if err != nil {
		return fmt.Errorf("agent: API server client: %w", err)
	}
	if a.cfg.JoinTokenFile != "" {
		if err := a.join(ctx, acc, kube); err != nil {
			return err
		}
	}
	creds := acc.credentials(a.gateway, enroll.RoleReport)
	reconciler := rbac.New(rbac.Config{Client: kube, Prefix: a.cfg.Prefix, Impersonation: a.cfg.Impersonation, Logger: a.cfg.Logger.With("half", "reconciler")})

	group, ctx := errgroup.WithContext(ctx)
	desired := make(chan access.Desired)
	reports := newMailbox[access.Report]()
	group.Go(func() error {
		return a.follow(ctx, creds, func(d access.Desired) {
			a.cfg.Health.hear(halfReconciler)
			select {
			case desired <- d:
			case <-ctx.Done():
			}
		})
	})
	group.Go(func() error {
		return reconciler.Run(ctx, desired, func(r access.Report) {
			a.metrics.reported(r)
			reports.put(r)
		})
	})
	group.Go(func() error { return a.sendReports(ctx, creds, reports) })
	return group.Wait()
}

// watchable drops the client-wide timeout, which would cut watches; the
// reconciler bounds each of its calls itself.
func watchable(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = 0
	return cfg
}

// proxy runs the half that serves remote traffic.
func (a *agent) proxy(ctx context.Context) error {
	acc, err := a.account(a.cfg.ProxyAccount)
	if err != nil {
		return err
	}
	upstream, err := url.Parse(a.cfg.APIServer)
	if err != nil {
		return fmt.Errorf("agent: API server address %q: %w", a.cfg.APIServer, access.ErrInvalid)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(acc.rest.CAData) {
		return fmt.Errorf("agent: the API server's CA file holds no certificate: %w", access.ErrInvalid)
	}
	var handOn func(context.Context, http.Header)
	if a.cfg.Tracer != nil {
		handOn = func(ctx context.Context, h http.Header) { telemetry.Inject(ctx, h, "Traceparent") }
	}
	live := &tunnel.Live{}
	bindings := newKnown(live, time.Now)
	handler, err := impersonate.New(impersonate.Config{
		Upstream: upstream,
		TLS:      &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		Token:    newTokenCache(acc.dir).token,
		Known:    bindings.check,
		Live:     live,
		Prefix:   a.cfg.Prefix,
		Logger:   a.cfg.Logger.With("half", "proxy"),
		Trace:    handOn,
	})
	if err != nil {
		return err
	}
	defer handler.Close()
	creds := acc.credentials(a.gateway, enroll.RoleServe)
	group, ctx := errgroup.WithContext(ctx)
	// Its knowledge outlives the tunnel: what still runs when the agent is stopped
	// is cut by a revocation as ever.
	knowing, forget := context.WithCancelCause(context.WithoutCancel(ctx))
	group.Go(func() error {
		return a.follow(knowing, creds, func(d access.Desired) {
			bindings.update(d)
			a.cfg.Health.hear(halfProxy)
		})
	})
	group.Go(func() error { return bindings.run(knowing) })
	group.Go(func() error {
		dial := a.dialConfig(creds, enroll.ALPNTunnel)
		dial.Handler = watched{next: handler, metrics: a.metrics, tracer: a.cfg.Tracer}
		dial.OnConnect = func() { a.cfg.Health.connected(1) }
		dial.OnDisconnect = func(error) { a.cfg.Health.connected(-1) }
		dial.Connections = cmp.Or(a.cfg.Connections, DefaultConnections)
		dial.DrainTimeout = a.cfg.DrainTimeout
		err := tunnel.Dial(ctx, dial)
		forget(err)
		return err
	})
	return group.Wait()
}

func (a *agent) dialConfig(creds *enroll.Credentials, alpn string) tunnel.DialConfig {
	return tunnel.DialConfig{
		Address: a.cfg.Gateway,
		TLS: func(ctx context.Context) (*tls.Config, error) {
			config, err := creds.TLS(ctx, alpn)
			if err == nil && config.Certificates[0].Leaf != nil {
				a.metrics.shown(creds.Role(), config.Certificates[0].Leaf.NotAfter)
			}
			return config, err
		},
		Proxy:  http.ProxyFromEnvironment,
		Renew:  a.renew.due,
		Logger: a.cfg.Logger,
	}
}

// join shows the join token, until the gateway has answered.
func (a *agent) join(ctx context.Context, acc account, kube kubernetes.Interface) error {
	return retry(ctx, a.cfg.Logger, "join", func(ctx context.Context) error {
		text, err := os.ReadFile(a.cfg.JoinTokenFile)
		if errors.Is(err, os.ErrNotExist) {
			return nil // enrolled earlier, and the token cleaned away
		}
		if err != nil {
			return fmt.Errorf("read join token: %w", err)
		}
		token, err := enroll.ParseJoinToken(strings.TrimSpace(string(text)))
		if err != nil {
			// It will not get better; but a mended file will.
			return fmt.Errorf("%s: %w", a.cfg.JoinTokenFile, err)
		}
		issuer, keys, err := issuerKeys(ctx, kube)
		if err != nil {
			return err
		}
		proof, err := readToken(acc.dir, gatewayTokenFile)
		if err != nil {
			return err
		}
		err = a.gateway.Enrol(ctx, token, issuer, keys, proof)
		if errors.Is(err, access.ErrUnauthenticated) {
			// A pod that restarts shows the token it came with again. If the
			// cluster was never enrolled, getting a certificate says so.
			a.cfg.Logger.Warn("join token not accepted; going on with the enrolment there is", "reason", err)
			return nil
		}
		if err == nil {
			a.cfg.Logger.Info("enrolled", "cluster", a.cfg.Cluster.String())
		}
		return err
	})
}

// issuerKeys reads the cluster's service-account issuer and its public keys.
func issuerKeys(ctx context.Context, kube kubernetes.Interface) (issuer string, jwks []byte, err error) {
	get := func(path string) ([]byte, error) {
		b, err := kube.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("read %s from the API server: %w", path, err)
		}
		return b, nil
	}
	discovery, err := get("/.well-known/openid-configuration")
	if err != nil {
		return "", nil, err
	}
	if issuer, err = issuerOf(discovery); err != nil {
		return "", nil, err
	}
	jwks, err = get("/openid/v1/jwks")
	return issuer, jwks, err
}

// follow keeps the feed open and hands each state to f, until ctx ends.
func (a *agent) follow(ctx context.Context, creds *enroll.Credentials, f func(access.Desired)) error {
	return retry(ctx, a.cfg.Logger, "feed", func(ctx context.Context) error {
		for {
			err := a.followOnce(ctx, creds, f)
			if errors.Is(err, errNewCA) && ctx.Err() == nil {
				continue
			}
			if retired(err) {
				if err := creds.Forget(ctx); err != nil {
					return err
				}
			}
			return err
		}
	})
}

// followOnce reads the feed over one connection, until that ends or is to be
// replaced.
func (a *agent) followOnce(ctx context.Context, creds *enroll.Credentials, f func(access.Desired)) error {
	renew := a.renew.due()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		select {
		case <-renew:
			cancel(errNewCA)
		case <-ctx.Done():
		}
	})
	// Connected before the feed's silence counts: to wait one's turn, behind all
	// that lost the gateway as well, is none (checklist, item 34).
	conn, err := tunnel.Connect(ctx, a.dialConfig(creds, enroll.ALPNFeed))
	if err != nil {
		return err
	}
	defer conn.Close()
	transport := &http.Transport{DialTLSContext: only(conn)}
	defer transport.CloseIdleConnections()
	return client.NewFeed(transport).Desired(ctx, func(d access.Desired) {
		a.trust(d.CAHashes)
		f(d)
	})
}

// retired reports whether the gateway refused the agent's certificate, which a
// newer enrolment of the cluster brings about. Any other failure keeps it, so
// that a server's restart does not cost a certificate for each agent.
func retired(err error) bool {
	var op *net.OpError
	alert := errors.As(err, &op) && op.Op == "remote error" // a TLS alert
	return alert || errors.Is(err, access.ErrUnauthenticated) || errors.Is(err, access.ErrForbidden) || errors.Is(err, access.ErrNotFound)
}

// sendReports sends the newest report, again until it has arrived.
func (a *agent) sendReports(ctx context.Context, creds *enroll.Credentials, reports *mailbox[access.Report]) error {
	transport := a.feedTransport(creds)
	defer transport.CloseIdleConnections()
	feed := client.NewFeed(transport)
	renew := a.renew.due()
	for {
		report, err := reports.take(ctx)
		if err != nil {
			return err
		}
		err = retry(ctx, a.cfg.Logger, "report", func(ctx context.Context) error {
			if newer, ok := reports.poll(); ok {
				report = newer
			}
			if a.renew.before(&renew) {
				transport.CloseIdleConnections()
			}
			return feed.Report(ctx, report)
		})
		if err != nil {
			return err
		}
	}
}

// only dials what is there, once.
func only(conn net.Conn) func(context.Context, string, string) (net.Conn, error) {
	var once sync.Once
	return func(context.Context, string, string) (net.Conn, error) {
		var first net.Conn
		if once.Do(func() { first = conn }); first == nil {
			return nil, fmt.Errorf("the feed's connection is lost: %w", access.ErrUnavailable)
		}
		return first, nil
	}
}

// feedTransport speaks HTTP/1.1 over connections opened as the tunnel's are.
func (a *agent) feedTransport(creds *enroll.Credentials) *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return tunnel.Connect(ctx, a.dialConfig(creds, enroll.ALPNFeed))
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 30 * time.Second,
	}
}
