package tunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// chain is client -> front -> tunnel -> agent -> api, where api is a raw
// listener: the test plays both the client and the API server byte by byte.
type chain struct {
	*gateway
	front   *httptest.Server
	api     net.Listener
	served  chan outcome  // what ServeUpgrade returned
	handled chan error    // what HandleUpgrade returned
	cancel  chan struct{} // closed to revoke
}

type outcome struct {
	status   int
	up, down int64
	err      error
}

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{api: listen(t), served: make(chan outcome, 10), handled: make(chan error, 10), cancel: make(chan struct{})}
	t.Cleanup(func() { c.api.Close() })
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", c.api.Addr().String())
	}
	c.gateway = connected(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get(tunnel.HeaderBinding); got != "stamp" {
			t.Errorf("the gateway's binding arrived as %q", got)
		}
		out := r.Clone(r.Context())
		out.Header.Set("Impersonate-User", "binding")
		out.Header.Set("Connection", "Impersonate-User") // must not be able to name it away
		status, err := tunnel.HandleUpgrade(w, r, dial, out)
		c.handled <- err
		if status == 0 {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	c.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-c.cancel:
				cancel()
			case <-ctx.Done():
			}
		}()
		rt, err := c.hub.To(uid)
		if err != nil {
			t.Error(err)
			return
		}
		out := r.Clone(ctx)
		out.Header.Set(tunnel.HeaderBinding, "stamp")
		var o outcome
		o.status, o.up, o.down, o.err = tunnel.ServeUpgrade(w, out, rt, func(h http.Header) { h.Del("X-Bad") })
		if o.status == 0 {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusBadGateway)
		}
		c.served <- o
	}))
	c.front.Start()
	t.Cleanup(c.front.Close)
	return c
}

// ask sends an upgrade request and returns both ends: the client's connection
// and the API server's, with the request that reached it.
func (c *chain) ask(t *testing.T, method, proto string) (client *net.TCPConn, api *net.TCPConn, got *http.Request) {
	t.Helper()
	conn, err := net.Dial("tcp", c.front.Listener.Addr().String())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "%s /api/v1/pods/x/exec?command=sh HTTP/1.1\r\nHost: k8s\r\nConnection: keep-alive, Upgrade, Sallyport-Binding, Impersonate-User\r\nUpgrade: %s\r\nX-Stream: 1\r\nSallyport-Binding: forged\r\n\r\n", method, proto)
	accepted := make(chan net.Conn, 1)
	go func() {
		a, err := c.api.Accept()
		if err == nil {
			accepted <- a
		}
	}()
	a := receive(t, accepted, "the API server to be dialled")
	t.Cleanup(func() { a.Close() })
	got, err = http.ReadRequest(bufio.NewReader(a))
	check(t, err)
	return conn.(*net.TCPConn), a.(*net.TCPConn), got
}

// upgraded does all of that and has the API server answer 101.
func (c *chain) upgraded(t *testing.T, method, proto string) (client *net.TCPConn, fromAPI *bufio.Reader, api *net.TCPConn) {
	t.Helper()
	client, api, got := c.ask(t, method, proto)
	if got.Method != method || got.Header.Get("Upgrade") != proto || got.Header.Get("Connection") != "Upgrade" ||
		got.URL.RequestURI() != "/api/v1/pods/x/exec?command=sh" || got.Header.Get("X-Stream") != "1" {
		t.Errorf("API server got %s %s %v", got.Method, got.URL, got.Header)
	}
	if got.Header.Get("Impersonate-User") != "binding" {
		t.Error("the identity is gone")
	}
	for name := range got.Header {
		if tunnel.IsPrivate(name) {
			t.Errorf("private header %s reached the API server", name)
		}
	}
	fmt.Fprintf(api, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Accept: yes\r\nX-Bad: 1\r\nSallyport-Binding: forged\r\n\r\nfirst bytes", proto)
	br := bufio.NewReader(client)
	resp, err := http.ReadResponse(br, nil)
	check(t, err)
	h := resp.Header
	if resp.StatusCode != 101 || h.Get("Upgrade") != proto || h.Get("X-Accept") != "yes" ||
		h.Get("X-Bad")+h.Get("Sallyport-Binding")+h.Get("Sallyport-Upgraded") != "" {
		t.Errorf("client got %d %v", resp.StatusCode, h)
	}
	expect(t, br, "first bytes")
	return client, br, api
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		b := make([]byte, len(want))
		n, _ := io.ReadFull(r, b)
		got <- string(b[:n])
	}()
	if g := receive(t, got, want); g != want {
		t.Errorf("got %q, want %q", g, want)
	}
}

