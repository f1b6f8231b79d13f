package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// flood is how many frames an attack sends, if nobody stops it.
const flood = 100_000

// maxGrowth is what the heap may have grown by when an attack is over, in
// bytes: far more than an attack costs, far less than what it sends would.
const maxGrowth = 64 << 20

// heap is what is in use on the heap, after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// block is a header block of name, value pairs.
func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// evil serves the agent's end of a connection of another cluster by frames: the
// heartbeat in order, so that the connection is in service, and then the attack,
// on the first other stream. It returns when the attack has ended.
func evil(near, far net.Conn, serve func(net.Conn), ask func(), attack func(f *http2.Framer, c net.Conn, stream uint32)) {
	var serving sync.WaitGroup
	serving.Go(func() { serve(near) })
	defer serving.Wait()
	defer far.Close()
	f := http2.NewFramer(far, far)
	f.SetMaxReadFrameSize(1 << 20)
	// Read beside the writes, as far as the attack: a pipe has no buffer.
	heard := make(chan func() (done bool), 100)
	serving.Go(func() {
		defer close(heard)
		io.CopyN(io.Discard, far, int64(len(http2.ClientPreface)))
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					heard <- func() bool { f.WriteSettingsAck(); return false }
				}
			case *http2.HeadersFrame:
				if stream := frame.StreamID; stream != 1 {
					heard <- func() bool { attack(f, far, stream); return true }
					return
				}
				heard <- func() bool {
					f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(":status", "200")})
					serving.Go(ask)
					return false
				}
			case *http2.DataFrame:
				beat := bytes.Clone(frame.Data())
				heard <- func() bool { f.WriteData(1, false, beat); return false }
			}
		}
	})
	f.WriteSettings()
	for act := range heard {
		if act() {
			return
		}
	}
}

// until repeats a write until it fails or has been made often enough.
func until(n int, write func() error) {
	for range n {
		if write() != nil {
			return
		}
	}
}

// agentAttacks are what an agent's end can send. Each ends when the connection
// is closed on it, or by itself.
func agentAttacks() map[string]func(f *http2.Framer, c net.Conn, stream uint32) {
	ok := block(":status", "200")
	headers := func(f *http2.Framer, stream uint32, b []byte, end bool) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: end, BlockFragment: b})
	}
	return map[string]func(f *http2.Framer, c net.Conn, stream uint32){
		"PING": func(f *http2.Framer, _ net.Conn, _ uint32) {
			until(flood, func() error { return f.WritePing(false, [8]byte{}) })
		},
		"PING acknowledged unasked": func(f *http2.Framer, _ net.Conn, _ uint32) {
			until(flood, func() error { return f.WritePing(true, [8]byte{}) })
		},
		"SETTINGS": func(f *http2.Framer, _ net.Conn, _ uint32) {
			until(flood, func() error { return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) })
		},
		"RST_STREAM": func(f *http2.Framer, _ net.Conn, stream uint32) {
			until(flood, func() error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) })
		},
		"WINDOW_UPDATE": func(f *http2.Framer, _ net.Conn, stream uint32) {
			until(flood, func() error { return f.WriteWindowUpdate(stream, 1<<30) })
		},
		"CONTINUATION": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, false)
			more := block("x", strings.Repeat("a", 10<<10))
			until(10_000, func() error { return f.WriteContinuation(stream, false, more) })
		},
		"empty CONTINUATION": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, false)
			until(flood, func() error { return f.WriteContinuation(stream, false, nil) })
		},
		"header bomb": func(f *http2.Framer, _ net.Conn, stream uint32) {
			// A field of 4,000 bytes, and then a reference of one byte to it, again
			// and again.
			bomb := append(block(":status", "200", "x", strings.Repeat("a", 4000)), bytes.Repeat([]byte{0x80 | 62}, 16<<10-4200)...)
			headers(f, stream, bomb, true)
		},
		"huge headers": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, false)
			more := block("x", strings.Repeat("a", 14<<10))
			for range 100 {
				f.WriteContinuation(stream, false, more)
			}
			f.WriteContinuation(stream, true, nil)
		},
		"interim answers": func(f *http2.Framer, _ net.Conn, stream uint32) {
			hints := block(":status", "103", "link", strings.Repeat("a", 1000))
			until(flood, func() error { return headers(f, stream, hints, true) })
		},
		"DATA beyond the window": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, true)
			data := make([]byte, 16<<10)
			until(flood, func() error { return f.WriteData(stream, false, data) })
		},
		"empty DATA": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, true)
			until(flood, func() error { return f.WriteData(stream, false, nil) })
		},
		"padding": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, true)
			until(flood, func() error { return f.WriteDataPadded(stream, false, nil, make([]byte, 255)) })
		},
		"DATA of no stream": func(f *http2.Framer, _ net.Conn, _ uint32) {
			until(flood, func() error { return f.WriteData(4711, false, make([]byte, 1<<10)) })
		},
		"PUSH_PROMISE": func(f *http2.Framer, _ net.Conn, stream uint32) {
			until(flood, func() error {
				return f.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: 2, EndHeaders: true, BlockFragment: block(":method", "GET", ":path", "/")})
			})
		},
		"frames of no type": func(f *http2.Framer, _ net.Conn, stream uint32) {
			until(flood, func() error { return f.WriteRawFrame(0xfa, 0, stream, make([]byte, 100)) })
		},
		"a frame of 16 MiB": func(_ *http2.Framer, c net.Conn, _ uint32) {
			c.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
			until(1000, func() error { _, err := c.Write(make([]byte, 16<<10)); return err })
		},
		"trailers without end": func(f *http2.Framer, _ net.Conn, stream uint32) {
			headers(f, stream, ok, true)
			until(flood, func() error { return headers(f, stream, block("x", "y"), true) })
		},
		"not HTTP/2": func(_ *http2.Framer, c net.Conn, _ uint32) {
			until(1000, func() error { _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); return err })
		},
	}
}

