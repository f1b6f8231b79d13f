package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
)

// hostileNamespace is where the hostile cluster answers itself.
const hostileNamespace = "/api/v1/namespaces/hostile/"

// hostileAPI is the API server of a cluster that was taken over, as the proxy
// half of a real agent sees it: in one namespace it answers with bytes as they
// are, and all else goes on to the real API server.
type hostileAPI struct {
	server, ca string // for the agent's --apiserver and --apiserver-ca
	real       *http.Transport
	realHost   string
	now        atomic.Pointer[hostileRun]
}

// hostileAnswer is what it says, and what a client may get of that: a refusal,
// an answer that is cut down, or one that breaks off.
type hostileAnswer struct {
	name, text string // %s is another server's address
	each       string // then again and again, until it is cut
	silent     bool   // and then nothing, until it is cut
	close      bool   // and then the connection is closed
	early      bool   // all of that before the request's body, of which nothing is read until the client has its answer
	leaves     bool   // the client goes, since nothing else ends it
	status     int    // 0: any answer that does not look whole
	body       string
}

// hostileRun is one of them under way.
type hostileRun struct {
	hostileAnswer
	begun    chan struct{} // when it was asked, and has said its text
	answered chan struct{} // closed when the client has its answer, or gave up
	ended    chan int      // when each, silent or early was cut: the bytes that went through
}

// endless is more than anybody may take of an answer.
const endless = 256 << 20

func newHostileAPI(s *system, elsewhere string) *hostileAPI {
	s.t.Helper()
	forCertificate := httptest.NewUnstartedServer(nil)
	forCertificate.StartTLS()
	config := forCertificate.TLS.Clone()
	config.NextProtos = nil // raw bytes are of HTTP/1.1
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forCertificate.Certificate().Raw})
	forCertificate.Close()
	ca := filepath.Join(s.t.TempDir(), "hostile-ca.crt")
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		s.t.Fatal(err)
	}
	realCA, err := os.ReadFile(filepath.Join(s.cluster().dir, "ca.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(realCA)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		s.t.Fatal(err)
	}
	api := &hostileAPI{
		server: "https://" + ln.Addr().String(), ca: ca,
		real:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		realHost: strings.TrimPrefix(s.cluster().server, "https://"),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { api.serve(ctx, conn.(*tls.Conn), elsewhere) })
		}
	})
	s.t.Cleanup(func() {
		cancel()
		ln.Close()
		serving.Wait()
		api.real.CloseIdleConnections()
	})
	return api
}

func (h *hostileAPI) serve(ctx context.Context, conn *tls.Conn, elsewhere string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for br := bufio.NewReader(conn); ; {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if strings.HasPrefix(req.URL.Path, hostileNamespace) {
			if h.attack(conn, br, req, elsewhere) != nil {
				return
			}
			continue
		}
		if h.pass(ctx, conn, req) != nil {
			return
		}
	}
}

// pass has the real API server answer.
func (h *hostileAPI) pass(ctx context.Context, conn net.Conn, req *http.Request) error {
	req = req.WithContext(ctx)
	req.URL.Scheme, req.URL.Host, req.Host, req.RequestURI = "https", h.realHost, h.realHost, ""
	resp, err := h.real.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return resp.Write(conn)
}

// errHostileOver ends a connection.
var errHostileOver = errors.New("the attack is over")

func (h *hostileAPI) attack(conn *tls.Conn, br *bufio.Reader, req *http.Request, elsewhere string) error {
	run := h.now.Load()
	if !run.early {
		io.Copy(io.Discard, req.Body)
	}
	io.WriteString(conn, strings.ReplaceAll(run.text, "%s", elsewhere))
	run.begun <- struct{}{}
	switch {
	case run.each != "":
		sent := 0
		for sent < endless {
			n, err := io.WriteString(conn, run.each)
			if sent += n; err != nil {
				break
			}
		}
		run.ended <- sent
	case run.silent:
		io.Copy(io.Discard, br) // until the other end has gone
		run.ended <- 0
	case run.early:
		<-run.answered
		n, _ := io.Copy(io.Discard, br)
		run.ended <- int(n)
	case run.close:
		conn.CloseWrite()
	default:
		return nil
	}
	return errHostileOver
}

// hostileHeaders are those that no answer of a cluster may bring to a client.
func hostileHeaders() map[string]string {
	return map[string]string{
		"Set-Cookie": "a=b", "Link": "</x>; rel=preload", "Location": "https://%s/", "Refresh": "0; url=https://%s/", "Alt-Svc": `h2="%s"`,
		"Access-Control-Allow-Origin": "*", "Strict-Transport-Security": "max-age=0", "Clear-Site-Data": `"*"`, "Www-Authenticate": "Basic",
		"Proxy-Authenticate": "Basic", "Report-To": "{}", "Impersonate-User": "kubernetes-admin", "X-Remote-User": "kubernetes-admin",
		"Sallyport-Refused": `unavailable "x"`, "Sallyport-Upgraded": "SPDY/3.1",
	}
}

