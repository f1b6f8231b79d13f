package tunnel_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// echo answers with what was sent; /hold first says so and then waits for
// release.
func echo(release <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			io.WriteString(w, "held\n")
			http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
			io.WriteString(w, "whole\n")
			return
		}
		io.Copy(w, r.Body)
	}
}

// load sends requests with bodies, from n clients, until stop, and returns how
// many there were. None may fail.
func load(t *testing.T, g *gateway, n int) (stop func() int64) {
	t.Helper()
	var sent atomic.Int64
	var clients sync.WaitGroup
	end := make(chan struct{})
	for i := range n {
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				// A body that cannot be sent twice.
				want := fmt.Sprintf("client %d request %d", i, sent.Add(1))
				rt, err := g.hub.To(uid)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := rt.RoundTrip(request(t, t.Context(), "POST", "/", struct{ io.Reader }{strings.NewReader(want)}))
				if err != nil {
					t.Errorf("%s: %v", want, err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(got) != want || err != nil {
					t.Errorf("%s: got %q, %v", want, got, err)
					return
				}
			}
		})
	}
	return func() int64 { close(end); clients.Wait(); return sent.Load() }
}

// An agent is replaced by another again and again, under load and with a
// download that takes longer: no request fails, and the download ends whole.
func TestReplacedWithoutAFailedRequest(t *testing.T) {
	g := newGateway(t)
	release := make(chan struct{})
	dial := func() (stop func()) {
		return g.dial(t, tunnel.DialConfig{Handler: echo(release), Connections: 2, DrainTimeout: limit})
	}
	old := dial()
	g.await(t, 2)
	stop := load(t, g, 8)
	for range 4 {
		held := g.do(t, request(t, t.Context(), "GET", "/hold", nil))
		line := make([]byte, 5)
		_, err := io.ReadFull(held.Body, line)
		check(t, err)

		next := dial()
		g.await(t, 4)
		stopped := make(chan struct{})
		go func() { old(); close(stopped) }()
		g.await(t, 2) // both of the old are out of service
		resting := 0
		for _, c := range g.hub.Connections(uid) {
			if c.Resting {
				resting++
			}
		}
		if resting == 0 {
			t.Errorf("no connection rests while the long request runs: %+v", g.hub.Connections(uid))
		}
		select {
		case <-stopped:
			t.Error("the agent did not wait for its running request")
		default:
		}
		release <- struct{}{}
		if rest, err := io.ReadAll(held.Body); string(rest) != "whole\n" || err != nil {
			t.Errorf("the long one ended with %q, %v", rest, err)
		}
		receive(t, stopped, "the drained agent to end")
		old = next
	}
	t.Logf("%d requests", stop())
}

func TestDrainEndsWithItsTime(t *testing.T) {
	g := newGateway(t)
	stop := g.dial(t, tunnel.DialConfig{Handler: echo(nil), DrainTimeout: 100 * time.Millisecond})
	g.await(t, 1)
	held := g.do(t, request(t, t.Context(), "GET", "/hold", nil))
	stop() // returns, although the request goes on
	if _, err := io.ReadAll(held.Body); err == nil {
		t.Error("a response cut short looks whole")
	}
}

