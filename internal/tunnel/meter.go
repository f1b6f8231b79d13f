package tunnel

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// meter is a connection that remembers whether anything arrived and tells when
// it was closed. It also hides the *tls.Conn from net/http, which would else do
// its own ALPN on it.
type meter struct {
	net.Conn

	received atomic.Int64
	// The counters of what was sent and received; nil counts nothing.
	sentTo, receivedFrom prometheus.Counter
	guard                *guard // of the gateway's end; nil for none
	once                 sync.Once
	closed               chan struct{}
}

func newMeter(c net.Conn) *meter {
	return &meter{Conn: c, closed: make(chan struct{})}
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n > 0 {
		m.received.Add(int64(n))
		if m.receivedFrom != nil {
			m.receivedFrom.Add(float64(n))
		}
		if m.guard != nil {
			if err := m.guard.received(p[:n]); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	if m.guard != nil {
		if err := m.guard.sent(p); err != nil {
			return 0, err
		}
	}
	n, err := m.Conn.Write(p)
	if n > 0 && m.sentTo != nil {
		m.sentTo.Add(float64(n))
	}
	return n, err
}

// Close closes the socket below the TLS. A polite close would first write an
// alert, and wait seconds for a socket that a blackhole has filled.
func (m *meter) Close() error {
	var err error
	m.once.Do(func() {
		err = Underlying(m.Conn).Close()
		close(m.closed)
	})
	return err
}

// Underlying unwraps TLS, twice for an https proxy, and whatever else has a
// NetConn as a [tls.Conn] does: what is left can be reset, or bounded in its silence.
func Underlying(c net.Conn) net.Conn {
	for {
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = t.NetConn()
	}
}

// abort closes a connection so that its other end sees a failure, not an end.
func abort(c net.Conn) {
	c = Underlying(c)
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) // a failure here leaves an ordinary close
	}
	c.Close()
}

// silence counts ticks of beatEvery in which a connection received nothing.
type silence struct {
	m    *meter
	seen int64
	n    int
}

// tick reports whether the connection has been silent for limit ticks.
func (s *silence) tick(limit int) bool {
	if now := s.m.received.Load(); now != s.seen {
		s.seen, s.n = now, 0
		return false
	}
	s.n++
	return s.n >= limit
}
