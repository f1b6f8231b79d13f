package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
)

// Peer is who is at the other end of a connection, as the caller read it in
// the client certificate. Nothing of it comes from the connection itself.
type Peer struct {
	ClusterUID string
	Generation int64  // of the cluster's enrolment; the newest wins
	Agent      string // one agent process, for the log: its certificate's serial
	// NotAfter is the end of its certificate, and of new requests on the
	// connection; zero for none.
	NotAfter time.Time
}

// HubConfig configures a [Hub]. The zero value works.
type HubConfig struct {
	// Logger gets one line when a connection comes and one when it goes. Nil
	// logs nothing.
	Logger *slog.Logger

	// OnChange is told how many live connections a cluster has, after each change.
	// Calls come one at a time and the last one is right; it must not block, nor
	// call Close. Nil tells nobody.
	OnChange func(clusterUID string, connected int)
	// Metrics takes the hub's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
}

// Hub is the gateway's end: the live connections of all clusters' agents.
type Hub struct {
	log      *slog.Logger
	onChange func(string, int)
	metrics  *metrics

	// telling is held while OnChange runs, so that its calls cannot overtake
	// each other. Never taken with mu held.
	telling sync.Mutex

	mu       sync.Mutex
	closed   bool
	clusters map[string]*cluster
	serving  map[*link]struct{} // every running Serve, proved or not
	drained  chan struct{}      // closed when closed is set and serving is empty
}

// cluster is what the hub knows of one cluster. It outlives its connections,
// because the floor must.
type cluster struct {
	floor   int64   // lowest generation still accepted; only rises
	links   []*link // in service
	resting []*link // out of service, oldest first; their streams go on
}

// NewHub returns a hub without connections.
func NewHub(cfg HubConfig) *Hub {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(string, int) {}
	}
	h := &Hub{
		log:      cfg.Logger,
		onChange: cfg.OnChange,
		clusters: map[string]*cluster{},
		serving:  map[*link]struct{}{},
		drained:  make(chan struct{}),
	}
	h.metrics = newMetrics(cfg.Metrics, h)
	return h
}

// Serve takes over an accepted connection whose TLS peer the caller has
// authenticated as peer. It blocks until the connection is dead or ctx ends,
// closes it, and says why; the error is never nil. The connection gets requests
// once a heartbeat has come back through it, until the agent says that it is
// leaving or the peer's certificate ends. What runs then goes on: to its end, or
// behind the certificate's end only while the cluster has another connection in
// service. A generation below the highest seen of its cluster is refused with
// access.ErrForbidden.
func (h *Hub) Serve(ctx context.Context, conn net.Conn, peer Peer) error {
	m := newMeter(conn)
	m.guard = newGuard()
	m.sentTo, m.receivedFrom = h.metrics.bytes.WithLabelValues("sent"), h.metrics.bytes.WithLabelValues("received")
	defer m.Close()
	if peer.ClusterUID == "" {
		return fmt.Errorf("tunnel: serve a connection of no cluster: %w", access.ErrInvalid)
	}
	if err := h.admissible(peer); err != nil {
		return err
	}
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	l, err := newLink(ctx, m, peer)
	if err != nil {
		return err
	}
	l.cut, l.beat = cut, h.metrics.heartbeats.Inc
	if err := h.enter(l); err != nil {
		l.close()
		return err
	}
	defer h.leave(l)

	log := h.log.With("cluster", peer.ClusterUID, "generation", peer.Generation, "agent", peer.Agent)
	err = l.run(ctx, func() error {
		if err := h.register(l); err != nil {
			return err
		}
		h.metrics.connects.Inc()
		h.tell(peer.ClusterUID)
		log.Info("agent connected", "rtt", time.Duration(l.rtt.Load()))
		return nil
	}, func() {
		if h.rest(l) {
			h.tell(peer.ClusterUID)
			log.Info("agent's connection takes no new requests", "after", time.Since(l.began).Round(time.Millisecond), "expired", l.expired(time.Now()))
		}
	})
	h.metrics.disconnected(err)
	if h.deregister(l) {
		h.tell(peer.ClusterUID)
	}
	log.Info("agent disconnected", "after", time.Since(l.began).Round(time.Millisecond), "reason", err)
	return fmt.Errorf("tunnel: connection of agent %s of cluster %s: %w", peer.Agent, peer.ClusterUID, err)
}

var (
	errClosed     = fmt.Errorf("the hub is closed: %w", access.ErrUnavailable)
	errGeneration = fmt.Errorf("a newer enrolment has replaced this one: %w", access.ErrForbidden)
	errExpired    = fmt.Errorf("the agent's certificate has ended: %w", access.ErrUnauthenticated)
	errCrowded    = fmt.Errorf("more than %d connections of the cluster are out of service: %w", maxResting, access.ErrUnavailable)
)

func (h *Hub) admissible(peer Peer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clusters[peer.ClusterUID]; c != nil && peer.Generation < c.floor {
		return fmt.Errorf("tunnel: agent %s of cluster %s, generation %d: %w", peer.Agent, peer.ClusterUID, peer.Generation, errGeneration)
	}
	return nil
}

func (h *Hub) enter(l *link) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	h.serving[l] = struct{}{}
	return nil
}