// rawAgent is an agent's end made of frames, to do what ours would not. It keeps
// the heartbeat and calls answer with each frame of another stream.
func (g *gateway) rawAgent(t *testing.T, answer func(c net.Conn, kind byte, stream uint32)) {
	t.Helper()
	l := listen(t)
	far, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	near, err := l.Accept()
	check(t, err)
	check(t, l.Close())
	var ends sync.WaitGroup
	ends.Go(func() {
		g.hub.Serve(context.Background(), near, tunnel.Peer{ClusterUID: uid, Generation: 1, Agent: "raw"})
	})
	ends.Go(func() {
		io.CopyN(io.Discard, far, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
		frame(far, frameSettings, 0, 0, nil)
		for head := make([]byte, 9); ; {
			if _, err := io.ReadFull(far, head); err != nil {
				return
			}
			payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			if _, err := io.ReadFull(far, payload); err != nil {
				return
			}
			kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
			switch {
			case kind == frameSettings && flags == 0:
				frame(far, frameSettings, 1, 0, nil)
			case stream == 1 && kind == frameHeaders:
				frame(far, frameHeaders, 4, 1, []byte{0x88}) // :status 200
			case stream == 1 && kind == frameData:
				frame(far, frameData, 0, 1, payload)
			case stream > 1:
				answer(far, kind, stream)
			}
		}
	})
	t.Cleanup(func() { far.Close(); ends.Wait() })
	g.await(t, 1)
}

// Frames of HTTP/2 (RFC 9113, 6).
const (
	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	frameGoAway   = 7
)

func frame(w io.Writer, kind, flags byte, stream uint32, payload []byte) {
	n := len(payload)
	head := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	w.Write(append(binary.BigEndian.AppendUint32(head, stream), payload...))
}

// What an agent certainly did not look at goes to another one; what it may have
// acted on does not.
func TestGoAway(t *testing.T) {
	words := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.BigEndian.AppendUint32(b, x)
		}
		return b
	}
	for _, c := range []struct {
		name   string
		method string
		on     byte // the frame that the agent answers
		answer func(c net.Conn, stream uint32)
		again  bool
	}{
		{"opened behind GOAWAY", "GET", frameHeaders, func(c net.Conn, _ uint32) { frame(c, frameGoAway, 0, 0, words(1, 0)) }, true},
		{"refused stream", "DELETE", frameHeaders, func(c net.Conn, stream uint32) { frame(c, frameReset, 0, stream, words(7)) }, true},
		{"behind GOAWAY, body sent", "POST", frameData, func(c net.Conn, _ uint32) { frame(c, frameGoAway, 0, 0, words(1, 0)) }, false},
		{"refused stream, body sent", "POST", frameData, func(c net.Conn, stream uint32) { frame(c, frameReset, 0, stream, words(7)) }, false},
		{"cancelled stream", "GET", frameHeaders, func(c net.Conn, stream uint32) { frame(c, frameReset, 0, stream, words(8)) }, false},
		{"within GOAWAY, then closed", "GET", frameHeaders, func(c net.Conn, stream uint32) {
			frame(c, frameGoAway, 0, 0, words(stream, 0))
			c.Close()
		}, false},
		{"closed", "GET", frameHeaders, func(c net.Conn, _ uint32) { c.Close() }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			g.rawAgent(t, func(conn net.Conn, kind byte, stream uint32) {
				if kind == c.on {
					c.answer(conn, stream)
				}
			})
			// The other agent comes later, and so second among those without load.
			g.dial(t, tunnel.DialConfig{Handler: echo(nil)})
			g.await(t, 2)
			var body io.Reader
			if c.method == "POST" {
				body = struct{ io.Reader }{strings.NewReader("once")}
			}
			resp, err := g.to(t).RoundTrip(request(t, t.Context(), c.method, "/", body))
			if err == nil {
				resp.Body.Close()
			}
			if c.again != (err == nil) || err != nil && (!errors.Is(err, access.ErrUnavailable) || errors.Is(err, tunnel.ErrNotSent)) {
				t.Errorf("error %v, want another agent's answer: %v", err, c.again)
			}
		})
	}
}

