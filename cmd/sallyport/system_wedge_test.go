package main

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// wire is a TCP proxy that can stop to pass anything on while it keeps every
// connection open, as a broken network does.
type wire struct {
	ln net.Listener
	to string

	mu     sync.Mutex
	open   chan struct{} // closed while bytes pass
	conns  []net.Conn
	copies sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, to: to, open: make(chan struct{})}
	close(w.open)
	w.copies.Go(w.accept)
	t.Cleanup(func() {
		ln.Close()
		w.heal()
		w.mu.Lock()
		for _, c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
		w.copies.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		in, err := w.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		if err != nil {
			in.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, in, out)
		w.mu.Unlock()
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			w.copies.Go(func() {
				defer way[0].Close()
				defer way[1].Close()
				io.Copy(way[1], gated{way[0], w})
			})
		}
	}
}

// gated is a reader that holds back what it has read while the wire is cut.
type gated struct {
	io.Reader
	w *wire
}

func (g gated) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	g.w.mu.Lock()
	open := g.w.open
	g.w.mu.Unlock()
	<-open
	return n, err
}

func (w *wire) wedge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = make(chan struct{})
}

func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}

// TestSystemItem35WedgedTunnel: an agent whose connections are open and carry nothing
// is not ready, and the server knows it is not connected; both get over it.
func TestSystemItem35WedgedTunnel(t *testing.T) {
	s := newSystem(t)
	s.register("prod")
	w := newWire(t, strings.TrimPrefix(s.url, "https://"))
	agent := s.install("prod", mlworkload)
	for half, args := range agent.args {
		for i, arg := range args {
			args[i] = strings.Replace(arg, strings.TrimPrefix(s.url, "https://"), w.ln.Addr().String(), 1)
		}
		agent.args[half] = append(slices.Clone(args), "--health-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
	}
	agent.start()
	if !slices.ContainsFunc(agent.args["proxy"], func(arg string) bool { return strings.Contains(arg, w.ln.Addr().String()) }) {
		t.Fatal("the agent does not go through the wire")
	}
	ready := func(half string, want int) func() bool {
		at := regexp.MustCompile(`msg=health address=(\S+)`).FindStringSubmatch(agent.halves[half].log.String())
		if at == nil {
			t.Fatalf("the log of the %s names no address of health", half)
		}
		if status, body := fetch(t, "http://"+at[1]+"/livez"); status != http.StatusOK || body != "ok\n" {
			t.Errorf("/livez of the %s: %d %q", half, status, body)
		}
		if status, _ := fetch(t, "http://"+at[1]+"/metrics"); status != http.StatusNotFound {
			t.Errorf("the health port of the %s serves /metrics: %d", half, status)
		}
		return func() bool {
			status, body := fetch(t, "http://"+at[1]+"/readyz?verbose")
			if body != map[int]string{200: "ok\n", 503: "failed\n"}[status] {
				t.Errorf("/readyz of the %s says %d %q, and should say no more than ok or failed", half, status, body)
			}
			return status == want
		}
	}
	connections := func(want string) func() bool {
		return func() bool {
			_, text := fetch(t, metricsURL(t, s.server)+"/metrics")
			found := regexp.MustCompile(`(?m)^sallyport_tunnel_connections\{cluster_uid="[0-9a-f-]{36}"\} (\d+)$`).FindStringSubmatch(text)
			return found != nil && (found[1] == want || want == "some" && found[1] != "0")
		}
	}
	for _, half := range []string{"proxy", "reconciler"} {
		s.await("the "+half+" is ready", ready(half, http.StatusOK))
	}
	s.await("the server counts connections", connections("some"))

	w.wedge()
	for _, half := range []string{"proxy", "reconciler"} {
		s.await("the wedged "+half+" is not ready", ready(half, http.StatusServiceUnavailable))
	}
	s.await("the server counts no connection", connections("0"))
	s.await("cluster show says so", func() bool { return !s.connected("prod") })

	w.heal()
	for _, half := range []string{"proxy", "reconciler"} {
		s.await("the "+half+" is ready again", ready(half, http.StatusOK))
	}
	s.await("the server counts connections again", connections("some"))
	s.await("cluster show says so", func() bool { return s.connected("prod") })
	if _, text := fetch(t, metricsURL(t, s.server)+"/metrics"); !regexp.MustCompile(`sallyport_tunnel_disconnects_total\{reason="silent"\} [1-9]`).MatchString(text) {
		t.Error("no disconnection is counted as silent")
	}
}
