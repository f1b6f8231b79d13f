package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport/sallyport/internal/idp"
)

// hostileSource is a client of the TLS port that knows how to hurt. It has a
// token and a binding, as an honest one; what it does costs the server more.
type hostileSource struct {
	s             *bound
	address, path string
	token         string
	config        *tls.Config
}

// frames is a connection of it, over HTTP/2 and frame by frame.
type frames struct {
	net.Conn
	*http2.Framer
	out     *bufio.Writer
	block   bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
}

func (h *hostileSource) dial(protocol string) net.Conn {
	h.s.t.Helper()
	config := h.config.Clone()
	config.NextProtos = []string{protocol}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: soon}, "tcp", h.address, config)
	if err != nil {
		h.s.t.Fatal(err)
	}
	return conn
}

func (h *hostileSource) frames(settings ...http2.Setting) *frames {
	h.s.t.Helper()
	f := &frames{Conn: h.dial("h2"), next: 1}
	f.out = bufio.NewWriterSize(f.Conn, 16<<10)
	f.Framer = http2.NewFramer(f.out, f.Conn)
	f.encoder = hpack.NewEncoder(&f.block)
	io.WriteString(f.out, http2.ClientPreface)
	f.WriteSettings(settings...)
	return f
}

// open begins a request on a new stream.
func (h *hostileSource) open(f *frames, method string, endHeaders, endStream bool) (stream uint32, err error) {
	f.block.Reset()
	for _, field := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", h.address}, {":path", h.path}, {"authorization", "Bearer " + h.token}} {
		f.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	stream, f.next = f.next, f.next+2
	return stream, f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: endHeaders, EndStream: endStream, BlockFragment: f.block.Bytes()})
}

// discard reads what comes until the server has closed the connection.
func (f *frames) discard() (closed <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, f.Conn)
	}()
	return done
}

// awaitClosed waits until the server has closed a connection.
func awaitClosed(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(soon))
	if _, err := io.Copy(io.Discard, c); err != nil {
		if late, ok := err.(net.Error); ok && late.Timeout() {
			t.Errorf("%s: the server keeps the connection", what)
		}
	}
}

// neighbour is another source, which lists pods all along, one request after
// the other on connections of its own; each has to succeed.
func (s *bound) neighbour() (stop func() (n int, p50, p99 time.Duration)) {
	s.t.Helper()
	client := &http.Client{Transport: s.transport(), Timeout: soon}
	token := s.ml.token(idp.DataPlaneAudience)
	ctx, cancel := context.WithCancel(context.Background())
	var took []time.Duration
	var asking sync.WaitGroup
	asking.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+"/k8s"+s.clusterID+"/version", nil)
			if err != nil {
				s.t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Close = i%10 == 0 // and now and then on a new connection
			began := time.Now()
			resp, err := client.Do(req)
			if err != nil {
				s.t.Errorf("the neighbour: %v", err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				s.t.Errorf("the neighbour was answered %d", resp.StatusCode)
				return
			}
			took = append(took, time.Since(began))
		}
	})
	return func() (int, time.Duration, time.Duration) {
		cancel()
		asking.Wait()
		client.CloseIdleConnections()
		if len(took) == 0 {
			return 0, 0, 0
		}
		slices.Sort(took)
		return len(took), took[len(took)/2], took[len(took)*99/100]
	}
}

// TestSystemItem30HostileSource plays a source with a binding that floods the TLS
// port of a real server, with a real agent and kube-apiserver behind it, by
// HTTP/2 frames, half-open handshakes and slow connections (items 30, 31 and 38).
// Each attack ends, memory stays bounded, and a neighbour is served all along.
func TestSystemItem30HostileSource(t *testing.T) {
	s := newBound(t)
	noisy := s.source("noisy")
	s.bind("private", "noisy", noisy.id, mlworkload)
	h := &hostileSource{
		s: s, address: strings.TrimPrefix(s.url, "https://"), path: "/k8s" + s.clusterID + "/api/v1/namespaces/default/services",
		token: noisy.token(idp.DataPlaneAudience), config: s.transport().TLSClientConfig,
	}
	// Half a head each, and then nothing: looked at last, so as not to wait.
	var slow []net.Conn
	for range 200 {
		c := h.dial("http/1.1")
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nX-Slow: ", h.path)
		slow = append(slow, c)
	}
	for _, attack := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"100,000 rapid resets", h.rapidReset},
		{"10,000 CONTINUATION", h.continuation},
		{"PING and SETTINGS, nothing read", h.control},
		{"frames out of order", h.disorder},
		{"slow reads and writes", h.slowStreams},
		{"5,000 half-open handshakes", h.halfOpen},
	} {
		t.Run(attack.name, func(t *testing.T) {
			before, stop, began := heapInUse(), s.neighbour(), time.Now()
			attack.run(t)
			took := time.Since(began)
			n, _, p99 := stop()
			grown := heapInUse() - before
			t.Logf("%s; %d requests of the neighbour, p99 %s; heap %+d KiB", took.Round(time.Millisecond), n, p99.Round(time.Millisecond), grown>>10)
			if grown > 128<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if n == 0 {
				t.Error("the neighbour made no request")
			}
		})
	}
	for _, c := range slow {
		if awaitClosed(t, "half a head", c); t.Failed() {
			break // the others would take as long each
		}
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// rapidReset opens streams and resets them at once (CVE-2023-44487), on one
// connection after the other, as the server closes them.
func (h *hostileSource) rapidReset(t *testing.T) {
	connections := 0
	for resets := 0; resets < 100_000; connections++ {
		f := h.frames()
		closed := f.discard()
		for open := true; open && resets < 100_000; resets++ {
			stream, err := h.open(f, "GET", true, true)
			if err != nil || f.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
				break
			}
			if resets%100 == 0 {
				f.out.Flush()
				select {
				case <-closed:
					open = false
				default:
				}
			}
		}
		f.out.Flush()
		f.Close()
		<-closed
	}
	t.Logf("on %d connections", connections)
}

