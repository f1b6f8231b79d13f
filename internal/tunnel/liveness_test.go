package tunnel_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// relay forwards TCP to a fixed address until frozen: then the connections it
// has stay open and nothing moves on them, as behind a firewall that forgot them.
type relay struct {
	addr string

	mu     sync.Mutex
	frozen chan struct{} // closed for the connections accepted so far
}

func newRelay(t *testing.T, target string) *relay {
	l := listen(t)
	r := &relay{addr: l.Addr().String(), frozen: make(chan struct{})}
	ended := make(chan struct{})
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			r.mu.Lock()
			frozen := r.frozen
			r.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				conns.Go(func() { forward(pair[0], pair[1], frozen, ended) })
			}
			conns.Go(func() { <-ended; in.Close(); out.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); close(ended); conns.Wait() })
	return r
}

func forward(dst, src net.Conn, frozen, ended <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		select {
		case <-frozen:
			<-ended // not even the end of a connection gets through
			return
		default:
		}
		if n > 0 {
			dst.Write(buf[:n])
		}
		if err != nil {
			dst.Close()
			return
		}
	}
}

func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.frozen)
	r.frozen = make(chan struct{})
}

func TestItem35BlackholeIsNoticedByBothEndsAndReplaced(t *testing.T) {
	g := newGateway(t)
	r := newRelay(t, g.addr)
	connects, disconnects := make(chan struct{}, 10), make(chan error, 10)
	g.dial(t, tunnel.DialConfig{
		Address:      r.addr,
		Handler:      http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }),
		OnConnect:    func() { connects <- struct{}{} },
		OnDisconnect: func(err error) { disconnects <- err },
	})
	receive(t, connects, "the first connection")
	g.await(t, 1)

	r.freeze()
	began := time.Now()
	fell := make(chan time.Duration, 1)
	again := make(chan time.Duration, 1)
	go func() {
		for last, up, down := 1, false, false; !up || !down; {
			var n int
			select {
			case n = <-g.changes:
			case <-time.After(limit):
				return // the test waits as long, and says for what
			}
			if n < last && !down {
				down = true
				fell <- time.Since(began)
			}
			if n > last && !up {
				up = true
				again <- time.Since(began)
			}
			last = n
		}
	}()
	err := receive(t, disconnects, "the agent to notice")
	t.Logf("agent noticed after %v: %v", time.Since(began).Round(time.Millisecond), err)
	receive(t, connects, "the agent to connect again")
	t.Logf("gateway noticed after %v", receive(t, fell, "gateway").Round(time.Millisecond))
	t.Logf("replaced after %v (wanted: 3 s)", receive(t, again, "replacement").Round(time.Millisecond))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
	if body, _ := io.ReadAll(resp.Body); string(body) != "ok" {
		t.Errorf("got %q", body)
	}
}

// A process that is stopped keeps its sockets open, and its kernel answers.
func TestItem35StoppedAgentIsNoticed(t *testing.T) {
	g := newGateway(t)
	ctx, cancel := context.WithCancel(t.Context())
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), "TUNNEL_TEST_AGENT="+g.addr, "TUNNEL_TEST_CA="+g.pem)
	check(t, child.Start())
	defer child.Wait()
	defer cancel()
	g.await(t, 1)

	check(t, child.Process.Signal(syscall.SIGSTOP))
	began := time.Now()
	g.await(t, 0)
	t.Logf("gateway noticed after %v (wanted: 3 s)", time.Since(began).Round(time.Millisecond))
	check(t, child.Process.Signal(syscall.SIGCONT))
	g.await(t, 1)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func runChildAgent(addr, ca string) int {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca))
	tunnel.Dial(context.Background(), tunnel.DialConfig{
		Address: addr,
		TLS: func(context.Context) (*tls.Config, error) {
			return &tls.Config{RootCAs: pool, NextProtos: []string{alpn}}, nil
		},
		Handler: http.NotFoundHandler(),
	})
	return 0
}

// slow lets little through, so that whatever is sent waits behind megabytes.
type slow struct{ net.Conn }

