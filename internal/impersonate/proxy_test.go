package impersonate_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/impersonate"
	"github.com/sallyport/sallyport/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	limit      = 20 * time.Second // no test waits longer for one event; none expects to
	source     = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ml1"
	bindingUID = "bbbbbbbb-2222-3333-4444-aaaaaaaaaaaa"
	requestID  = "dddddddd-2222-3333-4444-aaaaaaaaaaaa"
)

// counted counts the connections that a listener accepts. It can fall silent:
// connections stay open, and what comes on them is not read.
type counted struct {
	net.Listener
	silent atomic.Bool
	mu     sync.Mutex
	n      int
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return silenced{conn, c}, nil
}

// silenced is a connection of such a listener.
type silenced struct {
	net.Conn
	by *counted
}

func (c silenced) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && c.by.silent.Load() {
		n, err = c.Conn.Read(p)
	}
	return n, err
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func listen(t testing.TB) *counted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return &counted{Listener: l}
}

// trap is an address that nobody is to dial. Who does is counted, and closed.
func trap(t testing.TB) *counted {
	t.Helper()
	l := listen(t)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	t.Cleanup(accepting.Wait)
	t.Cleanup(func() { l.Close() })
	return l
}

// rig is a proxy between a front, which speaks as a gateway would, and an API
// server that keeps what it was asked.
type rig struct {
	*impersonate.Proxy
	live  *tunnel.Live
	known func(tunnel.Claim) error
	token func() (string, error)
	front *httptest.Server
	dials *counted // of the API server

	mu     sync.Mutex
	answer http.HandlerFunc
	got    []*http.Request
}

