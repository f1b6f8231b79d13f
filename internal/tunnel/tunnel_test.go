package tunnel_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

const (
	alpn  = "sallyport-agent/1"
	uid   = "0b9d3a52-cluster"
	limit = 20 * time.Second // no test waits longer for one event; none expects to
)

func TestMain(m *testing.M) {
	if addr := os.Getenv("TUNNEL_TEST_AGENT"); addr != "" {
		os.Exit(runChildAgent(addr, os.Getenv("TUNNEL_TEST_CA")))
	}
	goleak.VerifyTestMain(m)
}

// authority is one self-signed server certificate and the pool that trusts it.
type authority struct {
	cert tls.Certificate
	pool *x509.CertPool
	pem  string
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return authority{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool: pool, pem: string(text)}
}

func (a authority) clientConfig(context.Context) (*tls.Config, error) {
	return &tls.Config{RootCAs: a.pool, NextProtos: []string{alpn}}, nil
}

// gateway accepts agents' connections for a hub.
type gateway struct {
	authority
	hub     *tunnel.Hub
	addr    string
	changes chan int
	joined  map[string]context.CancelFunc // by agent, see join
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{authority: newAuthority(t), changes: make(chan int, 100), joined: map[string]context.CancelFunc{}}
	g.hub = tunnel.NewHub(tunnel.HubConfig{OnChange: func(_ string, n int) { g.changes <- n }})
	l := listen(t)
	g.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{g.cert}, NextProtos: []string{alpn}})
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				if conn.HandshakeContext(ctx) != nil {
					c.Close()
					return
				}
				g.hub.Serve(context.Background(), conn, tunnel.Peer{ClusterUID: uid, Generation: 1, Agent: "test"})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := g.hub.Close(ctx); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return g
}

// dial starts an agent and stops it with the test.
func (g *gateway) dial(t testing.TB, cfg tunnel.DialConfig) (stop func()) {
	t.Helper()
	if cfg.Address == "" {
		cfg.Address = g.addr
	}
	if cfg.TLS == nil {
		cfg.TLS = g.clientConfig
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tunnel.Dial(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, ended, "Dial to return"); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// connected is a gateway with one agent that serves h.
func connected(t testing.TB, h http.HandlerFunc) *gateway {
	t.Helper()
	g := newGateway(t)
	g.dial(t, tunnel.DialConfig{Handler: h})
	g.await(t, 1)
	return g
}

// await waits until the hub has reported n live connections.
func (g *gateway) await(t testing.TB, n int) {
	t.Helper()
	for got := -1; got != n; {
		got = receive(t, g.changes, fmt.Sprintf("%d connections", n))
	}
}

func (g *gateway) to(t testing.TB) http.RoundTripper {
	t.Helper()
	rt, err := g.hub.To(uid)
	check(t, err)
	return rt
}

func (g *gateway) do(t testing.TB, r *http.Request) *http.Response {
	t.Helper()
	resp, err := g.to(t).RoundTrip(r)
	check(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func request(t testing.TB, ctx context.Context, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://api"+path, body)
	check(t, err)
	return r
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return l
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		panic("waited too long for " + what) // with all stacks, and from any goroutine
	}
}

func TestRequest(t *testing.T) {
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Path", r.URL.RequestURI())
		w.Header().Set("X-Host", r.Host)
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	resp := g.do(t, request(t, t.Context(), "PUT", "/a%2Fb/c?x=1&y", strings.NewReader("hello")))
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != 418 || string(body) != "PUT hello" || resp.Header.Get("X-Path") != "/a%2Fb/c?x=1&y" || resp.Header.Get("X-Host") != "api" {
		t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
	}
	all := g.hub.Connections(uid)
	if len(all) != 1 || all[0].Since.IsZero() || all[0].RTT <= 0 || all[0].Remote == nil || all[0].Resting {
		t.Errorf("connections %+v", all)
	}
}

func TestItem37CompressedBodyStaysCompressed(t *testing.T) {
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, r.Header.Get("Accept-Encoding"))
	})
	resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
	if body, _ := io.ReadAll(resp.Body); len(body) != 0 || resp.Uncompressed {
		t.Errorf("Accept-Encoding %q was added, or the body inflated (%v)", body, resp.Uncompressed)
	}
}

