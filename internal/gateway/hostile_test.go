package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/gateway"
)

// evilAPI is an API server that answers with bytes as they are, whatever is
// asked, and counts what it was asked.
type evilAPI struct {
	address string
	config  *tls.Config
	asked   atomic.Int64
}

// newEvilAPI starts one; say gets each connection when it has a request.
func newEvilAPI(t testing.TB, say func(c net.Conn, r *http.Request)) *evilAPI {
	t.Helper()
	s := httptest.NewUnstartedServer(nil) // for its certificate
	s.StartTLS()
	config := s.TLS.Clone()
	api := &evilAPI{config: trusting(s)}
	s.Close()
	config.NextProtos = nil
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(t, err)
	api.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				for br := bufio.NewReader(c); ; {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					api.asked.Add(1)
					io.Copy(io.Discard, req.Body)
					say(c, req)
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		serving.Wait()
	})
	return api
}

// endlessly writes until the connection is closed on it, or 256 MiB are through.
func endlessly(c net.Conn, head, each string) {
	io.WriteString(c, head)
	for sent := 0; sent < 256*mib; sent += len(each) {
		if _, err := io.WriteString(c, each); err != nil {
			return
		}
	}
}

// said is what a client may get of a hostile cluster: a refusal, an answer that
// is cut down, or one that breaks off.
type said struct {
	name, text string // of the evil answer; %s is another server's address
	each       string // then again and again
	close      bool   // and then the connection is closed
	status     int    // 0: any answer that does not look whole
	body       string
}