func newRig(t testing.TB, http2 bool, change ...func(*impersonate.Config)) *rig {
	t.Helper()
	r := &rig{live: &tunnel.Live{}, dials: listen(t)}
	r.known = func(c tunnel.Claim) error {
		if c.Binding != "B1" || c.BindingUID != bindingUID || c.Source.String() != source {
			return fmt.Errorf("not known: %w", access.ErrForbidden)
		}
		return nil
	}
	r.token = func() (string, error) { return "agent-token", nil }
	r.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{}")
	}
	quiet := log.New(io.Discard, "", 0)
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.got = append(r.got, req.Clone(context.Background()))
		answer := r.answer
		r.mu.Unlock()
		answer(w, req)
	}))
	api.Listener.Close()
	api.Listener, api.EnableHTTP2, api.Config.ErrorLog = r.dials, http2, quiet
	api.StartTLS()
	upstream, err := url.Parse(api.URL)
	check(t, err)
	cfg := impersonate.Config{
		Upstream: upstream,
		TLS:      &tls.Config{RootCAs: api.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"},
		Token:    func() (string, error) { return r.token() },
		Known:    func(c tunnel.Claim) error { return r.known(c) },
		Live:     r.live,
		Logger:   slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	r.Proxy, err = impersonate.New(cfg)
	check(t, err)
	r.front = httptest.NewUnstartedServer(r.Proxy)
	r.front.Config.ErrorLog = quiet
	r.front.Config.Protocols = new(http.Protocols)
	r.front.Config.Protocols.SetHTTP1(true)
	r.front.Config.Protocols.SetUnencryptedHTTP2(true)
	r.front.Start()
	t.Cleanup(func() {
		r.front.Close()
		r.Close()
		api.Close()
	})
	return r
}

func (r *rig) setAnswer(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = h
}

func (r *rig) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// claim are the private headers of a good request, as lines.
func claim() string {
	return tunnel.HeaderBinding + ": B1\r\n" + tunnel.HeaderBindingUID + ": " + bindingUID + "\r\n" + tunnel.HeaderSource + ": " + source + "\r\n" + tunnel.HeaderRequestID + ": " + requestID + "\r\n"
}

// raw sends bytes to the front and returns what comes back.
func (r *rig) raw(t testing.TB, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.front.Listener.Addr().String())
	check(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	io.WriteString(conn, text) // a server that closes early has answered
	b, _ := io.ReadAll(conn)
	return string(b)
}

// do serves a good request that change may spoil.
func (r *rig) do(t testing.TB, change func(*http.Request)) *http.Response {
	t.Helper()
	req := httptest.NewRequest("GET", "/api/v1/pods?limit=1", nil)
	id, err := access.ParseResourceID(source)
	check(t, err)
	tunnel.StampClaim(req.Header, access.Grant{Binding: "B1", BindingUID: bindingUID, Source: id}, requestID)
	if change != nil {
		change(req)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Result()
}

// identity is all by which the API server may tell who asks.
func identity() http.Header {
	return http.Header{
		"Authorization":     {"Bearer agent-token"},
		"Impersonate-User":  {"aks:trustedaccess:B1"},
		"Impersonate-Group": {"aks:trustedaccess"},
		"Impersonate-Extra-Sallyport.dev%2fbinding-Uid": {bindingUID},
		"Impersonate-Extra-Sallyport.dev%2fsource":      {source},
		"Audit-Id": {requestID},
	}
}

// checkIdentity holds a request at the API server to the identity and to
// harmless headers.
func checkIdentity(t testing.TB, name string, req *http.Request) {
	t.Helper()
	got := req.Header.Clone()
	for _, harmless := range []string{"Accept", "Accept-Encoding", "User-Agent", "Content-Length", "Content-Type"} {
		got.Del(harmless)
	}
	want := identity()
	if strings.HasPrefix(name, "upgrade") {
		want.Set("Connection", "Upgrade")
		want.Set("Upgrade", "SPDY/3.1")
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%s: the API server saw %v", name, got)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := func() impersonate.Config {
		return impersonate.Config{
			Upstream: &url.URL{Scheme: "https", Host: "api"}, TLS: &tls.Config{}, Token: func() (string, error) { return "", nil },
			Known: func(tunnel.Claim) error { return nil }, Live: &tunnel.Live{}, Logger: slog.New(slog.DiscardHandler),
		}
	}
	for name, change := range map[string]func(*impersonate.Config){
		"no upstream": func(c *impersonate.Config) { c.Upstream = nil },
		"plain HTTP":  func(c *impersonate.Config) { c.Upstream.Scheme = "http" },
		"no host":     func(c *impersonate.Config) { c.Upstream.Host = "" },
		"no TLS":      func(c *impersonate.Config) { c.TLS = nil },
		"no token":    func(c *impersonate.Config) { c.Token = nil },
		"no Known":    func(c *impersonate.Config) { c.Known = nil },
		"no Live":     func(c *impersonate.Config) { c.Live = nil },
	} {
		c := good()
		change(&c)
		if _, err := impersonate.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := impersonate.New(good()); err != nil {
		t.Error(err)
	}
}

func TestItem05IdentityIsWhole(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		r := newRig(t, http2)
		resp := r.do(t, nil)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || string(body) != "{}" || tunnel.Refused(resp.Header) != nil {
			t.Fatalf("%s: %d %s %v", name, resp.StatusCode, body, tunnel.Refused(resp.Header))
		}
		got := r.requests()
		if len(got) != 1 || got[0].RequestURI != "/api/v1/pods?limit=1" || got[0].Host != r.dials.Addr().String() || (got[0].ProtoMajor == 2) != http2 {
			t.Fatalf("%s: %d requests, %+v", name, len(got), got)
		}
		checkIdentity(t, name, got[0])
		if len(r.live.UIDs()) != 0 {
			t.Errorf("%s: still live", name)
		}
	}
}

// A gateway that was taken over sends what it likes; the API server sees the
// one identity that the agent made (checklist, items 1 to 5 and 12).
func TestItem01NothingSuppliedSurvives(t *testing.T) {
	evil := trap(t)
	line := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: " }
	own := slices.Sorted(maps.Keys(identity()))
	all := strings.Join(own, ", ")
	set := func(value string) (lines string) {
		for _, name := range own {
			lines += name + ": " + value + "\r\n"
		}
		return lines
	}
	for name, text := range map[string]string{
		"identity headers":          line("/api") + "x\r\n" + set("evil"),
		"identity in Connection":    line("/api") + "x\r\nConnection: " + all + "\r\n",
		"both":                      line("/api") + "x\r\nConnection: close, " + all + "\r\n" + set("evil"),
		"lower case":                line("/api") + "x\r\nconnection: " + strings.ToLower(all) + "\r\n" + strings.ToLower(set("evil")),
		"with Upgrade":              line("/api") + "x\r\nConnection: Upgrade, Impersonate-User\r\nUpgrade: SPDY/3.1\r\n",
		"with Te":                   line("/api") + "x\r\nConnection: TE, Authorization\r\nTE: trailers\r\n",
		"underscores":               line("/api") + "x\r\nimpersonate_user: evil\r\nImpersonate_Group: evil\r\nx_remote_user: evil\r\n",
		"front proxy":               line("/api") + "x\r\nX-Remote-User: admin\r\nX-Remote-Group: system:masters\r\nX-Remote-Extra-A: b\r\nX-Forwarded-For: 1.1.1.1\r\n",
		"another uid and extra":     line("/api") + "x\r\nImpersonate-Uid: 1\r\nImpersonate-Extra-Scopes: admin\r\nImpersonate-Extra-Sallyport.dev%2fsource: other\r\n",
		"cookie and origin":         line("/api") + "x\r\nCookie: a=b\r\nOrigin: https://evil\r\nProxy-Authorization: x\r\n",
		"folded":                    line("/api") + "x\r\nX-A: b\r\n Impersonate-User: evil\r\n",
		"claim in Connection":       line("/api") + "x\r\nConnection: " + tunnel.HeaderBinding + ", " + tunnel.HeaderBindingUID + "\r\n",
		"absolute target":           line("http://"+evil.Addr().String()+"/api") + "x\r\n",
		"absolute target with user": line("http://user:password@"+evil.Addr().String()+"/api") + "x\r\n",
		"metadata service":          line("http://169.254.169.254/api") + "169.254.169.254\r\n",
		"host":                      line("/api") + evil.Addr().String() + "\r\nX-Forwarded-Host: " + evil.Addr().String() + "\r\n",
		"forwarding":                line("/api") + "x\r\nX-Original-Url: http://" + evil.Addr().String() + "/\r\nX-Http-Method-Override: DELETE\r\n",
	} {
		r := newRig(t, false)
		got := r.raw(t, text+"Connection: close\r\n"+claim()+"\r\n")
		requests := r.requests()
		if !strings.HasPrefix(got, "HTTP/1.1 200") || len(requests) != 1 {
			t.Errorf("%s: %d requests, %.200s", name, len(requests), got)
			continue
		}
		checkIdentity(t, name, requests[0])
		if requests[0].Host != r.dials.Addr().String() || requests[0].Method != "GET" || r.dials.count() != 1 {
			t.Errorf("%s: host %s, %s, %d dials", name, requests[0].Host, requests[0].Method, r.dials.count())
		}
	}
	if n := evil.count(); n != 0 {
		t.Errorf("%d dials elsewhere", n)
	}
}

// Trailers of a request end here as well.
func TestItem37RequestTrailersStop(t *testing.T) {
	r := newRig(t, false)
	trailers := make(chan http.Header, 1)
	r.setAnswer(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		trailers <- req.Trailer
	})
	got := r.raw(t, "POST /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n"+claim()+"\r\n1\r\na\r\n0\r\nImpersonate-User: evil\r\nX-Other: x\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Fatalf("%.200s", got)
	}
	if h := <-trailers; len(h) != 0 {
		t.Errorf("trailers %v", h)
	}
	checkIdentity(t, "trailers", r.requests()[0])
}

// What the agent cannot vouch for makes no call at all (checklist, item 4).
func TestItem04RefusalsMakeNoCall(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*rig, *http.Request)
		kind   error
	}{
		{"no claim", func(_ *rig, r *http.Request) { tunnel.StripPrivate(r.Header) }, access.ErrForbidden},
		{"no request id", func(_ *rig, r *http.Request) { r.Header.Del(tunnel.HeaderRequestID) }, access.ErrForbidden},
		{"two bindings", func(_ *rig, r *http.Request) { r.Header.Add(tunnel.HeaderBinding, "B1") }, access.ErrForbidden},
		{"unknown binding", func(_ *rig, r *http.Request) { r.Header.Set(tunnel.HeaderBinding, "B2") }, access.ErrForbidden},
		{"binding system:masters", func(_ *rig, r *http.Request) { r.Header.Set(tunnel.HeaderBinding, "system:masters") }, access.ErrForbidden},
		{"wrong uid", func(_ *rig, r *http.Request) { r.Header.Set(tunnel.HeaderBindingUID, requestID) }, access.ErrForbidden},
		{"wrong source", func(_ *rig, r *http.Request) { r.Header.Set(tunnel.HeaderSource, source+"2") }, access.ErrForbidden},
		{"stale", func(r *rig, _ *http.Request) {
			r.known = func(tunnel.Claim) error { return fmt.Errorf("not heard: %w", access.ErrUnavailable) }
		}, access.ErrUnavailable},
		{"token not there", func(r *rig, _ *http.Request) {
			r.token = func() (string, error) { return "", errors.New("secret path") }
		}, nil},
		{"CONNECT", func(_ *rig, r *http.Request) { r.Method = "CONNECT"; r.URL = &url.URL{Host: "169.254.169.254:80"} }, access.ErrInvalid},
		{"CONNECT with a path", func(_ *rig, r *http.Request) { r.Method = "CONNECT" }, access.ErrInvalid},
		{"OPTIONS *", func(_ *rig, r *http.Request) { r.Method, r.URL = "OPTIONS", &url.URL{Path: "*"} }, access.ErrInvalid},
		{"opaque target", func(_ *rig, r *http.Request) { r.URL = &url.URL{Scheme: "http", Opaque: "169.254.169.254/x"} }, access.ErrInvalid},
		{"no path", func(_ *rig, r *http.Request) { r.URL = &url.URL{Scheme: "http", Host: "169.254.169.254"} }, access.ErrInvalid},
		{"two slashes", func(_ *rig, r *http.Request) { r.URL.Path = "//169.254.169.254/api" }, access.ErrInvalid},
		{"traversal", func(_ *rig, r *http.Request) { r.URL.Path = "/api/v1/namespaces/x/pods/../secrets" }, access.ErrInvalid},
		{"encoded exec", func(_ *rig, r *http.Request) {
			r.URL.Path, r.URL.RawPath = "/api/v1/namespaces/x/pods/p/exec", "/api/v1/namespaces/x/pods/p/%65xec"
		}, access.ErrInvalid},
		{"upgrade of nodes/proxy", func(_ *rig, r *http.Request) { asUpgrade(r, "/api/v1/nodes/n/proxy/exec/ns/p/c") }, access.ErrInvalid},
		{"upgrade of a list", func(_ *rig, r *http.Request) { asUpgrade(r, "/api/v1/pods") }, access.ErrInvalid},
		{"unknown upgrade", func(_ *rig, r *http.Request) { r.Header.Set(tunnel.HeaderUpgrade, "h2c") }, access.ErrInvalid},
		{"upgrade, token not there", func(r *rig, req *http.Request) {
			r.token = func() (string, error) { return "", errors.New("secret path") }
			asUpgrade(req, "/api/v1/namespaces/x/pods/p/exec")
		}, nil},
	} {
		r := newRig(t, false)
		resp := r.do(t, func(req *http.Request) { tc.change(r, req) })
		err := tunnel.Refused(resp.Header)
		var refused *tunnel.RefusedError
		if !errors.As(err, &refused) || refused.Unwrap() != tc.kind || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if n := len(r.requests()); n != 0 || r.dials.count() != 0 || len(r.live.UIDs()) != 0 {
			t.Errorf("%s: %d requests, %d dials, live %v", tc.name, n, r.dials.count(), r.live.UIDs())
		}
	}
}

