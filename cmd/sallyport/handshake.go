package main

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the handshakes on the one TLS port. They are bounded in number and
// time, so that half-open ones cannot pile up (security checklist, item 31), and
// taken in turn, so that thousands of agents which come back at once get in one
// after the other instead of none (item 34).
const (
	// maxHalfOpen is how many connections may be waited for to say something; each
	// holds some 10 to 40 KiB.
	maxHalfOpen = 4096
	// maxQueued is how many may wait for their turn, of agents and of others each.
	maxQueued = 4096
	// turnTimeout leaves who gets a turn at last some time to use it: agents give up
	// a handshake after 10 s.
	turnTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
)

// handshakes are those under way. What costs is our half: keys and a signature.
// So that begins in the order in which clients spoke, for as many at a time as
// there are processors, and what is begun is not given up for those behind it:
// under more load than that, the work would all be for connections that are
// closed before their end. Agents and others have turns of their own, so neither
// waits for the other's crowd.
type handshakes struct {
	silent        halfOpen
	agent, others turns
}

func newHandshakes(halfOpenMost int) *handshakes {
	n := runtime.GOMAXPROCS(0)
	return &handshakes{
		silent: halfOpen{most: halfOpenMost},
		agent:  turns{taken: make(chan struct{}, n)}, others: turns{taken: make(chan struct{}, n)},
	}
}

// handshaking is a connection in its handshake. It knows whether it is the client
// who is waited for.
type handshaking struct {
	net.Conn
	all  *handshakes
	turn *turns // that it holds; nil for none
	over bool
}

// Read implements [net.Conn].
func (c *handshaking) Read(p []byte) (int, error) {
	if c.over {
		return c.Conn.Read(p)
	}
	c.giveBack()
	defer c.all.silent.enter(c.Conn)()
	return c.Conn.Read(p)
}

// NetConn returns the connection below, as that of a [tls.Conn] does.
func (c *handshaking) NetConn() net.Conn { return c.Conn }

// begin waits for a turn, when the client has spoken.
func (c *handshaking) begin(ctx context.Context, isAgent bool) error {
	t := &c.all.others
	if isAgent {
		t = &c.all.agent
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	c.turn = t
	return nil
}

func (c *handshaking) giveBack() {
	if c.turn != nil {
		<-c.turn.taken
		c.turn = nil
	}
}

// end leaves the connection as it is without a handshake.
func (c *handshaking) end() {
	c.giveBack()
	c.over = true
}

// inTurn is a configuration whose handshakes wait for their turn.
func inTurn(config *tls.Config, isAgent func(*tls.ClientHelloInfo) bool) *tls.Config {
	choose := config.GetConfigForClient
	config = config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if err := hello.Conn.(*handshaking).begin(hello.Context(), isAgent != nil && isAgent(hello)); err != nil {
			return nil, err
		}
		if choose == nil {
			return nil, nil
		}
		return choose(hello)
	}
	return config
}

// turns are given in the order in which they are asked for.
type turns struct {
	taken  chan struct{} // has an element for each
	queued atomic.Int64
}

var errCrowded = errors.New("too many handshakes at once")

func (t *turns) take(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, turnTimeout, errCrowded)
	defer cancel()
	defer t.queued.Add(-1)
	if t.queued.Add(1) > maxQueued {
		return errCrowded
	}
	select {
	case t.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// halfOpen holds the connections whose client is waited for. When there are too
// many the one that was silent longest gives way: an honest one answers in
// milliseconds, so what is old is what somebody piles up to lock others out
// (checklist, item 31).
type halfOpen struct {
	most int

	mu    sync.Mutex
	conns list.List // of net.Conn, the longest silent first
}

// enter adds a connection, and returns what takes it out again.
func (h *halfOpen) enter(conn net.Conn) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns.Len() >= h.most {
		oldest := h.conns.Front()
		h.conns.Remove(oldest)
		oldest.Value.(net.Conn).Close()
	}
	entry := h.conns.PushBack(conn)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.conns.Remove(entry) // does nothing if it had to give way
	}
}