func TestUnknownClusterIsUnavailable(t *testing.T) {
	g := newGateway(t)
	if _, err := g.hub.To("nobody"); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if g.hub.Connections("nobody") != nil || g.hub.Connected("nobody") != 0 {
		t.Error("something is known of a cluster that never connected")
	}
}

func TestHeartbeatPathIsRefused(t *testing.T) {
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {})
	if _, err := g.to(t).RoundTrip(request(t, t.Context(), "POST", "/.sallyport/heartbeat", nil)); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("got %v", err)
	}
}

func TestItem30LargeHeaders(t *testing.T) {
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Big", r.Header.Get("X-Big"))
	})
	r := request(t, t.Context(), "GET", "/", nil)
	big := strings.Repeat("abcdefgh", 8<<10) // 64 KiB
	r.Header.Set("X-Big", big)
	if got := g.do(t, r).Header.Get("X-Big"); got != big {
		t.Errorf("got %d bytes of %d", len(got), len(big))
	}
	r.Header.Set("X-Big", strings.Repeat(big, 3))
	if resp, err := g.to(t).RoundTrip(r); err == nil {
		resp.Body.Close()
		t.Error("192 KiB of headers passed")
	}
	r.Header.Del("X-Big")
	g.do(t, r) // the connection lives on
	if n := g.hub.Connected(uid); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func Test200ConcurrentStreams(t *testing.T) {
	const n = 200
	arrived, release := make(chan struct{}, n), make(chan struct{})
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		io.Copy(w, r.Body)
	})
	rt := g.to(t)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			want := fmt.Sprint("body ", i)
			resp, err := rt.RoundTrip(request(t, t.Context(), "POST", "/", strings.NewReader(want)))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
	for range n {
		receive(t, arrived, "all streams to be open at once")
	}
	close(release)
	clients.Wait()
}

func TestFullConnectionRefuses(t *testing.T) {
	const n = 999 // and the heartbeat
	arrived := make(chan struct{}, n)
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	rt := g.to(t)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			if _, err := rt.RoundTrip(request(t, ctx, "GET", "/", nil)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for range n {
		receive(t, arrived, "all streams to be open at once")
	}
	if _, err := rt.RoundTrip(request(t, ctx, "GET", "/", nil)); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	clients.Wait()
	if g.hub.Connected(uid) != 1 {
		t.Error("a full connection was closed")
	}
}

func TestChunksArriveOneByOne(t *testing.T) {
	next := make(chan string)
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		for s := range next {
			io.WriteString(w, s)
			http.NewResponseController(w).Flush()
		}
	})
	defer close(next)
	r := request(t, t.Context(), "GET", "/api/v1/pods?watch=1", nil)
	answered := make(chan *http.Response, 1)
	go func() {
		resp, err := g.to(t).RoundTrip(r)
		if err != nil {
			t.Error(err)
		}
		answered <- resp
	}()
	next <- "event 0\n"
	resp := receive(t, answered, "response headers")
	defer resp.Body.Close()
	for i := range 20 {
		want := fmt.Sprintf("event %d\n", i)
		got := make([]byte, len(want))
		_, err := io.ReadFull(resp.Body, got)
		check(t, err)
		if string(got) != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		next <- fmt.Sprintf("event %d\n", i+1) // written only after the last was read
	}
}

func TestCancellationReachesHandler(t *testing.T) {
	arrived, cancelled := make(chan struct{}), make(chan struct{})
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		close(arrived)
		<-r.Context().Done()
		close(cancelled)
	})
	ctx, cancel := context.WithCancel(t.Context())
	g.do(t, request(t, ctx, "GET", "/", nil))
	receive(t, arrived, "the handler")
	cancel()
	receive(t, cancelled, "the handler's context")
}

