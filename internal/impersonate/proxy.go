package impersonate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/requestinfo"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// Config wires a [Proxy]. Every field but Silence, Prefix and Trace is needed.
type Config struct {
	// Upstream is the API server's address; scheme and host only.
	Upstream *url.URL
	// TLS verifies the API server.
	TLS *tls.Config
	// Token returns the proxy account's current token.
	Token func() (string, error)
	// Known checks a claim against what the agent learned itself. Its error
	// wraps [access.ErrForbidden], or [access.ErrUnavailable] when the agent
	// cannot prove that its knowledge is current.
	Known func(tunnel.Claim) error
	// Live holds the requests under way, for revocation to cut.
	Live *tunnel.Live
	// Silence is how long the API server may say nothing on a connection over
	// which it owes an answer, before it is asked whether it is there; it has
	// half as long to say so (HTTP/2 PING). Then what waits on the connection
	// ends. Default 30 s, as client-go has it: a client's own such question is
	// answered by the gateway, and ends there.
	Silence time.Duration
	// Prefix begins the names of users and groups; default "aks:trustedaccess".
	Prefix string
	Logger *slog.Logger
	// Trace adds the context's trace to a request to the API server, as its
	// traceparent; nil adds none. An application's own is left as it is.
	Trace func(context.Context, http.Header)
}

// Proxy serves the agent's end of the tunnel. It is an [http.Handler].
type Proxy struct {
	cfg       Config
	headers   *tunnel.AllowList
	forwarder tunnel.Forwarder
	upstream  roundTripper
	plain     *http.Transport
}

// New returns a proxy, or an error that names what is wrong with cfg.
func New(cfg Config) (*Proxy, error) {
	if cfg.Upstream == nil || cfg.Upstream.Scheme != "https" || cfg.Upstream.Host == "" {
		return nil, fmt.Errorf("API server address %v must be https://host[:port]: %w", cfg.Upstream, access.ErrInvalid)
	}
	if cfg.TLS == nil || cfg.Token == nil || cfg.Known == nil || cfg.Live == nil || cfg.Logger == nil {
		return nil, errors.New("impersonate: TLS, Token, Known, Live and Logger must be set")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = access.DefaultPrefix
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 30 * time.Second
	}
	p := &Proxy{cfg: cfg, headers: tunnel.NewAllowList()}
	p.plain = &http.Transport{
		Proxy:               nil, // the API server is dialled directly, whatever the environment says
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     cfg.TLS.Clone(),
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		// What the gateway would not take; the connection to it is for others too.
		MaxResponseHeaderBytes: tunnel.HeaderLimit,
		DisableCompression:     true, // the bytes of the API server, as they are
		ResponseHeaderTimeout:  0,    // a watch may take its time; the client's deadline travels
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: cfg.Silence, PingTimeout: cfg.Silence / 2},
	}
	p.upstream = roundTripper{next: p.plain, token: cfg.Token, headers: p.headers}
	return p, nil
}

// Close ends the idle connections to the API server.
func (p *Proxy) Close() { p.plain.CloseIdleConnections() }

// ServeHTTP checks the claim, enters the request as live, checks again, and
// sends it to the API server as the binding's user.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	claim, err := tunnel.ReadClaim(r.Header)
	if err != nil {
		tunnel.Refuse(w, err)
		return
	}
	ctx, release := p.cfg.Live.Register(r.Context(), claim.BindingUID)
	defer release()
	// Registered first: a deletion from here on cuts the request.
	if err := p.cfg.Known(claim); err != nil {
		tunnel.Refuse(w, err)
		return
	}
	proto, kind, err := read(r)
	if err != nil {
		tunnel.Refuse(w, err)
		return
	}
	r = r.WithContext(withIdentity(ctx, identity{
		user:       access.User(p.cfg.Prefix, claim.Binding),
		group:      access.Group(p.cfg.Prefix),
		bindingUID: claim.BindingUID,
		source:     claim.Source.String(),
		requestID:  claim.RequestID,
		kind:       kind,
	}))
	if proto != "" {
		p.upgrade(w, r)
		return
	}
	p.forward(w, r)
}

