package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
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
	// certificate (its Leaf set), the pinned CA and the ALPN name; it is asked each
	// time, because certificates are renewed. Without ServerName the host of Address
	// is expected in the gateway's certificate. Required.
	TLS func(ctx context.Context) (*tls.Config, error)

	// Connections is how many to keep up, at most [MaxDialled]; 0 is one. They are
	// spread over the addresses that Address resolves to.
	Connections int

	// DrainTimeout is how long running requests may go on when Dial's context has
	// ended; 0 cuts them at once.
	DrainTimeout time.Duration

	// Handler answers the gateway's requests. It must heed its request's
	// context: Dial returns only when every call of it has. It must not answer
	// with "Connection: close", which net/http takes as meant for the whole
	// connection. Required.
	Handler http.Handler

	// Resolve gives the addresses of Address's host; nil is the system's resolver.
	// Through a proxy it is the proxy that resolves.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Proxy names the proxy to reach the gateway through, by CONNECT, such as
	// http.ProxyFromEnvironment; nil, or a nil URL, connects directly.
	Proxy func(*http.Request) (*url.URL, error)

	// Renew returns a channel that is closed when connections are to be replaced
	// before two thirds of their certificate's life; it is asked before each is
	// made. TLS must then give a newer certificate. Nil is never.
	Renew func() <-chan struct{}

	// Logger gets a line for each connection and each failure; nil logs nothing.
	Logger *slog.Logger

	// BackoffMin and BackoffMax bound the wait before the next attempt. The wait
	// is random between zero and a bound that doubles from the first (100 ms if
	// zero) to the second (2 s if zero), so that agents which lost their gateway
	// together do not come back together.
	BackoffMin, BackoffMax time.Duration

	// OnConnect is called when the gateway begins to use a new connection,
	// OnDisconnect when that connection is gone, with the reason. They
	// must not block. Nil is fine.
	OnConnect    func()
	OnDisconnect func(error)
}

// Dial keeps cfg.Connections connections to the gateway up, and serves its
// requests with cfg.Handler, until ctx ends. Then it takes nothing new, lets
// running requests end within cfg.DrainTimeout, cuts the rest, and returns ctx's
// cause. It returns earlier only for a configuration that can never work.
//
// When two thirds of the life of a connection's client certificate are over,
// another connection is made with a newer one; once the gateway uses that, the
// old one gets nothing new and goes on until its last request has ended.
func Dial(ctx context.Context, cfg DialConfig) error {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil || host == "" {
		return fmt.Errorf("tunnel: gateway address %q is not host:port: %w", cfg.Address, access.ErrInvalid)
	}
	if cfg.TLS == nil || cfg.Handler == nil {
		return fmt.Errorf("tunnel: dial %s without TLS or handler: %w", cfg.Address, access.ErrInvalid)
	}
	if cfg.Connections < 0 || cfg.Connections > MaxDialled {
		return fmt.Errorf("tunnel: %d connections to %s must be 1 to %d: %w", cfg.Connections, cfg.Address, MaxDialled, access.ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Connections = cmp.Or(cfg.Connections, 1)
	cfg.BackoffMin = cmp.Or(max(cfg.BackoffMin, 0), 100*time.Millisecond)
	cfg.BackoffMax = cmp.Or(max(cfg.BackoffMax, 0), 2*time.Second)

	d := newDialer(cfg, host)
	defer d.handlers.end()
	var keeping sync.WaitGroup
	for slot := range cfg.Connections {
		keeping.Go(func() { d.keep(ctx, slot) })
	}
	keeping.Wait() // until ctx has ended
	d.finish()
	return context.Cause(ctx)
}

type dialer struct {
	cfg      DialConfig
	host     string
	first    int // turn of the first slot; random, so that agents spread over addresses
	handlers calls
	serving  sync.WaitGroup // of connections, drained ones included
	cut      chan struct{}  // closed to end them all
}

func newDialer(cfg DialConfig, host string) *dialer {
	return &dialer{cfg: cfg, host: host, first: rand.IntN(1 << 20), handlers: calls{idle: make(chan struct{})}, cut: make(chan struct{})}
}

// keep keeps one of the connections up until ctx ends, and then drains it.
func (d *dialer) keep(ctx context.Context, slot int) {
	backoff := Backoff{Min: d.cfg.BackoffMin, Max: d.cfg.BackoffMax}
	var current *conn
	for turn := d.first + slot; ; {
		var renew <-chan struct{}
		if d.cfg.Renew != nil {
			renew = d.cfg.Renew()
		}
		next, err := d.open(ctx, turn, current)
		var wait time.Duration
		if err == nil {
			if current != nil {
				current.drain()
			}
			current = next
			select {
			case <-ctx.Done():
				current.drain()
				return
			case <-renewal(current.leaf):
				continue
			case <-renew:
				continue
			case <-current.ended:
				backoff.Lasted(time.Since(current.began))
				err, current = current.err, nil
				wait = backoff.Next()
			}
		} else {
			turn++ // by another address, if there is one
			wait = backoff.Next()
			if current != nil {
				wait = max(wait, renewWait(current.leaf))
			}
		}
		if ctx.Err() == nil {
			d.cfg.Logger.Warn("no connection to the gateway", "gateway", d.cfg.Address, "renewal", current != nil, "reason", err, "retry", wait.Round(time.Millisecond))
		}
		select {
		case <-time.After(wait):
		case <-current.done():
			backoff.Lasted(time.Since(current.began))
			current = nil
		case <-ctx.Done():
			if current != nil {
				current.drain()
			}
			return
		}
	}
}

// renewal fires when a connection that was made with leaf is to be replaced,
// when a third of the certificate's life remains. A little later for some than
// for others, so that an agent's connections are not replaced all at once.
func renewal(leaf *x509.Certificate) <-chan time.Time {
	if leaf == nil {
		return nil
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return time.After(time.Until(leaf.NotAfter) - life/3 + rand.N(life/24+1))
}

// renewWait is how long to wait when a replacement failed: there is time, but
// less and less.
func renewWait(leaf *x509.Certificate) time.Duration {
	const most = 5 * time.Minute
	return rand.N(min(max(time.Until(leaf.NotAfter)/8, 0), most) + 1)
}

// finish gives the drained connections their time and cuts what is left.
func (d *dialer) finish() {
	drained := make(chan struct{})
	go func() { d.serving.Wait(); close(drained) }()
	limit := time.NewTimer(d.cfg.DrainTimeout)
	defer limit.Stop()
	select {
	case <-drained:
	case <-limit.C:
	}
	close(d.cut)
	<-drained
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
