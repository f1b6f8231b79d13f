package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// DialConfig configures the agent's end.
type DialConfig struct {
	// Address of the gateway, host:port. Required.
	Address string

	// TLS gives the configuration of the next connection, with the current client
	// certificate, the pinned CA and the ALPN name; it is asked each time,
	// because certificates are renewed. Without ServerName the host of Address
	// is expected in the gateway's certificate. Required.
	TLS func(ctx context.Context) (*tls.Config, error)

	// Handler answers the gateway's requests. It must heed its request's
	// context: Dial returns only when every call of it has. It must not answer
	// with "Connection: close", which net/http takes as meant for the whole
	// connection. Required.
	Handler http.Handler

	// Proxy names the proxy to reach the gateway through, by CONNECT, such as
	// http.ProxyFromEnvironment; nil, or a nil URL, connects directly.
	Proxy func(*http.Request) (*url.URL, error)

	// Logger gets a line for each connection and each failure; nil logs nothing.
	Logger *slog.Logger

	// BackoffMin and BackoffMax bound the wait before the next attempt. The wait
	// is random between zero and a bound that doubles from the first (100 ms if
	// zero) to the second (5 s if zero), so that agents which lost their gateway
	// together do not come back together.
	BackoffMin, BackoffMax time.Duration

	// OnConnect is called when the gateway's first heartbeat arrives on a new
	// connection, OnDisconnect when that connection is gone, with the reason. They
	// must not block. Nil is fine.
	OnConnect    func()
	OnDisconnect func(error)
}

// Dial keeps one connection to the gateway up, and serves its requests with
// cfg.Handler, until ctx ends; it then cuts everything and returns ctx's cause.
// It returns earlier only for a configuration that can never work.
func Dial(ctx context.Context, cfg DialConfig) error {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil || host == "" {
		return fmt.Errorf("tunnel: gateway address %q is not host:port: %w", cfg.Address, access.ErrInvalid)
	}
	if cfg.TLS == nil || cfg.Handler == nil {
		return fmt.Errorf("tunnel: dial %s without TLS or handler: %w", cfg.Address, access.ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 100 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 5 * time.Second
	}
	cfg.BackoffMax = max(cfg.BackoffMin, cfg.BackoffMax)

	d := &dialer{cfg: cfg, host: host, handlers: calls{idle: make(chan struct{})}}
	defer d.handlers.end()
	for bound := cfg.BackoffMin; ; bound = min(2*bound, cfg.BackoffMax) {
		began := time.Now()
		err := d.once(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Since(began) >= cfg.BackoffMax && !errors.Is(err, errNotReached) {
			bound = cfg.BackoffMin // it lasted: the next loss is a new one
		}
		wait := rand.N(bound)
		cfg.Logger.Warn("no connection to the gateway", "gateway", cfg.Address, "reason", err, "retry", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errNotReached marks an attempt that never had a connection.
var errNotReached = errors.New("gateway not reached")

type dialer struct {
	cfg      DialConfig
	host     string
	handlers calls
}

// calls counts running handlers. A WaitGroup would not do: net/http may start
// a handler's goroutine just before a connection ends and run it just after.
type calls struct {
	mu     sync.Mutex
	ending bool
	n      int
	idle   chan struct{} // closed when ending is set and n is zero
}

func (c *calls) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending {
		c.n++
	}
	return !c.ending
}

func (c *calls) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.ending && c.n == 0 {
		close(c.idle)
	}
}

// end refuses further calls and waits for the running ones.
func (c *calls) end() {
	c.mu.Lock()
	c.ending = true
	if c.n == 0 {
		close(c.idle)
	}
	c.mu.Unlock()
	<-c.idle
}

// once makes one connection and serves on it until it ends.
func (d *dialer) once(ctx context.Context) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReached, err)
	}
	return d.serve(ctx, newMeter(conn))
}

// connect dials, through the proxy if there is one, and makes the handshake.
func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	cfg, err := d.cfg.TLS(ctx)
	if err != nil {
		return nil, fmt.Errorf("TLS configuration: %w", err)
	}
	cfg = cfg.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = d.host
	}
	raw, err := d.reach(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		bottom(raw).Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", d.cfg.Address, err)
	}
	if conn.ConnectionState().NegotiatedProtocol == "" && len(cfg.NextProtos) > 0 {
		bottom(raw).Close()
		return nil, fmt.Errorf("%s took none of the protocols %q (hint: is something between us ending the TLS?)", d.cfg.Address, cfg.NextProtos)
	}
	return conn, nil
}

// serve is the HTTP/2 server on one connection. It returns when the connection
// is closed and net/http has let go of it; handlers may still be returning.
func (d *dialer) serve(ctx context.Context, conn *meter) error {
	proved := make(chan struct{})
	prove := sync.OnceFunc(func() { close(proved) })
	released := make(chan struct{})
	srv := &http.Server{
		Handler:   d.handler(prove),
		Protocols: http2Only(),
		ErrorLog:  slog.NewLogLogger(d.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: upConnWindow,
			MaxReceiveBufferPerStream:     upStreamWindow,
			MaxReadFrameSize:              frameSize,
		},
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: proveTimeout, // for the preface; streams have no part in it
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(released)
			}
		},
	}
	l := &oneConn{conn: conn, next: make(chan net.Conn, 1)}
	l.next <- conn
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(l) }) // returns with conn; watch says why it ended
	err := d.watch(ctx, conn, proved)
	conn.Close()
	serving.Wait()
	<-released
	return err
}

// watch waits for the end of the connection, and ends it when it is silent.
func (d *dialer) watch(ctx context.Context, conn *meter, proved <-chan struct{}) (err error) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	silent := silence{m: conn}
	limit := int(proveTimeout / beatEvery)
	for waiting := 0; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-conn.closed:
			return errors.New("connection closed")
		case <-proved:
			proved, limit = nil, silentTicks
			d.cfg.Logger.Info("connected to the gateway", "gateway", d.cfg.Address)
			if d.cfg.OnConnect != nil {
				d.cfg.OnConnect()
			}
			if d.cfg.OnDisconnect != nil {
				defer func() { d.cfg.OnDisconnect(err) }()
			}
		case <-tick.C:
			waiting++
			if silent.tick(limit) || proved != nil && waiting >= limit {
				return errSilent
			}
		}
	}
}

// handler answers heartbeats itself and counts the calls of the real handler.
func (d *dialer) handler(heard func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.handlers.enter() {
			return
		}
		defer d.handlers.leave()
		if r.RequestURI == heartbeatPath {
			answerBeats(w, r, heard)
			return
		}
		d.cfg.Handler.ServeHTTP(w, r)
	})
}

// oneConn is a listener that accepts one connection, and ends when that does.
type oneConn struct {
	conn *meter
	next chan net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.next:
		return c, nil
	default:
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return l.conn.Close() }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
