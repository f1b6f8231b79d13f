package forwardproxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

const (
	user = "sallyport"
	// MetadataHost is where machines in Azure find their identity
	// (spec/identity.md 2.1).
	MetadataHost = "169.254.169.254"

	dialTimeout = 15 * time.Second
	// maxReported bounds how many refused hosts are remembered and told.
	maxReported = 200
	// maxConns bounds connections at a time; a child is one program and its own.
	maxConns = 512
	// closeTimeout is how long Close waits for what it has ended.
	closeTimeout = 5 * time.Second
)

// Config is what a proxy needs.
type Config struct {
	// Server is the host:port of the server's TLS port.
	Server string
	// Relayed are the host names, in lower case, that lead to the server, at
	// port 443.
	Relayed []string
	// Allowed are further hosts that may be dialled, HOST or HOST:PORT; without
	// a port, 443 and 80. See [CheckAllowed].
	Allowed []string
	// Identity is who the child is to the metadata address; nil for nobody.
	Identity *Identity
	// Refused is told of each host refused, once; nil tells nobody.
	Refused func(host, reason string)
	// Stop is called when somebody with the password asks for the proxy's end,
	// by [Stop]; nil refuses.
	Stop func()
}

// Identity is a resource's managed identity, as the server's loopback endpoint
// proves it. It holds a secret.
type Identity struct {
	Endpoint string // URL; its host is where tokens are asked for
	Header   string // of X-IDENTITY-HEADER
}

// String hides the header.
func (i Identity) String() string { return "identity at " + i.Endpoint }

// GoString hides the header.
func (i Identity) GoString() string { return i.String() }

// Proxy is a running proxy. Its methods are safe for concurrent use.
type Proxy struct {
	cfg      Config
	password string
	listener net.Listener
	server   *http.Server
	metadata http.Handler
	dial     net.Dialer

	done    context.Context // ends relays
	cancel  context.CancelFunc
	serving sync.WaitGroup // counts up under mu, and not after closed
	places  chan struct{}

	mu       sync.Mutex
	closed   bool            // guarded by mu
	reported map[string]bool // guarded by mu
}

// Start listens on a free port of 127.0.0.1 and serves until Close. The error
// wraps [access.ErrInvalid] for a faulty configuration.
func Start(cfg Config) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(cfg.Server); err != nil {
		return nil, fmt.Errorf("proxy: server %q must be host:port: %w", cfg.Server, access.ErrInvalid)
	}
	for _, entry := range cfg.Allowed {
		if err := CheckAllowed(entry); err != nil {
			return nil, err
		}
	}
	metadata, err := metadataHandler(cfg.Identity)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{
		cfg: cfg, password: rand.Text(), listener: listener, metadata: metadata,
		dial: net.Dialer{Timeout: dialTimeout}, places: make(chan struct{}, maxConns), reported: map[string]bool{},
	}
	p.done, p.cancel = context.WithCancel(context.Background())
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	p.serving.Go(func() { _ = p.server.Serve(listener) }) // ends with Close, and says only that
	return p, nil
}

// URL is the proxy's address with its password, for the child's environment.
func (p *Proxy) URL() string {
	return (&url.URL{Scheme: "http", User: url.UserPassword(user, p.password), Host: p.listener.Addr().String()}).String()
}

// Close ends every connection and returns when all are gone, or after 5 s with
// an error that wraps [access.ErrUnavailable]: what is closed ends by itself,
// and the child's exit code does not wait for it.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	err := p.server.Close()
	gone := make(chan struct{})
	go func() { p.serving.Wait(); close(gone) }()
	select {
	case <-gone:
		return err
	case <-time.After(closeTimeout):
		return errors.Join(err, fmt.Errorf("proxy: connections are still open %v after its end: %w", closeTimeout, access.ErrUnavailable))
	}
}

// ServeHTTP implements [http.Handler]: password first, then the destination.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.proven(r.Header) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="sallyport run"`)
		http.Error(w, "sallyport run: the proxy wants the password that its child has in HTTPS_PROXY", http.StatusProxyAuthRequired)
		return
	}
	if !p.enter() {
		return
	}
	defer p.serving.Done()
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		http.Error(w, "sallyport run: too many connections at a time", http.StatusServiceUnavailable)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.IsAbs():
		p.plain(w, r)
	case r.Method == http.MethodPost && r.URL.Path == stopPath && p.cfg.Stop != nil:
		w.WriteHeader(http.StatusNoContent)
		p.cfg.Stop()
	default:
		http.Error(w, "sallyport run: this is a proxy and has no pages of its own", http.StatusNotFound)
	}
}

// enter counts a request that Close is to wait for; false when it is too late.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.serving.Add(1)
	}
	return !p.closed
}