// ends waits for the end of r and returns how it ended.
func ends(t *testing.T, r io.Reader) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}()
	return receive(t, ended, "the connection to end")
}

func TestUpgradeEcho(t *testing.T) {
	for _, tc := range []struct{ method, proto string }{
		{"POST", "SPDY/3.1"}, {"GET", "SPDY/3.1"}, {"GET", "websocket"},
	} {
		t.Run(tc.method+" "+tc.proto, func(t *testing.T) {
			c := newChain(t)
			client, down, api := c.upgraded(t, tc.method, tc.proto)
			io.WriteString(client, "ping")
			expect(t, api, "ping")
			io.WriteString(api, "pong")
			expect(t, down, "pong")

			// More than any window, both ways at once.
			big := bytes.Repeat([]byte("0123456789abcdef"), 256<<10)
			go client.Write(big)
			go api.Write(big)
			expect(t, api, string(big))
			expect(t, down, string(big))

			client.CloseWrite()
			if err := ends(t, api); err != nil {
				t.Error(err)
			}
			api.Close()
			if err := ends(t, down); err != nil {
				t.Error(err)
			}
			o := receive(t, c.served, "ServeUpgrade to return")
			want := outcome{status: 101, up: int64(4 + len(big)), down: int64(len("first bytes") + 4 + len(big))}
			if o != want {
				t.Errorf("outcome %+v, want %+v", o, want)
			}
			if err := receive(t, c.handled, "HandleUpgrade to return"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUpgradeBytesRightBehindTheRequest(t *testing.T) {
	c := newChain(t)
	client, api, _ := c.ask(t, "GET", "websocket")
	io.WriteString(client, "early") // before the 101: lands in the server's buffer
	io.WriteString(api, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
	expect(t, api, "early")
}

func TestUpgradeHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		c := newChain(t)
		client, down, api := c.upgraded(t, "POST", "SPDY/3.1")
		client.CloseWrite()
		if err := ends(t, api); err != nil {
			t.Error(err)
		}
		io.WriteString(api, "still here")
		expect(t, down, "still here")
		api.Close()
		if err := ends(t, down); err != nil {
			t.Error(err)
		}
	})
	t.Run("API server first", func(t *testing.T) {
		c := newChain(t)
		client, down, api := c.upgraded(t, "POST", "SPDY/3.1")
		api.CloseWrite()
		if err := ends(t, down); err != nil {
			t.Error(err)
		}
		io.WriteString(client, "still here")
		expect(t, api, "still here")
		client.Close()
		if err := ends(t, api); err != nil {
			t.Error(err)
		}
		if o := receive(t, c.served, "ServeUpgrade to return"); o.err != nil || o.status != 101 {
			t.Errorf("%+v", o)
		}
	})
}

func TestUpgradeAbort(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		c := newChain(t)
		client, _, api := c.upgraded(t, "POST", "SPDY/3.1")
		client.SetLinger(0)
		client.Close()
		if err := ends(t, api); err == nil {
			t.Error("the API server saw an orderly end")
		}
		if o := receive(t, c.served, "ServeUpgrade to return"); o.err == nil {
			t.Error("ServeUpgrade saw an orderly end")
		}
		if err := receive(t, c.handled, "HandleUpgrade to return"); err == nil {
			t.Error("HandleUpgrade saw an orderly end")
		}
	})
	t.Run("API server", func(t *testing.T) {
		c := newChain(t)
		_, down, api := c.upgraded(t, "POST", "SPDY/3.1")
		api.SetLinger(0)
		api.Close()
		if err := ends(t, down); err == nil {
			t.Error("the client saw an orderly end")
		}
		if o := receive(t, c.served, "ServeUpgrade to return"); o.err == nil {
			t.Error("ServeUpgrade saw an orderly end")
		}
	})
	t.Run("revocation", func(t *testing.T) {
		c := newChain(t)
		_, down, api := c.upgraded(t, "POST", "SPDY/3.1")
		close(c.cancel)
		if err := ends(t, down); err == nil {
			t.Error("the client saw an orderly end")
		}
		if err := ends(t, api); err == nil {
			t.Error("the API server saw an orderly end")
		}
		if o := receive(t, c.served, "ServeUpgrade to return"); !errors.Is(o.err, context.Canceled) {
			t.Errorf("%+v", o)
		}
	})
	t.Run("revocation of a client that reads nothing", func(t *testing.T) {
		c := newChain(t)
		_, _, api := c.upgraded(t, "POST", "SPDY/3.1")
		flowing, flooded := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(flooded)
			for chunk := make([]byte, 1<<20); ; {
				if _, err := api.Write(chunk); err != nil {
					return
				}
				select {
				case flowing <- struct{}{}:
				default:
				}
			}
		}()
		receive(t, flowing, "the flood to begin")
		close(c.cancel)
		receive(t, flooded, "the API server's writes to fail")
		receive(t, c.served, "ServeUpgrade to return")
	})
}