func (h *Hub) leave(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.serving, l)
	if h.closed && len(h.serving) == 0 {
		close(h.drained)
	}
}

// register makes l eligible, and closes connections of older generations: only
// now, when the newer one is known to work.
func (h *Hub) register(l *link) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	c := h.cluster(l.peer.ClusterUID)
	if l.peer.Generation < c.floor {
		return errGeneration // it rose while the link was being proved
	}
	h.raise(l.peer.ClusterUID, c, l.peer.Generation)
	if len(c.links) >= maxConnections {
		return fmt.Errorf("tunnel: cluster %s has %d connections already: %w", l.peer.ClusterUID, maxConnections, access.ErrUnavailable)
	}
	c.links = append(c.links, l)
	return nil
}

// rest takes l out of service and reports whether it was in it. It is called
// again when the certificate of a resting link ends.
func (h *Hub) rest(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.resting.Store(true)
	c := h.cluster(l.peer.ClusterUID)
	served := c.remove(l)
	if served {
		if c.resting = append(c.resting, l); len(c.resting) > maxResting {
			c.resting[0].cut(errCrowded)
		}
	}
	c.settle(time.Now())
	return served
}

func (h *Hub) deregister(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[l.peer.ClusterUID]
	if c == nil {
		return false
	}
	served := c.remove(l)
	c.resting = slices.DeleteFunc(c.resting, func(x *link) bool { return x == l })
	c.settle(time.Now())
	return served
}

// remove takes l off the links in service. Called with mu held.
func (c *cluster) remove(l *link) bool {
	n := len(c.links)
	c.links = slices.DeleteFunc(c.links, func(x *link) bool { return x == l })
	return len(c.links) < n
}

// settle cuts the resting links whose certificate has ended and whose cluster
// has no connection in service, of their enrolment, that proves its agent anew.
// Called with mu held, whenever a link leaves service or its certificate ends.
func (c *cluster) settle(now time.Time) {
	for _, l := range c.resting {
		vouched := slices.ContainsFunc(c.links, func(x *link) bool {
			return x.peer.Generation == l.peer.Generation && !x.expired(now)
		})
		if l.expired(now) && !vouched {
			l.cut(errExpired)
		}
	}
}

// cluster is called with mu held.
func (h *Hub) cluster(uid string) *cluster {
	c := h.clusters[uid]
	if c == nil {
		c = &cluster{floor: minGeneration}
		h.clusters[uid] = c
	}
	return c
}

const minGeneration = -1 << 63

// raise lifts the floor and takes what lies below it out of service at once;
// each such link's own Serve ends it. Called with mu held.
func (h *Hub) raise(uid string, c *cluster, floor int64) (dropped bool) {
	if floor <= c.floor {
		return false
	}
	c.floor = floor
	n := len(c.links)
	c.links = slices.DeleteFunc(c.links, func(l *link) bool { return l.peer.Generation < floor })
	for l := range h.serving {
		if l.peer.ClusterUID == uid && l.peer.Generation < floor {
			l.cut(errGeneration)
		}
	}
	return len(c.links) < n
}

func (h *Hub) tell(uid string) {
	h.telling.Lock()
	defer h.telling.Unlock()
	h.onChange(uid, h.Connected(uid))
}

// Drop closes a cluster's connections of a generation below the given one, and
// accepts no more of them: an enrolment was replaced, or with math.MaxInt64 the
// cluster was deleted.
func (h *Hub) Drop(clusterUID string, belowGeneration int64) {
	h.mu.Lock()
	dropped := h.raise(clusterUID, h.cluster(clusterUID), belowGeneration)
	h.mu.Unlock()
	if dropped {
		h.tell(clusterUID)
	}
}

// Connected says how many live connections a cluster has.
func (h *Hub) Connected(clusterUID string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clusters[clusterUID]; c != nil {
		return len(c.links)
	}
	return 0
}

// Connection is one live connection of a cluster's agent.
type Connection struct {
	Remote  net.Addr      // of the agent, or of what translates addresses in front of it
	Since   time.Time     // when it was opened
	RTT     time.Duration // round-trip time of its last heartbeat
	Resting bool          // it takes no new requests; those under way go on
}

// Connections are a cluster's live connections, oldest first.
func (h *Hub) Connections(clusterUID string) []Connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[clusterUID]
	if c == nil {
		return nil
	}
	var all []Connection
	for _, l := range slices.Concat(c.links, c.resting) {
		all = append(all, Connection{Remote: l.conn.RemoteAddr(), Since: l.began, RTT: time.Duration(l.rtt.Load()), Resting: l.resting.Load()})
	}
	slices.SortStableFunc(all, func(a, b Connection) int { return a.Since.Compare(b.Since) })
	return all
}

// links are a cluster's connections in service.
func (h *Hub) links(uid string) []*link {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clusters[uid]; c != nil {
		return slices.Clone(c.links)
	}
	return nil
}

// Close cuts every connection and waits until each Serve is about to return,
// or ctx ends. Later connections are refused.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		for l := range h.serving {
			l.cut(errClosed)
		}
		if len(h.serving) == 0 {
			close(h.drained)
		}
	}
	h.mu.Unlock()
	select {
	case <-h.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tunnel: close hub: %w", context.Cause(ctx))
	}
}