// neighbours runs n transfers of size bytes each way and waits for them.
func neighbours(t *testing.T, rt http.RoundTripper, n, size int) {
	t.Helper()
	payload := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			resp, err := rt.RoundTrip(request(t, t.Context(), "POST", "/echo", bytes.NewReader(payload)))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if m, err := io.Copy(io.Discard, resp.Body); m != int64(size) || err != nil {
				t.Errorf("neighbour got %d bytes of %d: %v", m, size, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	receive(t, done, "the neighbours")
}

type endless struct{}

func (e endless) Read(p []byte) (int, error) { return len(p), nil }

func TestItem32StalledUploadsLeaveNeighboursAlone(t *testing.T) {
	const stalled = 30 // 30 × 512 KiB: more than Go's default window for a whole connection
	arrived := make(chan struct{}, stalled)
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" {
			io.Copy(w, r.Body)
			return
		}
		arrived <- struct{}{}
		<-r.Context().Done() // reads nothing
	})
	rt := g.to(t)
	ctx, cancel := context.WithCancel(t.Context())
	var uploads sync.WaitGroup
	for range stalled {
		uploads.Go(func() { rt.RoundTrip(request(t, ctx, "POST", "/stalled", endless{})) })
	}
	for range stalled {
		receive(t, arrived, "the stalled handlers")
	}
	neighbours(t, rt, 20, 4<<20)
	cancel()
	uploads.Wait()
}

func TestItem32StalledDownloadsLeaveNeighboursAlone(t *testing.T) {
	const stalled = 30
	g := connected(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" {
			io.Copy(w, r.Body)
			return
		}
		for chunk := make([]byte, 64<<10); r.Context().Err() == nil; {
			w.Write(chunk)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range stalled {
		g.do(t, request(t, ctx, "GET", "/stalled", nil)) // its body is never read
	}
	neighbours(t, g.to(t), 20, 4<<20)
}

func TestAgentGoneMidResponse(t *testing.T) {
	g := newGateway(t)
	stop := g.dial(t, tunnel.DialConfig{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})})
	g.await(t, 1)
	rt := g.to(t)
	resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
	stop()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a response cut short looks whole")
	}
	g.await(t, 0)
	if _, err := rt.RoundTrip(request(t, t.Context(), "GET", "/", nil)); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// join gives the hub one more connection, with an agent of its own behind it,
// and returns what Serve says in the end.
func (g *gateway) join(t *testing.T, peer tunnel.Peer) <-chan error {
	t.Helper()
	l := listen(t)
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	dialled, served := make(chan error, 1), make(chan error, 1)
	go func() {
		dialled <- tunnel.Dial(ctx, tunnel.DialConfig{
			Address: l.Addr().String(), TLS: g.clientConfig, BackoffMin: time.Hour,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, peer.Agent)
				if r.URL.Path == "/hold" {
					http.NewResponseController(w).Flush()
					<-r.Context().Done()
				}
			}),
		})
	}()
	t.Cleanup(func() { cancel(); receive(t, dialled, "Dial to return") })
	g.joined[peer.Agent] = cancel
	c, err := l.Accept()
	check(t, err)
	conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{g.cert}, NextProtos: []string{alpn}})
	check(t, conn.HandshakeContext(t.Context()))
	go func() { served <- g.hub.Serve(context.Background(), conn, peer) }()
	return served
}

// lose stops the agent that joined under this name.
func (g *gateway) lose(t *testing.T, agent string) {
	t.Helper()
	g.joined[agent]()
}