// A command that ends without having read its input is no abort, or its last
// words would be lost.
func TestUpgradeInputThatNobodyReads(t *testing.T) {
	c := newChain(t)
	client, down, api := c.upgraded(t, "GET", "websocket")
	flooded := make(chan struct{})
	go func() { // ends when the client's connection does
		defer close(flooded)
		for chunk := make([]byte, 64<<10); ; {
			if _, err := client.Write(chunk); err != nil {
				return
			}
		}
	}()
	io.WriteString(api, "last words")
	api.CloseWrite()
	expect(t, down, "last words")
	if err := ends(t, down); err != nil {
		t.Error(err)
	}
	api.SetLinger(0) // what it has not read makes a close a reset in any case
	api.Close()
	if err := receive(t, c.handled, "HandleUpgrade to return"); err != nil {
		t.Errorf("HandleUpgrade saw an abort: %v", err)
	}
	client.Close()
	receive(t, flooded, "the client to end")
	if o := receive(t, c.served, "ServeUpgrade to return"); o.err != nil || o.status != 101 {
		t.Errorf("%+v", o)
	}
}

// Checklist 7: Kubernetes CVE-2018-1002105.
func TestItem07RefusedUpgradeIsNeverSpliced(t *testing.T) {
	for _, status := range []int{200, 400, 403, 404, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c := newChain(t)
			client, api, _ := c.ask(t, "POST", "SPDY/3.1")
			io.WriteString(client, "GET /api/v1/secrets HTTP/1.1\r\nHost: k8s\r\n\r\n")
			fmt.Fprintf(api, "HTTP/1.1 %d Said No\r\nContent-Type: application/json\r\nContent-Length: 2\r\nSallyport-Upgraded: SPDY/3.1\r\n\r\n{}", status)
			br := bufio.NewReader(client)
			resp, err := http.ReadResponse(br, nil)
			var body []byte
			if err == nil {
				body, err = io.ReadAll(resp.Body)
			}
			if errors.Is(err, syscall.ECONNRESET) {
				// The server closed on bytes it never read, and the kernel let the client
				// know before it had read the answer.
				resp, err = nil, nil
			}
			check(t, err)
			if resp == nil {
				t.Log("connection reset")
			} else if resp.StatusCode != status || string(body) != "{}" || !resp.Close || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
			}
			io.WriteString(client, "GET /api/v1/secrets HTTP/1.1\r\nHost: k8s\r\n\r\n")
			if n, _ := io.Copy(io.Discard, br); n != 0 {
				t.Errorf("%d bytes behind the refusal", n)
			}
			if rest, _ := io.ReadAll(api); len(rest) != 0 {
				t.Errorf("the API server got %q", rest)
			}
			if o := receive(t, c.served, "ServeUpgrade to return"); o.status != status || o.up != 0 || o.down > 2 {
				t.Errorf("%+v", o)
			}
			if c.hub.Connected(uid) != 1 {
				t.Error("the tunnel's connection was closed")
			}
		})
	}
}