// TestItem30HostileAgent: an agent's end that floods or breaks the protocol costs
// its own cluster the connection at most; memory stays bounded, and another
// cluster's requests all succeed meanwhile.
func TestItem30HostileAgent(t *testing.T) {
	for name, attack := range agentAttacks() {
		t.Run(name, func(t *testing.T) {
			g := connected(t, echo(nil))
			stop := load(t, g, 1)
			before := heap()
			l := listen(t)
			far, err := net.Dial("tcp", l.Addr().String())
			check(t, err)
			near, err := l.Accept()
			check(t, err)
			check(t, l.Close())
			far.SetDeadline(time.Now().Add(limit))
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			attacked := false
			evil(near, far, func(near net.Conn) {
				g.hub.Serve(context.Background(), near, tunnel.Peer{ClusterUID: "evil", Generation: 1, Agent: "evil"})
			}, func() {
				for {
					rt, err := g.hub.To("evil")
					if err != nil {
						if ctx.Err() != nil {
							return
						}
						runtime.Gosched()
						continue // not in service yet
					}
					if resp, err := rt.RoundTrip(request(t, ctx, "GET", "/", nil)); err == nil {
						io.Copy(io.Discard, resp.Body) // until the attack ends
						resp.Body.Close()
					}
					return
				}
			}, func(f *http2.Framer, c net.Conn, stream uint32) {
				attacked = true
				// What comes back is read, or the attack would end by itself.
				go io.Copy(io.Discard, c)
				attack(f, c, stream)
			})
			if !attacked {
				t.Error("the connection was never in service")
			}
			if grown := heap() - before; grown > maxGrowth {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if n := stop(); n == 0 {
				t.Error("the neighbour made no request")
			}
		})
	}
}

// TestItem30AgentThatReadsNothing: an agent's end that goes on to send and takes
// nothing would hold every request that is being written to it, whatever
// becomes of its client. It is given up.
func TestItem30AgentThatReadsNothing(t *testing.T) {
	t.Parallel() // it waits
	hub := tunnel.NewHub(tunnel.HubConfig{})
	near, far := net.Pipe()
	ended, lost := make(chan error, 1), make(chan error, 1)
	evil(near, far, func(near net.Conn) {
		ended <- hub.Serve(context.Background(), near, tunnel.Peer{ClusterUID: "evil", Generation: 1, Agent: "evil"})
	}, func() {
		rt, err := hub.To("evil")
		for ; err != nil; rt, err = hub.To("evil") {
			runtime.Gosched() // not in service yet
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = rt.RoundTrip(request(t, ctx, "POST", "/", endless{}))
		lost <- err
	}, func(f *http2.Framer, _ net.Conn, _ uint32) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		// It is alive, by its own account.
		for end := time.Now().Add(3 * limit); f.WriteWindowUpdate(0, 1) == nil; <-tick.C {
			if time.Now().After(end) {
				t.Error("nobody gives it up")
				return
			}
		}
	})
	if err := receive(t, lost, "the request to end"); err == nil {
		t.Error("it answered")
	}
	if err := receive(t, ended, "the connection to end"); err == nil {
		t.Error("no reason")
	}
}

// gatewayAttacks are what a gateway's end can send to an agent, from the first
// stream that it opens.
func gatewayAttacks() map[string]func(f *http2.Framer, c net.Conn) {
	get := func(fields ...string) []byte {
		return block(append([]string{":method", "GET", ":scheme", "http", ":authority", "agent", ":path", "/"}, fields...)...)
	}
	open := func(f *http2.Framer, stream uint32, b []byte, end bool) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: end, EndStream: true, BlockFragment: b})
	}
	return map[string]func(f *http2.Framer, c net.Conn){
		"rapid reset": func(f *http2.Framer, _ net.Conn) {
			stream, b := uint32(1), get()
			until(flood, func() error {
				stream += 2
				return errors.Join(open(f, stream, b, true), f.WriteRSTStream(stream, http2.ErrCodeCancel))
			})
		},
		"CONTINUATION": func(f *http2.Framer, _ net.Conn) {
			open(f, 3, get(), false)
			more := block("x", strings.Repeat("a", 10<<10))
			until(10_000, func() error { return f.WriteContinuation(3, false, more) })
		},
		"empty CONTINUATION": func(f *http2.Framer, _ net.Conn) {
			open(f, 3, get(), false)
			until(flood, func() error { return f.WriteContinuation(3, false, nil) })
		},
		"PING": func(f *http2.Framer, _ net.Conn) {
			until(flood, func() error { return f.WritePing(false, [8]byte{}) })
		},
		"SETTINGS": func(f *http2.Framer, _ net.Conn) {
			until(flood, func() error { return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) })
		},
		"streams beyond the limit": func(f *http2.Framer, _ net.Conn) {
			stream, b := uint32(1), block(":method", "GET", ":scheme", "http", ":authority", "agent", ":path", "/hold")
			until(5000, func() error { stream += 2; return open(f, stream, b, true) })
		},
		"header bomb": func(f *http2.Framer, _ net.Conn) {
			open(f, 3, append(get("x", strings.Repeat("a", 4000)), bytes.Repeat([]byte{0x80 | 62}, 16<<10-4200)...), true)
		},
		"a stream again": func(f *http2.Framer, _ net.Conn) {
			until(1000, func() error { return open(f, 3, get(), true) })
		},
		"a stream of the server": func(f *http2.Framer, _ net.Conn) { open(f, 2, get(), true) },
		"DATA beyond the window": func(f *http2.Framer, _ net.Conn) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: block(":method", "POST", ":scheme", "http", ":authority", "agent", ":path", "/hold")})
			until(flood, func() error { return f.WriteData(3, false, make([]byte, 16<<10)) })
		},
		"not HTTP/2": func(_ *http2.Framer, c net.Conn) {
			until(1000, func() error { _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); return err })
		},
	}
}