func (s slow) Read(p []byte) (int, error) {
	<-time.After(30 * time.Millisecond) // the link's speed, not a wait for something
	return s.Conn.Read(p[:min(len(p), 8<<10)])
}

// A link so full that a heartbeat takes seconds to come back is not dead.
func TestSaturatedLinkIsNotTakenForDead(t *testing.T) {
	if testing.Short() {
		t.Skip("needs seconds of traffic")
	}
	g := newGateway(t)
	l := listen(t)
	var links sync.WaitGroup
	links.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", g.addr)
			if err != nil {
				in.Close()
				return
			}
			links.Go(func() { io.Copy(out, struct{ io.Reader }{slow{in}}); out.Close() })
			links.Go(func() { io.Copy(in, struct{ io.Reader }{slow{out}}); in.Close() })
		}
	})
	t.Cleanup(links.Wait)
	t.Cleanup(func() { l.Close() })
	const size = 2 << 20
	g.dial(t, tunnel.DialConfig{
		Address: l.Addr().String(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) }),
	})
	g.await(t, 1)
	resp := g.do(t, request(t, t.Context(), "GET", "/", nil))
	began := time.Now()
	n, err := io.Copy(io.Discard, resp.Body)
	if n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	t.Logf("%d bytes in %v, RTT of a heartbeat %v", n, time.Since(began).Round(time.Millisecond), g.hub.Connections(uid)[0].RTT.Round(time.Millisecond))
	if len(g.changes) > 0 {
		t.Error("the connection was replaced")
	}
}

func TestConnectProxy(t *testing.T) {
	g := newGateway(t)
	const secret = "pass:wörd"
	auth := make(chan string, 10)
	proxy := connectProxy(t, func(r *http.Request) int {
		auth <- r.Header.Get("Proxy-Authorization")
		return 200
	})
	var log lockedBuffer
	g.dial(t, tunnel.DialConfig{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if r.URL.String() != "https://"+g.addr {
				t.Errorf("asked for the proxy of %s", r.URL)
			}
			return &url.URL{Scheme: "http", Host: proxy, User: url.UserPassword("user", secret)}, nil
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }),
		Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	g.await(t, 1)
	g.do(t, request(t, t.Context(), "GET", "/", nil))
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret))
	if got := receive(t, auth, "CONNECT"); got != want {
		t.Errorf("Proxy-Authorization %q", got)
	}
	if strings.Contains(log.String(), secret) || strings.Contains(log.String(), want) {
		t.Errorf("the password is in the log: %s", log.String())
	}
}

func TestConnectProxyRefuses(t *testing.T) {
	g := newGateway(t)
	tried := make(chan struct{}, 100)
	proxy := connectProxy(t, func(r *http.Request) int { tried <- struct{}{}; return 407 })
	var log lockedBuffer
	g.dial(t, tunnel.DialConfig{
		Proxy: func(r *http.Request) (*url.URL, error) {
			return &url.URL{Scheme: "http", Host: proxy, User: url.UserPassword("user", "s3cret")}, nil
		},
		Handler: http.NotFoundHandler(),
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	for range 2 {
		receive(t, tried, "an attempt")
	}
	if text := log.String(); !strings.Contains(text, "answered 407") || strings.Contains(text, "s3cret") {
		t.Errorf("log: %s", text)
	}
}

// connectProxy is a small CONNECT proxy that answers what status says.
func connectProxy(t *testing.T, status func(*http.Request) int) string {
	l := listen(t)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer in.Close()
				br := bufio.NewReader(in)
				req, err := http.ReadRequest(br)
				if err != nil || req.Method != http.MethodConnect {
					return
				}
				code := status(req)
				(&http.Response{StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Request: req}).Write(in)
				if code != 200 {
					return
				}
				out, err := net.Dial("tcp", req.Host)
				if err != nil {
					return
				}
				defer out.Close()
				conns.Go(func() { io.Copy(out, br); out.Close() })
				io.Copy(in, out)
			})
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