func TestUpgradeAnswersThatMakeNoSense(t *testing.T) {
	for name, answer := range map[string]string{
		"redirect":         "HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n",
		"other protocol":   "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"no protocol":      "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"endless header":   "HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
		"not HTTP":         "SSH-2.0-OpenSSH_9.7\r\n",
		"100 and then end": "HTTP/1.1 100 Continue\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := newChain(t)
			client, api, _ := c.ask(t, "GET", "SPDY/3.1")
			io.WriteString(api, answer)
			api.CloseWrite()
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			check(t, err)
			if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Location") != "" {
				t.Errorf("got %d %v", resp.StatusCode, resp.Header)
			}
			if err := receive(t, c.handled, "HandleUpgrade to return"); !errors.Is(err, access.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestItem09UpgradeRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		request string
		proto   string
		invalid bool
	}{
		"plain":               {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n"},
		"spdy":                {request: "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n", proto: "SPDY/3.1"},
		"websocket":           {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", proto: "websocket"},
		"h2c":                 {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", invalid: true},
		"TLS":                 {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n", invalid: true},
		"a list":              {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket, SPDY/3.1\r\n", invalid: true},
		"twice":               {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n", invalid: true},
		"without Connection":  {request: "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n", invalid: true},
		"without Upgrade":     {request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n", invalid: true},
		"with a body":         {request: "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 3\r\n", invalid: true},
		"with a chunked body": {request: "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nTransfer-Encoding: chunked\r\n", invalid: true},
		"by DELETE":           {request: "DELETE / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n", invalid: true},
		"over HTTP/1.0":       {request: "GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", invalid: true},
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(tc.request + "\r\nabc")))
		check(t, err)
		proto, err := tunnel.UpgradeRequest(r)
		if proto != tc.proto || errors.Is(err, access.ErrInvalid) != tc.invalid {
			t.Errorf("%s: %q, %v", name, proto, err)
		}
	}
}

// A client that has yet to read the end, as its pings say, is waited for: to
// close before would reset the connection, and destroy what it has not read.
func TestUpgradeSlowReaderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		rt := roundTripper(func(r *http.Request) (*http.Response, error) {
			header := http.Header{tunnel.HeaderUpgraded: {"SPDY/3.1"}}
			// A chunk, the empty one behind it, and the end.
			return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(strings.NewReader("\x00\x00\x00\x03end\x00\x00\x00\x00"))}, nil
		})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "SPDY/3.1")
		served := make(chan error, 1)
		go func() {
			_, _, _, err := tunnel.ServeUpgrade(hijackable{httptest.NewRecorder(), server}, r, rt, nil)
			served <- err
		}()
		br := bufio.NewReader(client)
		_, err := http.ReadResponse(br, nil)
		check(t, err)
		expect(t, br, "end")
		for range 20 {
			time.Sleep(5 * time.Second) // of the bubble's clock
			if _, err := io.WriteString(client, "ping"); err != nil {
				t.Fatalf("the connection was closed on a client that pings: %v", err)
			}
		}
		silent := time.Now()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if waited := time.Since(silent); waited != 30*time.Second {
			t.Errorf("a silent client was waited for %s", waited)
		}
	})
}

type hijackable struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack serves [http.Hijacker].
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip serves [http.RoundTripper].
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