// read says, by the agent's own reading, which protocol a request upgrades to,
// if any, and whose headers it has. It refuses what a gateway in order would
// not have sent.
func read(r *http.Request) (proto string, kind tunnel.Kind, err error) {
	proto, method, err := tunnel.UpgradeFrom(r)
	if err != nil {
		return "", kind, err
	}
	if proto == "" {
		method = r.Method
	}
	info, err := requestinfo.Parse(method, r.URL.EscapedPath(), r.URL.RawQuery)
	if err != nil {
		return "", kind, err
	}
	if proto != "" && !info.MayUpgrade() {
		return "", kind, fmt.Errorf("%s cannot be upgraded: %w", access.Clip(info.Path, 256), access.ErrInvalid)
	}
	return proto, tunnel.Kind{Upgrade: proto != "", Application: info.Application()}, nil
}

// forward passes a plain request to the API server.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	began, err := p.forwarder.Forward(w, p.outgoing(r), p.upstream)
	if err == nil {
		return
	}
	if !began {
		p.failed(w, r, err)
		return
	}
	p.cfg.Logger.Debug("answer cut short", "error", err)
	panic(http.ErrAbortHandler) // it must not look whole
}

// outgoing is a request pointed at the one upstream, without any header that is
// not on the allow-list. The identity comes later, in the RoundTripper.
func (p *Proxy) outgoing(r *http.Request) *http.Request {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = p.cfg.Upstream.Scheme, p.cfg.Upstream.Host
	out.Host, out.RequestURI, out.Close = p.cfg.Upstream.Host, "", false
	out.Trailer = nil
	p.headers.Request(out.Header, kindOf(r))
	p.trace(out)
	return out
}

// trace hands the trace on to the API server. It is called behind the
// allow-list and before the identity is set.
func (p *Proxy) trace(out *http.Request) {
	if p.cfg.Trace != nil && !kindOf(out).Application {
		p.cfg.Trace(out.Context(), out.Header)
	}
}

// failed answers a request that got no answer from the API server.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if cause := context.Cause(r.Context()); cause != nil && errors.Is(cause, access.ErrForbidden) {
		tunnel.Refuse(w, cause)
		return
	}
	if r.Context().Err() == nil {
		p.cfg.Logger.Warn("the API server did not answer", "error", err)
	}
	if errors.Is(err, errNoToken) {
		tunnel.Refuse(w, errNoToken)
		return
	}
	if dialFailed(err) {
		// Nothing was sent, so the client may try again.
		tunnel.Refuse(w, fmt.Errorf("the API server cannot be reached: %w", access.ErrUnavailable))
		return
	}
	tunnel.Refuse(w, tunnel.ErrNoAnswer)
}

// dialFailed reports whether a request failed before anything was sent.
func dialFailed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// upgrade passes an exec, attach or port-forward to the API server over a
// connection of its own, since only HTTP/1.1 can upgrade.
func (p *Proxy) upgrade(w http.ResponseWriter, r *http.Request) {
	out, err := identify(p.outgoing(r), p.cfg.Token)
	if err != nil {
		tunnel.Refuse(w, err)
		return
	}
	status, err := tunnel.HandleUpgrade(w, r, p.dialUpgrade, out)
	switch {
	case err == nil:
	case status == 0:
		p.failed(w, r, err)
	default:
		panic(http.ErrAbortHandler) // an answer cut short must not look whole
	}
}

func (p *Proxy) dialUpgrade(ctx context.Context) (net.Conn, error) {
	config := p.cfg.TLS.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = p.cfg.Upstream.Hostname()
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: config}
	address := p.cfg.Upstream.Host
	if !strings.Contains(address, ":") || p.cfg.Upstream.Port() == "" {
		address = net.JoinHostPort(p.cfg.Upstream.Hostname(), "443")
	}
	return dialer.DialContext(ctx, "tcp", address)
}