// asUpgrade makes a request an upgrade as it comes through the tunnel.
func asUpgrade(r *http.Request, path string) {
	r.Method, r.URL.Path = "POST", path
	r.Header.Set(tunnel.HeaderUpgrade, "SPDY/3.1")
	r.Header.Set(tunnel.HeaderMethod, "GET")
}

// roundTrip makes a func a RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// closer notes that it was closed.
type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

func TestItem04NoIdentityNoCall(t *testing.T) {
	calls := 0
	rt := impersonate.NewRoundTripper(roundTrip(func(*http.Request) (*http.Response, error) { calls++; return nil, errors.New("called") }), func() (string, error) { return "token", nil })
	body := &closer{Reader: strings.NewReader("x")}
	req := httptest.NewRequest("POST", "https://api/x", body)
	req.Header.Set("Impersonate-User", "admin")
	if _, err := rt.RoundTrip(req); !errors.Is(err, access.ErrForbidden) || calls != 0 || !body.closed {
		t.Errorf("%v, %d calls, body closed %v", err, calls, body.closed)
	}
}

// The binding's withdrawal reaches a running request, and one whose claim is
// checked just now.
func TestCut(t *testing.T) {
	withdrawn := fmt.Errorf("binding deleted: %w", access.ErrForbidden)
	r := newRig(t, true)
	r.setAnswer(func(w http.ResponseWriter, req *http.Request) {
		if n := r.live.Cut(bindingUID, withdrawn); n != 1 {
			t.Errorf("cut %d", n)
		}
		<-req.Context().Done()
	})
	resp := r.do(t, nil)
	if err := tunnel.Refused(resp.Header); !errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), "binding deleted") {
		t.Error(err)
	}

	r = newRig(t, true)
	r.known = func(tunnel.Claim) error {
		r.live.Cut(bindingUID, withdrawn) // after the registration: the request is seen
		return nil
	}
	if resp := r.do(t, nil); !errors.Is(tunnel.Refused(resp.Header), access.ErrForbidden) || len(r.requests()) != 0 {
		t.Errorf("%v, %d requests", tunnel.Refused(resp.Header), len(r.requests()))
	}
}