// proven compares hashes, so that neither content nor length shows in the time.
func (p *Proxy) proven(h http.Header) bool {
	want := sha256.Sum256([]byte("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+p.password))))
	have := sha256.Sum256([]byte(h.Get("Proxy-Authorization")))
	return subtle.ConstantTimeCompare(want[:], have[:]) == 1
}

// connect opens a tunnel for TLS.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	address, ok := p.destination(r.Host)
	if !ok {
		p.refuse(w, r.Host)
		return
	}
	upstream, err := p.dial.DialContext(r.Context(), "tcp", address)
	if err != nil {
		http.Error(w, fmt.Sprintf("sallyport run: %s: %v", r.Host, err), http.StatusBadGateway)
		return
	}
	defer upstream.Close()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "sallyport run: CONNECT needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	child, buffered, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer child.Close()
	// The server does not know hijacked connections.
	stop := context.AfterFunc(p.done, func() { child.Close(); upstream.Close() })
	defer stop()
	if _, err := io.WriteString(child, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	relay(child, buffered.Reader, upstream)
}

// relay copies both ways until both have ended; the end of one way is passed
// on, since a client may still wait for the rest of the other.
func relay(child net.Conn, fromChild *bufio.Reader, upstream net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { pass(upstream, fromChild) })
	both.Go(func() { pass(child, upstream) })
	both.Wait()
}

func pass(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok && err == nil {
		_ = half.CloseWrite() // the other end may be gone already
		return
	}
	to.Close()
}

// plain passes on a request in absolute form (RFC 9112 3.2.2).
func (p *Proxy) plain(w http.ResponseWriter, r *http.Request) {
	host, port := r.URL.Hostname(), r.URL.Port()
	if r.URL.Scheme == "http" && host == MetadataHost && (port == "" || port == "80") {
		p.metadata.ServeHTTP(w, r)
		return
	}
	if port == "" {
		port = "80"
	}
	address := net.JoinHostPort(strings.ToLower(host), port)
	if r.URL.Scheme != "http" || !p.allowed(address) {
		p.refuse(w, net.JoinHostPort(host, port))
		return
	}
	(&httputil.ReverseProxy{
		Rewrite: func(out *httputil.ProxyRequest) { // hop-by-hop headers are gone already
			out.Out.URL.Host, out.Out.Host = address, r.Host
		},
		Transport: &http.Transport{DialContext: p.dial.DialContext, DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute},
		ErrorLog:  log.New(io.Discard, "", 0),
	}).ServeHTTP(w, r)
}

// destination returns the address to dial for what a CONNECT names.
func (p *Proxy) destination(target string) (address string, ok bool) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", false
	}
	host = strings.ToLower(host)
	for _, name := range p.cfg.Relayed {
		if host == name && port == "443" {
			return p.cfg.Server, true
		}
	}
	address = net.JoinHostPort(host, port)
	return address, p.allowed(address)
}

// allowed looks a host:port up in the allow-list.
func (p *Proxy) allowed(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	for _, entry := range p.cfg.Allowed {
		entryHost, entryPort, err := net.SplitHostPort(entry)
		if err != nil {
			entryHost, entryPort = strings.Trim(entry, "[]"), ""
		}
		if strings.EqualFold(entryHost, host) && (entryPort == port || entryPort == "" && (port == "443" || port == "80")) {
			return true
		}
	}
	return false
}

// refuse answers 403 and reports the host, once.
func (p *Proxy) refuse(w http.ResponseWriter, host string) {
	host = access.Clip(host, 260)
	reason := "only Azure's login, management and Graph hosts are led to the server; allow more with --allow-host"
	p.mu.Lock()
	first := !p.reported[host] && len(p.reported) < maxReported
	if first {
		p.reported[host] = true
	}
	p.mu.Unlock()
	if first && p.cfg.Refused != nil {
		p.cfg.Refused(host, reason)
	}
	http.Error(w, "sallyport run: "+host+" is not let through: "+reason, http.StatusForbidden)
}

// CheckAllowed refuses what cannot be an entry of the allow-list: it must be
// HOST, HOST:PORT, or an IPv6 address in brackets. The error wraps
// [access.ErrInvalid].
func CheckAllowed(entry string) error {
	host, port, err := net.SplitHostPort(entry)
	if err != nil {
		host, port = entry, "443"
		if bare, ok := strings.CutPrefix(entry, "["); ok {
			host = strings.TrimSuffix(bare, "]")
		}
	}
	number, portErr := net.LookupPort("tcp", port)
	bad := host == "" || strings.ContainsAny(host, "/*@ \t") || strings.Contains(host, ":") && net.ParseIP(host) == nil
	if bad || portErr != nil || number == 0 {
		return fmt.Errorf("allowed host %q must be HOST or HOST:PORT: %w", access.Clip(entry, 260), access.ErrInvalid)
	}
	return nil
}

// stopPath is what [Stop] posts to.
const stopPath = "/stop"

// Stop asks the proxy at proxyURL, as [Proxy.URL] gives it, to end. The error
// wraps [access.ErrUnavailable] when there is none.
func Stop(ctx context.Context, proxyURL string) error {
	u, err := url.Parse(proxyURL)
	if err != nil || u.User == nil || u.Scheme != "http" {
		return fmt.Errorf("not the URL of a proxy of sallyport's: %w", access.ErrInvalid) // no cause: it may quote the password
	}
	password, _ := u.User.Password()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+u.Host+stopPath, nil)
	if err != nil {
		return fmt.Errorf("not the URL of a proxy of sallyport's: %w", access.ErrInvalid)
	}
	req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req) // by no proxy
	if err != nil {
		return fmt.Errorf("no proxy at %s: %w", u.Host, errors.Join(access.ErrUnavailable, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("what listens at %s is not that proxy (status %d): %w", u.Host, resp.StatusCode, access.ErrUnavailable)
	}
	return nil
}