func TestRefusedByAllIsNotSent(t *testing.T) {
	g := newGateway(t)
	g.rawAgent(t, func(c net.Conn, kind byte, stream uint32) {
		if kind == frameHeaders {
			frame(c, frameReset, 0, stream, []byte{0, 0, 0, 7})
		}
	})
	if _, err := g.to(t).RoundTrip(request(t, t.Context(), "GET", "/", nil)); !errors.Is(err, tunnel.ErrNotSent) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionsSpreadOverAddresses(t *testing.T) {
	for _, c := range []struct {
		name  string
		addrs []string
		want  int // different ones in use
	}{
		{"one", []string{"127.0.0.1"}, 1},
		{"two", []string{"127.0.0.1", "127.0.0.2"}, 2},
		{"two, of which one is dead", []string{"127.0.0.1", "192.0.2.1"}, 1},
		{"two, of which one refuses", []string{"127.0.0.1", "127.0.0.3"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			second := ""
			if c.want == 2 {
				second = c.addrs[1]
			}
			reached := g.alias(t, second)
			_, port, err := net.SplitHostPort(g.addr)
			check(t, err)
			g.dial(t, tunnel.DialConfig{
				Address: "localhost:" + port, Connections: 2, Handler: echo(nil),
				Resolve: func(_ context.Context, host string) (all []netip.Addr, err error) {
					if host != "localhost" {
						t.Errorf("asked for %q", host)
					}
					for _, a := range c.addrs {
						all = append(all, netip.MustParseAddr(a))
					}
					return all, nil
				},
			})
			g.await(t, 2)
			if got := reached(); c.want == 2 && got != 1 {
				t.Errorf("%d of 2 connections by the second address", got)
			}
		})
	}
}

// alias makes the gateway reachable by a second address, if one is given, and
// returns what counts the connections made by it.
func (g *gateway) alias(t *testing.T, addr string) (reached func() int64) {
	t.Helper()
	var n atomic.Int64
	if addr == "" {
		return n.Load
	}
	_, port, err := net.SplitHostPort(g.addr)
	check(t, err)
	l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
	check(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			out, err := net.Dial("tcp", g.addr)
			if err != nil {
				in.Close()
				continue
			}
			conns.Go(func() { io.Copy(out, in); out.Close() })
			conns.Go(func() { io.Copy(in, out); in.Close() })
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { l.Close() })
	return n.Load
}

// One of two connections becomes a black hole, and the one with less to do.
// Requests go by the other one already when the first is doubtful.
func TestItem35BlackholeOfOne(t *testing.T) {
	const busy = 200
	g := newGateway(t)
	g.dial(t, tunnel.DialConfig{Handler: echo(nil)})
	g.await(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range busy {
		g.do(t, request(t, ctx, "GET", "/hold", nil))
	}
	r := newRelay(t, g.addr)
	g.dial(t, tunnel.DialConfig{Address: r.addr, Handler: echo(nil)})
	g.await(t, 2)

	r.freeze()
	began := time.Now()
	var answered, lost atomic.Int64
	var requests sync.WaitGroup
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for g.hub.Connected(uid) == 2 {
		requests.Go(func() {
			resp, err := g.to(t).RoundTrip(request(t, t.Context(), "GET", "/", nil))
			if err != nil {
				lost.Add(1)
				return
			}
			resp.Body.Close()
			if g.hub.Connected(uid) == 2 {
				answered.Add(1)
			}
		})
		<-tick.C
	}
	requests.Wait()
	t.Logf("noticed after %v (wanted: 3 s); %d answered before, %d lost", time.Since(began).Round(time.Millisecond), answered.Load(), lost.Load())
	if answered.Load() == 0 || lost.Load() >= busy {
		t.Error("every request went into the hole while there was another way")
	}
	load(t, g, 8)()
}

// 5,000 agents lose their gateway at once and find it again when it is back: soon,
// and not in a herd (checklist, item 34).
func TestItem34BackoffSpreads(t *testing.T) {
	const agents, away = 5000, 1500 * time.Millisecond
	const slice = 10 * time.Millisecond
	back, attempts := map[time.Duration]int{}, map[time.Duration]int{}
	var last time.Duration
	var soon int
	for range agents {
		b := tunnel.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
		b.Next()
		b.Next()
		b.Lasted(time.Hour) // so these do not count
		at := time.Duration(0)
		for at < away {
			at += b.Next()
			attempts[at/slice]++
		}
		back[at/slice]++
		last = max(last, at)
		if at <= away+time.Second {
			soon++
		}
	}
	for when, n := range attempts {
		// All of them in the first 100 ms would be 50 a slice.
		if n > agents/4 {
			t.Errorf("%d of %d agents tried within one %v, after %v", n, agents, slice, when*slice)
		}
	}
	for when, n := range back {
		if n > agents/10 {
			t.Errorf("%d of %d agents came back within one %v, after %v", n, agents, slice, when*slice)
		}
	}
	t.Logf("away for %v: %d of %d agents were back within a second, the last after %v", away, soon, agents, last-away)
	if soon < agents/2 || last > away+2*time.Second {
		t.Error("that is too late")
	}
}