// continuation never ends a header (CVE-2023-45288).
func (h *hostileSource) continuation(t *testing.T) {
	f := h.frames()
	defer f.Close()
	h.open(f, "GET", false, true)
	f.block.Reset()
	f.encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("a", 4<<10), Sensitive: true})
	for range 10_000 {
		if f.WriteContinuation(1, false, f.block.Bytes()) != nil {
			break
		}
	}
	f.out.Flush()
	awaitClosed(t, "CONTINUATION", f.Conn)
}

// control has the server answer, and takes no answer. PINGs without end are too
// much for it; acknowledgements of SETTINGS it makes one of, so it bears these.
func (h *hostileSource) control(t *testing.T) {
	for name, write := range map[string]func(f *frames) error{
		"PING":     func(f *frames) error { return f.WritePing(false, [8]byte{}) },
		"SETTINGS": func(f *frames) error { return f.WriteSettings() },
	} {
		f := h.frames()
		f.SetWriteDeadline(time.Now().Add(2 * soon))
		for i := 0; i < 1_000_000; i++ {
			if err := write(f); err != nil {
				if late, ok := err.(net.Error); ok && late.Timeout() {
					t.Errorf("%s: the server takes no more, and keeps the connection", name)
				}
				break
			}
		}
		f.Close()
	}
}

// disorder sends frames that have no business where they are, or no end, each
// kind on a connection of its own. The server closes it, or bears them.
func (h *hostileSource) disorder(t *testing.T) {
	const most = 5_000
	for name, write := range map[string]func(f *frames, stream uint32) error{
		"window of a stream overflows": func(f *frames, stream uint32) error { return f.WriteWindowUpdate(stream, 1<<31-1) },
		"window of all overflows":      func(f *frames, _ uint32) error { return f.WriteWindowUpdate(0, 1<<31-1) },
		"windows of one byte":          func(f *frames, stream uint32) error { return f.WriteWindowUpdate(stream, 1) },
		"resets of one stream":         func(f *frames, stream uint32) error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) },
		"resets of no stream":          func(f *frames, stream uint32) error { return f.WriteRSTStream(stream+1000, http2.ErrCodeCancel) },
		"DATA beyond the window":       func(f *frames, stream uint32) error { return f.WriteData(stream, false, make([]byte, 16<<10)) },
		"empty DATA":                   func(f *frames, stream uint32) error { return f.WriteData(stream, false, nil) },
		"padding":                      func(f *frames, stream uint32) error { return f.WriteDataPadded(stream, false, nil, make([]byte, 255)) },
		"empty CONTINUATION":           func(f *frames, stream uint32) error { return f.WriteContinuation(stream, false, nil) },
		"trailers without end":         func(f *frames, stream uint32) error { return h.again(f, stream) },
		"PRIORITY":                     func(f *frames, stream uint32) error { return f.WritePriority(stream+2, http2.PriorityParam{Weight: 1}) },
		"PUSH_PROMISE": func(f *frames, stream uint32) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: 2, EndHeaders: true})
		},
		"SETTINGS that shrink the window": func(f *frames, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		},
		"SETTINGS of no table": func(f *frames, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1})
		},
		"frames of no type": func(f *frames, stream uint32) error { return f.WriteRawFrame(0xfa, 0, stream, make([]byte, 100)) },
		"GOAWAY":            func(f *frames, _ uint32) error { return f.WriteGoAway(0, http2.ErrCodeNo, make([]byte, 1000)) },
		"a frame of 16 MiB": func(f *frames, _ uint32) error {
			_, err := f.out.Write(append([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}, make([]byte, 16<<10)...))
			return err
		},
		"not HTTP/2": func(f *frames, _ uint32) error {
			_, err := io.WriteString(f.out, "GET / HTTP/1.1\r\n\r\n")
			return err
		},
	} {
		f := h.frames()
		closed := f.discard()
		f.SetWriteDeadline(time.Now().Add(2 * soon))
		stream, err := h.open(f, "POST", true, false)
		for i := 0; err == nil && i < most; i++ {
			err = write(f, stream)
		}
		if late, ok := err.(net.Error); ok && late.Timeout() {
			t.Errorf("%s: the server takes no more, and keeps the connection", name)
		}
		f.Close()
		<-closed
	}
}

// again sends the head of a stream once more, as trailers that do not end it.
func (h *hostileSource) again(f *frames, stream uint32) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: f.block.Bytes()})
}

// slowStreams opens more streams than one connection may have, whose answers it
// does not read and whose bodies it does not send, and keeps them while the
// neighbour works.
func (h *hostileSource) slowStreams(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		f := h.frames(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		closed := f.discard()
		for range 240 {
			stream, err := h.open(f, method, true, method == "GET")
			if err == nil && method == "POST" {
				err = f.WriteData(stream, false, []byte("{"))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		f.out.Flush()
		// Another of its own connections is served beside them.
		resp, body := h.s.send(http.MethodGet, strings.TrimSuffix(h.path, "/services")+"/services", h.token, "")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		f.Close()
		<-closed
	}
}

// halfOpen opens connections and says nothing.
func (h *hostileSource) halfOpen(t *testing.T) {
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range 5000 {
		c, err := net.DialTimeout("tcp", h.address, soon)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for range 20 {
		if resp, body := h.s.send(http.MethodGet, "/k8s"+h.s.clusterID+"/version", h.token, ""); resp.StatusCode != http.StatusOK {
			t.Errorf("beside them: %d %s", resp.StatusCode, body)
		}
	}
}
