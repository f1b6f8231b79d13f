package tunnel_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// held opens a stream that goes on.
func (g *gateway) held(t *testing.T) *http.Response {
	t.Helper()
	return g.do(t, request(t, t.Context(), "GET", "/hold", nil))
}

// What happens at the end of a certificate under which a stream is open.
func TestCertificateEnd(t *testing.T) {
	peer := func(agent string, generation int64, life time.Duration) tunnel.Peer {
		return tunnel.Peer{ClusterUID: uid, Agent: agent, Generation: generation, NotAfter: time.Now().Add(life)}
	}
	const life = 1500 * time.Millisecond // enough to open the stream

	t.Run("alone, it is cut", func(t *testing.T) {
		g := newGateway(t)
		short := g.join(t, peer("short", 1, life))
		g.await(t, 1)
		resp := g.held(t)
		if err := receive(t, short, "the end"); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("ended with %v", err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("a response cut short looks whole")
		}
	})
	t.Run("its stream goes on while another proves the agent", func(t *testing.T) {
		g := newGateway(t)
		short := g.join(t, peer("short", 1, life))
		g.await(t, 1)
		resp := g.held(t)
		long := g.join(t, peer("long", 1, time.Hour))
		g.await(t, 2)
		g.await(t, 1) // the short one is out of service
		for range 20 {
			resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
			if who, _ := io.ReadAll(resp.Body); string(who) != "long" {
				t.Errorf("a new request went to %q", who)
			}
		}
		select {
		case err := <-short:
			t.Errorf("ended with %v", err)
		default:
		}
		// The agent that proved itself is gone: nobody vouches for the other any more.
		g.lose(t, "long")
		if err := receive(t, short, "the end"); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("ended with %v", err)
		}
		receive(t, long, "the lost one's end")
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("a response cut short looks whole")
		}
	})
	t.Run("two that have ended do not vouch for each other", func(t *testing.T) {
		g := newGateway(t)
		first := g.join(t, peer("first", 1, life))
		second := g.join(t, peer("second", 1, life+200*time.Millisecond))
		g.await(t, 2)
		g.held(t)
		g.held(t)
		for _, c := range []<-chan error{first, second} {
			if err := receive(t, c, "the end"); !errors.Is(err, access.ErrUnauthenticated) {
				t.Errorf("ended with %v", err)
			}
		}
	})
	t.Run("a newer enrolment cuts it at once", func(t *testing.T) {
		g := newGateway(t)
		short := g.join(t, peer("short", 1, life))
		g.await(t, 1)
		g.held(t)
		g.join(t, peer("long", 1, time.Hour))
		g.await(t, 2)
		g.await(t, 1)
		g.join(t, peer("newer", 2, time.Hour))
		if err := receive(t, short, "the end"); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("without a stream it just ends", func(t *testing.T) {
		g := newGateway(t)
		short := g.join(t, peer("short", 1, life))
		g.join(t, peer("long", 1, time.Hour))
		g.await(t, 2)
		if err := receive(t, short, "the end"); err == nil || !strings.Contains(err.Error(), "drained") {
			t.Errorf("ended with %v", err)
		}
	})
}

// certificates are what an agent is given, each good for life from when it was
// asked for, until refused is set.
type certificates struct {
	life    time.Duration
	refused atomic.Bool
	given   atomic.Int64
	last    atomic.Pointer[x509.Certificate]
}

func (c *certificates) next() *x509.Certificate {
	now, last := time.Now(), c.last.Load()
	if last != nil && (c.refused.Load() || last.NotAfter.Sub(now) > c.life/3) {
		return last
	}
	leaf := &x509.Certificate{NotBefore: now, NotAfter: now.Add(c.life)}
	c.last.Store(leaf)
	c.given.Add(1)
	return leaf
}

// config is the TLS configuration of an agent of g with the next certificate,
// which the test's gateway does not ask to see.
func (c *certificates) config(g *gateway) func(context.Context) (*tls.Config, error) {
	return func(ctx context.Context) (*tls.Config, error) {
		cfg, err := g.clientConfig(ctx)
		cfg.Certificates = []tls.Certificate{{Leaf: c.next()}}
		return cfg, err
	}
}

func TestRenewalDropsNoStream(t *testing.T) {
	const renewals = 3
	g := newGateway(t)
	release, connects := make(chan struct{}), make(chan struct{}, 100)
	certs := &certificates{life: time.Second}
	g.dial(t, tunnel.DialConfig{TLS: certs.config(g), Handler: echo(release), OnConnect: func() { connects <- struct{}{} }})
	receive(t, connects, "the first connection")
	g.await(t, 1)
	resp := g.held(t)
	stop := load(t, g, 2)
	for i := range renewals {
		receive(t, connects, "a replacement")
		if given := certs.given.Load(); given < int64(i+2) {
			t.Errorf("replacement %d with %d certificates", i+1, given)
		}
	}
	close(release)
	if text, err := io.ReadAll(resp.Body); string(text) != "held\nwhole\n" || err != nil {
		t.Errorf("the stream that lived through %d renewals ended with %q, %v", renewals, text, err)
	}
	t.Logf("%d requests meanwhile", stop())
}

func TestRefusedRenewalKeepsTheConnection(t *testing.T) {
	g := newGateway(t)
	var log lockedBuffer
	certs := &certificates{life: 600 * time.Millisecond}
	g.dial(t, tunnel.DialConfig{TLS: certs.config(g), Handler: echo(nil), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	g.await(t, 1)
	certs.refused.Store(true)
	g.held(t)
	for deadline := time.Now().Add(limit); strings.Count(log.String(), "no newer certificate") < 3; {
		if time.Now().After(deadline) {
			t.Fatal("no attempt to renew:", log.String())
		}
	}
	if len(g.changes) > 0 || g.hub.Connected(uid) != 1 {
		t.Error("the connection was replaced, or given up, without a newer certificate")
	}
	certs.refused.Store(false)
	g.await(t, 2) // late is better than never
}
