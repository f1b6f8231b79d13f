package controlplane_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// TestFeedProof: a heartbeat repeats nothing that the store has not proven for
// more than 5 s, and the feed ends when it cannot.
func TestFeedProof(t *testing.T) {
	line := newLine(t, strings.TrimPrefix(storetest.Serve(t), "http://"))
	s, err := store.Open(t.Context(), store.Config{Endpoints: []string{"http://" + line.listener.Addr().String()}, ProgressInterval: storetest.ProgressInterval, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	f := &fixture{t: t, store: s, log: &lockedBuffer{}, clock: &clock{now: time.Now()}}
	f.seed()
	f.start(nil)
	f.enrolled(1)
	feed, code := f.agent(reconciler()).open()
	if code != 200 {
		t.Fatalf("status %d", code)
	}
	n := 0
	feed.until("the first states", func(access.Desired) bool { n++; return n == 2 })
	line.cut()
	cut, last := time.Now(), time.Now()
	for feed.lines.Scan() {
		last = time.Now()
	}
	// 5 s of proof, one heartbeat, and some slack for a busy machine.
	if age := last.Sub(cut); age > 7*time.Second {
		t.Errorf("the last heartbeat came %s after the store was lost", age)
	}
	if err := feed.lines.Err(); err != nil {
		t.Errorf("feed: %v", err)
	}
	if log := f.log.String(); !strings.Contains(log, "feed ended") {
		t.Errorf("log: %s", log)
	}
}

// line forwards TCP connections until it is cut for good.
type line struct {
	listener net.Listener
	all      sync.WaitGroup
	mu       sync.Mutex
	down     bool
	conns    []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &line{listener: listener}
	l.all.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			l.join(in, out)
		}
	})
	t.Cleanup(func() { l.cut(); l.all.Wait() })
	return l
}

func (l *line) join(in, out net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, in, out)
	if l.down {
		in.Close()
		out.Close()
	}
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		l.all.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			pair[0].Close()
			pair[1].Close()
		})
	}
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	l.listener.Close()
	for _, conn := range l.conns {
		conn.Close()
	}
}

// TestCertificateEnds: a feed ends with its peer's certificate, though the
// connection lives on, and no request comes in after it.
func TestCertificateEnds(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	f.setValidity(1500 * time.Millisecond)
	a := f.agent(reconciler())
	feed, code := a.open()
	if code != 200 {
		t.Fatalf("status %d", code)
	}
	start := time.Now()
	if err := drain(feed); err != nil || time.Since(start) > 10*time.Second {
		t.Errorf("feed ended after %s: %v", time.Since(start), err)
	}
	f.setValidity(-time.Second)
	if _, code := a.open(); code != 401 {
		t.Errorf("feed after the end: status %d", code)
	}
	a.report(401, `{"bindings":[]}`)
}

func (f *fixture) setValidity(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.validity = d }

func (f *fixture) agentStatus() map[string]any {
	f.t.Helper()
	v, _ := f.want(200, "GET", cluster+"/providers/Sallyport.Gateway/agents/default"+version, "")
	return v["properties"].(map[string]any)
}

// TestPresence: an agent is connected when both of its halves are, and what is
// known of it goes with its cluster.
func TestPresence(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	check := func(when string, both, reconciler, proxy bool) {
		t.Helper()
		s := f.agentStatus()
		if s["connected"] != both || at(s, "reconciler.connected") != reconciler || at(s, "proxy.connected") != proxy ||
			(s["since"] != nil) != both || (at(s, "reconciler.since") != nil) != reconciler || (at(s, "proxy.since") != nil) != proxy {
			t.Errorf("%s: %v", when, s)
		}
	}
	check("before", false, false, false)
	a := f.agent(peer{"cluster-uid-1", 1, "serve"})
	proxy, _ := a.open()
	proxy.until("the first state", has(0))
	check("the proxy alone", false, false, true)
	f.want(201, "PUT", binding+version, consentV)
	if s := f.status(); s["state"] != "NotConnected" {
		t.Errorf("binding without a reconciler: %v", s)
	}
	f.clock.Advance(time.Second)
	f.as(reconciler())
	rec, _ := a.open()
	rec.until("the binding", has(1))
	check("both", true, true, true)
	if s := f.agentStatus(); s["since"] != at(s, "reconciler.since") {
		t.Errorf("since is not that of the later half: %v", s)
	}
	if s := f.status(); s["state"] != "Waiting" {
		t.Errorf("binding with a reconciler: %v", s)
	}
	if n := f.cp.Remembered(); n != 1 {
		t.Errorf("%d agents are remembered, want 1", n)
	}
	f.want(202, "DELETE", cluster+version, "")
	if err := drain(rec); err != nil {
		t.Error(err)
	}
	if err := drain(proxy); err != nil {
		t.Error(err)
	}
	a.report(410, `{"bindings":[]}`) // whoever comes back is not remembered either
	f.await("nothing remembered", func() bool { return f.cp.Remembered() == 0 })
}

// await asks at each proof of the store's watch.
func (f *fixture) await(what string, is func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	done := false
	_ = f.store.Clusters.Follow(ctx, "", func(store.Update[access.Cluster]) {
		if done = is(); done {
			cancel()
		}
	})
	if !done {
		f.t.Errorf("not in time: %s", what)
	}
}

// bounded is an answer whose connection takes read deadlines.
type bounded struct {
	*httptest.ResponseRecorder
	at time.Time
}

func (b *bounded) SetReadDeadline(at time.Time) error { b.at = at; return nil }

// TestBodyTimeout: a body has a deadline before anybody is asked who sent it.
func TestBodyTimeout(t *testing.T) {
	f := newFixture(t, nil)
	for _, c := range []struct {
		handler      http.Handler
		method, path string
	}{
		{f.cp, "PUT", binding + version},
		{f.cp, "POST", cluster + "/providers/Sallyport.Gateway/agents/default/enrol" + version},
		{f.cp.FeedHandler(), "POST", "/v1/report"},
	} {
		w := &bounded{ResponseRecorder: httptest.NewRecorder()}
		c.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader("{}")))
		if left := time.Until(w.at); left <= 0 || left > arm.BodyTimeout {
			t.Errorf("%s %s: deadline in %s, want %s", c.method, c.path, left, arm.BodyTimeout)
		}
	}
}

// TestItem34ClustersAreKnown: a server that has just started knows each cluster
// before its agent comes back, and looks for none through all of them: 5,000
// agents would have it read 25 million records (checklist, item 34).
func TestItem34ClustersAreKnown(t *testing.T) {
	f := newFixture(t, nil)
	f.await("the cluster is known", func() bool { return f.cp.Remembered() == 1 })
}