// A redirect is passed on, for the gateway to judge, and not followed.
func TestItem08Redirects(t *testing.T) {
	evil := trap(t)
	for _, code := range []int{301, 302, 307, 308} {
		r := newRig(t, true)
		r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://"+evil.Addr().String()+"/")
			w.WriteHeader(code)
		})
		for i, method := range []string{"GET", "POST"} {
			resp := r.do(t, func(req *http.Request) { req.Method = method })
			if resp.StatusCode != code || resp.Header.Get("Location") == "" || len(r.requests()) != i+1 {
				t.Errorf("%s, %d: passed on as %d, %d requests", method, code, resp.StatusCode, len(r.requests()))
			}
		}
		resp := r.do(t, func(req *http.Request) { asUpgrade(req, "/api/v1/namespaces/x/pods/p/exec") })
		if err := tunnel.Refused(resp.Header); resp.Header.Get("Location") != "" || err == nil || len(r.requests()) != 3 {
			t.Errorf("upgrade, %d: passed on as %d %v, %d requests", code, resp.StatusCode, err, len(r.requests()))
		}
	}
	if evil.count() != 0 {
		t.Error("a redirect was followed")
	}
}

// What an API server says in our own headers' names, or to browsers, ends here.
func TestItem28Answers(t *testing.T) {
	r := newRig(t, true)
	r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for _, name := range []string{"Set-Cookie", "Sallyport-Refused", "sallyport-upgraded", "Sallyport-Binding", "Www-Authenticate", "Nel", "Strict-Transport-Security", "X-Accel-Redirect", "Server", "Trailer"} {
			h.Set(name, "forbidden")
		}
		h.Set("Content-Type", "application/json")
		io.WriteString(w, "{}")
		w.(http.Flusher).Flush()
		h.Set(http.TrailerPrefix+"Sallyport-Refused", "forbidden")
		h.Set(http.TrailerPrefix+"Set-Cookie", "a=b")
	})
	resp := r.do(t, nil)
	io.ReadAll(resp.Body)
	for name := range resp.Header {
		if !slices.Contains([]string{"Content-Type", "Date", "Content-Length"}, name) {
			t.Errorf("header %s reached the gateway", name)
		}
	}
	if len(resp.Trailer) != 0 {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

func TestAPIServerGone(t *testing.T) {
	r := newRig(t, false)
	r.dials.Close()
	resp := r.do(t, nil)
	// Nothing was sent, so the client may ask again.
	if err := tunnel.Refused(resp.Header); !errors.Is(err, access.ErrUnavailable) {
		t.Error(err)
	}
	r = newRig(t, false)
	r.setAnswer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	resp = r.do(t, func(req *http.Request) { req.Method = "POST" })
	// It may have had its effect: no kind that invites a repetition.
	if err := tunnel.Refused(resp.Header); !errors.Is(err, tunnel.ErrNoAnswer) {
		t.Error(err)
	}
}

// An upgrade has the same identity, on a connection of its own.
func TestUpgrade(t *testing.T) {
	r := newRig(t, true)
	r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nSet-Cookie: a=b\r\n\r\n")
		io.Copy(conn, buf)
	})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	body, client := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", r.front.URL+"/api/v1/namespaces/d/pods/p/exec?command=sh", body)
	check(t, err)
	for line := range strings.SplitSeq(strings.TrimSpace(claim()), "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	for name := range identity() {
		req.Header.Set(name, "evil")
	}
	req.Header.Set("X-Remote-User", "evil")
	req.Header.Set(tunnel.HeaderUpgrade, "SPDY/3.1")
	req.Header.Set(tunnel.HeaderMethod, "GET")
	resp, err := transport.RoundTrip(req)
	check(t, err)
	if resp.StatusCode != 200 || resp.Header.Get(tunnel.HeaderUpgraded) != "SPDY/3.1" {
		t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, tunnel.Refused(resp.Header))
	}
	io.WriteString(client, "hello")
	client.Close()
	back, err := io.ReadAll(resp.Body)
	check(t, err)
	resp.Body.Close()
	if !strings.Contains(string(back), "hello") {
		t.Errorf("came back: %q", back)
	}
	got := r.requests()[0]
	if got.Method != "GET" || got.ProtoMajor != 1 || got.Host != r.dials.Addr().String() || got.RequestURI != "/api/v1/namespaces/d/pods/p/exec?command=sh" {
		t.Errorf("%s %s %s %s", got.Method, got.Proto, got.Host, got.RequestURI)
	}
	checkIdentity(t, "upgrade", got)
}