// TestItem30HostileGateway: a gateway that was taken over and floods costs the
// agent that connection; it goes on, within its memory, on the next.
func TestItem30HostileGateway(t *testing.T) {
	for name, attack := range gatewayAttacks() {
		t.Run(name, func(t *testing.T) {
			before := heap()
			a := newAuthority(t)
			l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{a.cert}, NextProtos: []string{alpn}})
			defer l.Close()
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() {
				ended <- tunnel.Dial(ctx, tunnel.DialConfig{Address: l.Addr().String(), TLS: a.clientConfig, Handler: echo(nil)})
			}()
			for range 2 { // it comes back
				c, err := l.Accept()
				check(t, err)
				c.SetDeadline(time.Now().Add(limit))
				io.WriteString(c, http2.ClientPreface)
				f := http2.NewFramer(c, c)
				f.WriteSettings()
				read := make(chan struct{})
				go func() { io.Copy(io.Discard, c); close(read) }()
				attack(f, c)
				c.Close()
				<-read
			}
			if grown := heap() - before; grown > maxGrowth {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			cancel()
			if err := receive(t, ended, "Dial to return"); !errors.Is(err, context.Canceled) {
				t.Errorf("Dial: %v", err)
			}
		})
	}
}

// TestItem20OnlyTheCertificateSaysWho: an agent with another cluster's
// certificate says in every way there is that it is this cluster's. It gets no
// request of it, and one that says so before it speaks HTTP/2 is closed.
func TestItem20OnlyTheCertificateSaysWho(t *testing.T) {
	g := connected(t, echo(nil))
	l := listen(t)
	for name, claim := range map[string]func(f *http2.Framer, c net.Conn){
		"headers": func(f *http2.Framer, _ net.Conn) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block(
				":status", "200", "sallyport-cluster", uid, "sallyport-cluster-uid", uid, "x-cluster", uid, "host", uid)})
		},
		"hello": func(_ *http2.Framer, c net.Conn) { io.WriteString(c, `{"hello":{"cluster":"`+uid+`"}}`+"\n") },
	} {
		t.Run(name, func(t *testing.T) {
			far, err := net.Dial("tcp", l.Addr().String())
			check(t, err)
			defer far.Close()
			near, err := l.Accept()
			check(t, err)
			far.SetDeadline(time.Now().Add(limit))
			ended := make(chan error, 1)
			go func() {
				ended <- g.hub.Serve(context.Background(), near, tunnel.Peer{ClusterUID: "evil", Generation: 7, Agent: "evil"})
			}()
			io.CopyN(io.Discard, far, int64(len(http2.ClientPreface)))
			f := http2.NewFramer(far, far)
			if name == "headers" {
				f.WriteSettings()
			}
			requests := 0
			for claimed := false; ; {
				if !claimed && name == "hello" {
					claim(f, far)
					claimed = true
				}
				frame, err := f.ReadFrame()
				if err != nil {
					break // closed
				}
				switch frame := frame.(type) {
				case *http2.HeadersFrame:
					if frame.StreamID != 1 {
						requests++
					} else {
						claim(f, far)
					}
				case *http2.DataFrame:
					f.WriteData(1, false, bytes.Clone(frame.Data()))
				}
				if slices.ContainsFunc(g.hub.Connections(uid), func(c tunnel.Connection) bool { return c.Remote.String() == far.LocalAddr().String() }) {
					t.Error("its connection serves the cluster that it names")
					far.Close()
				}
				if g.hub.Connected("evil") == 1 && !claimed {
					claimed = true
					for range 50 { // all of them go to the one whose certificate it is
						g.do(t, request(t, t.Context(), "GET", "/", nil))
					}
					far.Close()
				}
			}
			if n := g.hub.Connected(uid); n != 1 || requests != 0 {
				t.Errorf("%d connections of the cluster, %d requests of it elsewhere", n, requests)
			}
			if err := receive(t, ended, "the connection to end"); err == nil {
				t.Error("no reason")
			}
		})
	}
}