func hostileAnswers() []hostileAnswer {
	const json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	long, bad := strings.Repeat("a", 16<<10), json
	for name, value := range hostileHeaders() {
		if name == "Location" {
			continue // a redirect is refused, see below
		}
		bad += name + ": " + value + "\r\n"
	}
	return []hostileAnswer{
		{name: "bad headers", text: bad + "Content-Length: 2\r\n\r\n{}", status: 200, body: "{}"},
		{name: "redirect", text: "HTTP/1.1 307 Go\r\nLocation: https://%s/\r\nContent-Length: 0\r\n\r\n", status: 502},
		{name: "HTML", text: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 8\r\n\r\n<script>", status: 200, body: "<script>"},
		{name: "no HTTP", text: "SSH-2.0-OpenSSH_9.7\r\n", close: true, status: 502},
		{name: "early close", close: true, status: 502},
		{name: "101 unasked", text: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", status: 502},
		{name: "endless headers", text: json, each: "X-A: " + long + "\r\n", status: 502},
		{name: "endless header", text: json + "X-A: ", each: long, status: 502},
		{name: "endless 103", each: "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n", status: 502},
		{name: "endless 100", each: "HTTP/1.1 100 Continue\r\n\r\n", status: 502},
		{name: "length and coding", text: json + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", status: 200, body: "{}"},
		{name: "two lengths", text: json + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", close: true, status: 502},
		{name: "bytes behind the answer", text: json + "Content-Length: 2\r\n\r\n{}" + bad + "Content-Length: 4\r\n\r\nevil", status: 200, body: "{}"},
		{name: "short body", text: json + "Content-Length: 100\r\n\r\n{}", close: true},
		{name: "no last chunk", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", close: true},
		{name: "garbage chunk", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nxyz\r\n", close: true},
		{name: "endless trailers", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", each: "X-A: " + long + "\r\n"},
		{name: "endless body", text: json + "\r\n", each: long, leaves: true},
		{name: "silence", silent: true, leaves: true},
		{name: "silence after the head", text: json + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", silent: true, leaves: true},
		{name: "answer before the body", text: json + "Content-Length: 2\r\n\r\n{}", early: true, status: 200, body: "{}"},
	}
}

// TestSystemItem28HostileCluster: behind a real agent is an API server that was
// taken over. Whoever asks it, for a plain answer or an upgrade, gets a Status, an
// answer without what would harm, or one that breaks off; nobody is dialled, what
// has no end is cut, and both of the agent's connections stay: through all of that
// one watch goes on over them, and after each the next request is answered.
func TestSystemItem28HostileCluster(t *testing.T) {
	s := newSystem(t)
	clusterID := s.register("private")
	ml := s.source("ml")
	elsewhere := newElsewhere(t)
	evil := newHostileAPI(s, elsewhere.ln.Addr().String())
	agent := s.install("private", "inference-v1")
	agent.args["proxy"] = append(agent.args["proxy"], "--apiserver", evil.server, "--apiserver-ca", evil.ca)
	agent.start()
	s.bind("private", "ml", ml.id, inference)
	c := &hostileClient{s: s, base: "/k8s" + clusterID, token: ml.token(idp.DataPlaneAudience)}
	s.await("the agent's connections", func() bool { return s.tunnels() == 2 })
	const list = "/api/v1/namespaces/default/services"
	// The proxy's own feed may come later than the tunnel.
	s.await("an honest answer", func() bool {
		resp, _ := s.send("GET", c.base+list, c.token, "")
		return resp.StatusCode == 200
	})
	watch := c.watch(t, list)
	before := heapInUse()
	for _, a := range hostileAnswers() {
		for _, upgrades := range []bool{false, true} {
			if upgrades && a.early {
				continue // an upgrade has no body
			}
			t.Run(fmt.Sprintf("%s, upgrade %t", a.name, upgrades), func(t *testing.T) {
				run := &hostileRun{hostileAnswer: a, begun: make(chan struct{}, 100), answered: make(chan struct{}), ended: make(chan int, 100)}
				evil.now.Store(run)
				func() {
					defer close(run.answered)
					c.suffer(t, run, upgrades)
				}()
				if a.each != "" || a.silent || a.early {
					if sent := within(t, "the cluster's answer is cut", run.ended); sent > 32<<20 {
						t.Errorf("%d MiB went through", sent>>20)
					}
				}
				if resp, body := s.send("GET", c.base+list, c.token, ""); resp.StatusCode != 200 || !strings.Contains(body, `"kind":"ServiceList"`) {
					t.Errorf("the next request: %d %.200s", resp.StatusCode, body)
				}
			})
		}
	}
	if grown := heapInUse() - before; grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := elsewhere.dialled.Load(); n != 0 {
		t.Errorf("%d dials to where the cluster redirected", n)
	}
	if n, gone := s.tunnels(), strings.Count(s.server.log.String(), "agent disconnected"); n != 2 || gone != 0 {
		t.Errorf("the agent connected %d times, and lost %d connections", n, gone)
	}
	_, err := s.kube.admin.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "afterwards"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the watch tells of a service made afterwards", watch)
}

// within waits for what comes on a channel.
func within[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(soon):
		t.Fatalf("not within %s: %s", soon, what)
	}
	return v
}

// elsewhereServer is where the cluster would have others go.
type elsewhereServer struct {
	ln      net.Listener
	dialled atomic.Int64
}

func newElsewhere(t *testing.T) *elsewhereServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &elsewhereServer{ln: ln}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			e.dialled.Add(1)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
	})
	return e
}

// hostileClient is the client of a hostile cluster, which is the one to suffer.
type hostileClient struct {
	s           *system
	base, token string
}

func (c *hostileClient) request(ctx context.Context, t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, c.s.url+c.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	return req
}

// watch follows a list over HTTP/2, and is told when "afterwards" is in it.
func (c *hostileClient) watch(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	resp, err := c.s.transport().RoundTrip(c.request(ctx, t, "GET", path+"?watch=true", nil))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	seen, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close()
		for d := json.NewDecoder(resp.Body); ; {
			var event struct {
				Object metav1.PartialObjectMetadata `json:"object"`
			}
			if d.Decode(&event) != nil {
				return
			}
			if event.Object.Name == "afterwards" {
				seen <- struct{}{}
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if resp.StatusCode != 200 {
		t.Fatalf("watch: %d", resp.StatusCode)
	}
	return seen
}

// suffer asks the hostile cluster once, and judges what comes of it.
func (c *hostileClient) suffer(t *testing.T, run *hostileRun, upgrades bool) {
	t.Helper()
	ctx, leave := context.WithTimeout(t.Context(), soon)
	defer leave()
	req := c.request(ctx, t, "GET", hostileNamespace+"services/x", nil)
	transport := c.s.transport()
	defer transport.CloseIdleConnections()
	switch {
	case upgrades:
		req = c.request(ctx, t, "GET", hostileNamespace+"pods/x/exec?command=sh&stdin=true", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "SPDY/3.1")
		transport.ForceAttemptHTTP2 = false // only HTTP/1.1 can upgrade
	case run.early:
		req = c.request(ctx, t, "POST", hostileNamespace+"services", bytes.NewReader(make([]byte, 64<<20)))
		req.Header.Set("Content-Type", "application/json")
	}
	left := make(chan struct{})
	// A silent answer to an upgrade is not passed on before it has said more.
	atOnce := run.silent && (upgrades || run.text == "")
	if atOnce {
		go func() {
			defer close(left)
			select {
			case <-run.begun:
			case <-ctx.Done():
				t.Error("the cluster was not asked")
			}
			leave()
		}()
	} else {
		close(left)
	}
	resp, err := transport.RoundTrip(req)
	<-left
	if err != nil {
		if run.status != 0 {
			t.Error(err)
		}
		return // broken off before it began
	}
	defer resp.Body.Close()
	if atOnce {
		return
	}
	if run.leaves {
		if _, err := io.CopyN(io.Discard, resp.Body, 2); err != nil || resp.StatusCode != 200 {
			t.Errorf("the beginning of the answer: %d, %v", resp.StatusCode, err)
		}
		return // and leave with the rest unread
	}
	if upgrades && strings.Contains(run.text, " 101 ") {
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("an upgrade that was asked for: %d", resp.StatusCode)
		}
		return
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case run.status == 0 && err == nil && resp.StatusCode == 200:
		t.Errorf("it looks whole: %.100q", body)
	case run.status == 502 && (resp.StatusCode != 502 || !bytes.Contains(body, []byte(`"kind":"Status"`))):
		t.Errorf("%d %.200s", resp.StatusCode, body)
	case run.status == 200 && (err != nil || resp.StatusCode != 200 || string(body) != run.body):
		t.Errorf("%d %.200q, %v", resp.StatusCode, body, err)
	}
	for name := range hostileHeaders() {
		if v := resp.Header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
	if kind := resp.Header.Get("Content-Type"); kind != "application/json" && kind != "text/plain; charset=utf-8" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("type %q, %v", kind, resp.Header)
	}
}