func evilAnswers() []said {
	long := strings.Repeat("a", 16<<10)
	json := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	answers := []said{
		{name: "Item28 HTML", text: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 8\r\n\r\n<script>", status: 200, body: "<script>"},
		{name: "Item28 no type", text: "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n<script>", status: 200, body: "<script>"},
		{name: "Item28 claims of the agent", text: json + "Sallyport-Refused: unavailable \"x\"\r\nSallyport-Upgraded: SPDY/3.1\r\nContent-Length: 2\r\n\r\n{}", status: 200, body: "{}"},
		{name: "Item28 unasked upgrade", text: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", status: 502},
		{name: "Item28 status 99", text: "HTTP/1.1 099 What\r\n\r\n", close: true, status: 502},
		{name: "Item28 status 1000", text: "HTTP/1.1 1000 What\r\n\r\n", close: true, status: 502},
		{name: "Item28 no HTTP", text: "SSH-2.0-OpenSSH_9.7\r\n", close: true, status: 502},
		{name: "Item28 HTTP/0.9", text: "<html>hello</html>", close: true, status: 502},
		{name: "Item28 closes", close: true, status: 502},
		{name: "Item30 endless headers", text: json, each: "X-A: " + long + "\r\n", status: 502},
		{name: "Item30 endless header", text: json + "X-A: ", each: long, status: 502},
		{name: "Item30 endless status line", text: "HTTP/1.1 200 ", each: long, status: 502},
		{name: "Item30 many headers", text: json + strings.Repeat("a: b\r\n", 50_000) + "\r\n{}", close: true, status: 502},
		{name: "Item30 interim answers", each: "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n", status: 502},
		{name: "Item30 interim answers, empty", each: "HTTP/1.1 100 Continue\r\n\r\n", status: 502},
		{name: "Item36 two lengths", text: json + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", close: true, status: 502},
		{name: "Item36 negative length", text: json + "Content-Length: -1\r\n\r\n{}", close: true, status: 502},
		{name: "Item36 length in words", text: json + "Content-Length: two\r\n\r\n{}", close: true, status: 502},
		{name: "Item36 unknown coding", text: json + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", close: true, status: 502},
		{name: "Item36 space before colon", text: json + "Set-Cookie : a=b\r\nContent-Length: 2\r\n\r\n{}", status: 200, body: "{}"},
		{name: "Item36 bare CR", text: json + "X-A: b\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}", close: true, status: 502},
		{name: "Item36 length and coding", text: json + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", status: 200, body: "{}"},
		{name: "Item36 bytes behind the answer", text: json + "Content-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\nevil", status: 200, body: "{}"},
		{name: "Item36 short body", text: json + "Content-Length: 100\r\n\r\n{}", close: true},
		{name: "Item36 no last chunk", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", close: true},
		{name: "Item36 chunk of words", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nxyz\r\n", close: true},
		{name: "Item36 huge chunk size", text: json + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}", close: true},
		{name: "Item37 endless trailers", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", each: "X-A: " + long + "\r\n"},
		{name: "Item37 endless chunk extension", text: json + "Transfer-Encoding: chunked\r\n\r\n2;", each: long},
		{name: "Item37 compressed bomb", text: json + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbomb", status: 200, body: "bomb"},
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		answers = append(answers, said{name: fmt.Sprintf("Item08 redirect %d", code), text: fmt.Sprintf("HTTP/1.1 %d Go\r\nLocation: https://%%s/\r\nContent-Length: 0\r\n\r\n", code), status: 502})
	}
	return answers
}

// TestItem28HostileCluster plays a cluster that answers as it likes, to plain
// requests and to upgrades, through the agent's own proxy and a real tunnel. The
// client gets a refusal, an answer cut down to what is harmless, or one that does
// not look whole; nobody is dialled; memory stays bounded; and a neighbour of
// another cluster is served all along.
func TestItem28HostileCluster(t *testing.T) {
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	var dialled atomic.Int64
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := elsewhere.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			c.Close()
		}
	})
	defer accepting.Wait()
	defer elsewhere.Close()
	var now atomic.Pointer[said]
	api := newEvilAPI(t, func(c net.Conn, _ *http.Request) {
		a := now.Load()
		io.WriteString(c, strings.ReplaceAll(a.text, "%s", elsewhere.Addr().String()))
		if a.each != "" {
			endlessly(c, "", a.each)
		}
		if a.close {
			c.(*tls.Conn).CloseWrite()
			c.Close()
		}
	})
	good := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	r := clusters(t, gateway.Limits{}, gateway.Limits{}, map[string]http.Handler{"evil": proxyTo(t, api.address, api.config), "calm": good})
	s := r.serve(t, false)
	stop := neighbour(t, s, "calm", "/api/v1/pods")
	before := heap()
	for _, a := range evilAnswers() {
		for _, path := range []string{"/api/v1/pods", execPath} {
			t.Run(a.name+path[strings.LastIndexByte(path, '/'):], func(t *testing.T) {
				now.Store(&a)
				upgrades := path == execPath
				req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+strings.TrimSuffix(base, "c1")+"evil"+path, nil)
				check(t, err)
				req.Header.Set("Authorization", "Bearer victim")
				if upgrades {
					req.Header.Set("Connection", "Upgrade")
					req.Header.Set("Upgrade", "SPDY/3.1")
				}
				client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, Timeout: limit,
					CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
				resp, err := client.Do(req)
				if err != nil {
					if a.status != 0 {
						t.Fatal(err)
					}
					return // broken off before it began
				}
				defer resp.Body.Close()
				if upgrades && strings.Contains(a.text, " 101 ") {
					if resp.StatusCode != http.StatusSwitchingProtocols {
						t.Errorf("an upgrade that was asked for: %d", resp.StatusCode)
					}
					return
				}
				body, err := io.ReadAll(resp.Body)
				switch {
				case a.status == 0 && err == nil && resp.StatusCode == 200:
					t.Errorf("it looks whole: %.100q", body)
				case a.status == 502:
					if resp.StatusCode != 502 || !bytes.Contains(body, []byte(`"kind":"Status"`)) {
						t.Errorf("%d %.200s", resp.StatusCode, body)
					}
				case a.status == 200 && (err != nil || resp.StatusCode != 200 || string(body) != a.body):
					t.Errorf("%d %.200q, %v", resp.StatusCode, body, err)
				}
				for _, name := range []string{"Set-Cookie", "Link", "Location", "Sallyport-Refused", "Sallyport-Upgraded"} {
					if v := resp.Header.Get(name); v != "" {
						t.Errorf("%s: %s", name, v)
					}
				}
				if kind := resp.Header.Get("Content-Type"); kind != "application/json" && kind != "text/plain; charset=utf-8" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("type %q, %v", kind, resp.Header)
				}
			})
		}
	}
	if grown := heap() - before; grown > 64*mib {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := dialled.Load(); n != 0 {
		t.Errorf("%d dials to where the cluster redirected", n)
	}
	if n := stop(); n == 0 {
		t.Error("the neighbour made no request")
	}
}

// TestItem28EndlessAnswer: a cluster's body has no end, and a client that reads
// nothing of it. Memory holds no more than the windows between them, and what is
// cut ends, at the cluster as well.
func TestItem28EndlessAnswer(t *testing.T) {
	var ended sync.WaitGroup
	api := newEvilAPI(t, func(c net.Conn, _ *http.Request) {
		ended.Add(1)
		defer ended.Done()
		endlessly(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", strings.Repeat("a", 64<<10))
		c.Close()
	})
	good := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	r := clusters(t, gateway.Limits{}, gateway.Limits{}, map[string]http.Handler{"evil": proxyTo(t, api.address, api.config), "calm": good})
	s := r.serve(t, true)
	stop := neighbour(t, s, "calm", "/api/v1/pods")
	before := heap()
	const streams = 20
	ctx, cancel := context.WithCancel(t.Context())
	for range streams {
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL+strings.TrimSuffix(base, "c1")+"evil/api/v1/pods", nil)
		check(t, err)
		req.Header.Set("Authorization", "Bearer victim")
		resp, err := s.Client().Do(req)
		check(t, err)
		defer resp.Body.Close()
	}
	// A stream's windows: 1 MiB at the gateway, 4 MiB of a Go client, and buffers
	// of the sockets, which are not on the heap.
	if grown := heap() - before; grown > streams*8*mib {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	cancel()
	done := make(chan struct{})
	go func() { ended.Wait(); close(done) }()
	receive(t, done, "the cluster to be told")
	if n := stop(); n == 0 {
		t.Error("the neighbour made no request")
	}
}

// TestItem32StalledClientIsCut: a client that reads nothing is cut by a
// revocation as any other, over HTTP/1.1 and HTTP/2: its handler does not wait
// until it reads.
func TestItem32StalledClientIsCut(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.answer = func(*http.Request) (*http.Response, error) {
				resp := answer(200, nil, "")
				resp.Body, resp.ContentLength = endless(1<<40), -1
				return resp, nil
			}
			s := r.serve(t, secure)
			req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+"/api/v1/pods?watch=1", nil)
			req.Header.Set("Authorization", "Bearer good")
			resp, err := s.Client().Do(req)
			check(t, err)
			defer resp.Body.Close()
			r.Revoke(bindingUID, "binding deleted")
			began := time.Now()
			complete := awaitComplete(t, r)
			if !strings.Contains(complete.Reason, "binding deleted") {
				t.Errorf("%+v", complete)
			}
			t.Logf("ended after %s", time.Since(began).Round(time.Millisecond))
		})
	}
}