func TestItem19NewestGenerationWins(t *testing.T) {
	g := newGateway(t)
	peer := func(generation int64, agent string) tunnel.Peer {
		return tunnel.Peer{ClusterUID: uid, Generation: generation, Agent: agent}
	}
	oldA, oldB := g.join(t, peer(1, "a")), g.join(t, peer(1, "b"))
	g.await(t, 2)

	newer := g.join(t, peer(2, "c"))
	for _, c := range []<-chan error{oldA, oldB} {
		if err := receive(t, c, "the older generation to end"); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("ended with %v", err)
		}
	}
	g.await(t, 1)
	resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
	if who, _ := io.ReadAll(resp.Body); string(who) != "c" {
		t.Errorf("%q answered", who)
	}
	if err := receive(t, g.join(t, peer(1, "d")), "refusal"); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("older generation: %v", err)
	}

	g.hub.Drop(uid, 2) // nothing below is connected
	if g.hub.Connected(uid) != 1 {
		t.Error("Drop closed its own generation")
	}
	g.hub.Drop(uid, math.MaxInt64)
	if err := receive(t, newer, "the deleted cluster's connection to end"); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("ended with %v", err)
	}
	if err := receive(t, g.join(t, peer(3, "e")), "refusal"); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("deleted cluster: %v", err)
	}
	if err := receive(t, g.join(t, tunnel.Peer{}), "refusal"); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("no cluster: %v", err)
	}
}

func TestLeastLoadedConnection(t *testing.T) {
	g := newGateway(t)
	g.join(t, tunnel.Peer{ClusterUID: uid, Agent: "a"})
	g.join(t, tunnel.Peer{ClusterUID: uid, Agent: "b"})
	g.await(t, 2)
	seen := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 10 { // each response stays open
		resp := g.do(t, request(t, ctx, "GET", "/hold", nil))
		who := make([]byte, 1)
		io.ReadFull(resp.Body, who)
		seen[string(who)]++
	}
	if seen["a"] != 5 || seen["b"] != 5 {
		t.Errorf("answers by %v", seen)
	}
}

func TestServeEndsWithContextAndClose(t *testing.T) {
	g := newGateway(t)
	served := g.join(t, tunnel.Peer{ClusterUID: uid, Agent: "a"})
	g.await(t, 1)
	check(t, g.hub.Close(t.Context()))
	if err := receive(t, served, "Serve to return"); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := receive(t, g.join(t, tunnel.Peer{ClusterUID: uid}), "refusal"); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("closed hub: %v", err)
	}
}

func TestDialRefusesNonsense(t *testing.T) {
	tlsConfig := func(context.Context) (*tls.Config, error) { return &tls.Config{}, nil }
	for name, cfg := range map[string]tunnel.DialConfig{
		"address without port": {Address: "gateway", TLS: tlsConfig, Handler: http.NotFoundHandler()},
		"address without host": {Address: ":443", TLS: tlsConfig, Handler: http.NotFoundHandler()},
		"no TLS":               {Address: "gateway:443", Handler: http.NotFoundHandler()},
		"no handler":           {Address: "gateway:443", TLS: tlsConfig},
	} {
		if err := tunnel.Dial(t.Context(), cfg); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestItem21DialPinsTheCA(t *testing.T) {
	g, other := newGateway(t), newAuthority(t)
	tried := make(chan struct{}, 100)
	var log lockedBuffer
	g.dial(t, tunnel.DialConfig{
		TLS: func(ctx context.Context) (*tls.Config, error) {
			tried <- struct{}{}
			return other.clientConfig(ctx)
		},
		Handler: http.NotFoundHandler(),
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	for range 3 {
		receive(t, tried, "another attempt")
	}
	if !strings.Contains(log.String(), "certificate signed by unknown authority") {
		t.Errorf("log: %s", log.String())
	}
	if g.hub.Connected(uid) != 0 {
		t.Error("connected to a gateway of another CA")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestIsPrivate(t *testing.T) {
	for name, want := range map[string]bool{
		"Sallyport-Binding": true, "sallyport-x": true, "SALLYPORT_BINDING": true,
		"Sallyport": false, "X-Sallyport-Binding": false, "Sallyportx": false, "": false,
	} {
		if tunnel.IsPrivate(name) != want {
			t.Errorf("IsPrivate(%q) is %v", name, !want)
		}
	}
}
