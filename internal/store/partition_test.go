package store_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// TestPartition cuts a follower's connection while others write, delete and
// compact: it must stop to claim that it is fresh, and be right again after.
func TestPartition(t *testing.T) {
	endpoint := storetest.Serve(t)
	open := func(endpoint string) *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), store.Config{Endpoints: []string{endpoint}, ProgressInterval: storetest.ProgressInterval})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	type tenants = map[string]store.Item[store.Tenant]
	near, line := open(endpoint), newProxy(t, strings.TrimPrefix(endpoint, "http://"))
	far := open("http://" + line.listener.Addr().String())
	version, err := near.Tenants.Put(t.Context(), store.Tenant{ID: "revoked"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	claims := make(chan time.Time, 1000)
	fd := storetest.FollowIn(t, far.Tenants, "", func(u store.Update[store.Tenant]) {
		select {
		case claims <- u.AsOf:
		default:
		}
	})
	fd.Until("the first", func(_ store.Update[store.Tenant], state tenants) bool { return len(state) == 1 })

	line.cut()
	if err := near.Tenants.Delete(t.Context(), "revoked", version); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	last, err := near.Tenants.Put(t.Context(), store.Tenant{ID: "new"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Client(near).Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	quiet := time.After(10 * storetest.ProgressInterval)
	for waiting := true; waiting; {
		select {
		case asOf := <-claims:
			if asOf.After(deleted) {
				t.Fatalf("claims to be complete as of %v while cut off, but %q was deleted at %v", asOf, "revoked", deleted)
			}
		case <-quiet:
			waiting = false
		}
	}
	line.restore()
	fd.Until("right again", func(u store.Update[store.Tenant], state tenants) bool {
		_, stale := state["revoked"]
		_, fresh := state["new"]
		if stale && u.AsOf.After(deleted) {
			t.Errorf("claims to be complete as of %v, but %q was deleted at %v", u.AsOf, "revoked", deleted)
		}
		return fresh && !stale && u.AsOf.After(deleted)
	})
}

// proxy forwards TCP connections until it is cut.
type proxy struct {
	listener net.Listener
	to       string
	all      sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, to: to}
	p.all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.forward(conn)
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *proxy) forward(in net.Conn) {
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		in.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		in.Close()
		out.Close()
		return
	}
	p.conns = append(p.conns, in, out)
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		p.all.Go(func() {
			io.Copy(pair[0], pair[1])
			pair[0].Close()
			pair[1].Close()
		})
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, conn := range p.conns {
		conn.Close()
	}
}

func (p *proxy) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}
