package gateway_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// badHeaders are what a hostile cluster could send a client (checklist, item 28).
func badHeaders() http.Header {
	h := http.Header{}
	for _, line := range []string{
		"Set-Cookie: a=b", "Set-Cookie2: a=b", "Nel: {}", "Report-To: {}", "Reporting-Endpoints: x", "Content-Security-Policy: x", "Content-Security-Policy-Report-Only: x", "Strict-Transport-Security: max-age=1", "Public-Key-Pins: x",
		"Alt-Svc: h3=\"evil:443\"", "Clear-Site-Data: \"*\"", "Refresh: 0;url=//evil", "Link: </x>; rel=preload", "Server: x", "Server-Timing: x", "X-Accel-Redirect: /x", "X-Accel-Buffering: no", "X-Sendfile: /x", "Access-Control-Allow-Origin: *",
		"Access-Control-Allow-Credentials: true", "Content-Disposition: attachment", "Content-Location: /x", "Www-Authenticate: Basic", "Proxy-Authenticate: Basic", "Authentication-Info: x", "X-Frame-Options: x", "Service-Worker-Allowed: /",
		"Sourcemap: /x", "X-Powered-By: x", "Cross-Origin-Opener-Policy: x", "Permissions-Policy: x", "Origin-Agent-Cluster: x", "Sallyport-Upgraded: SPDY/3.1", "Sallyport-Binding: x", "Connection: Content-Type", "Keep-Alive: x", "Upgrade: websocket", "Trailer: X-T", "Expect-Ct: x",
		"X-Content-Type-Options: sniff",
	} {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func TestItem28HostileHeadersDoNotSurvive(t *testing.T) {
	bad := badHeaders()
	if len(bad) < 30 {
		t.Fatal("too few")
	}
	bad.Set("Content-Type", "application/json")
	bad.Set("Audit-Id", "x")
	for _, upgrades := range []bool{false, true} {
		r, req := newRig(t), get(execPath)
		if upgrades {
			upgrade("SPDY/3.1")(r, req)
		}
		r.answer = func(*http.Request) (*http.Response, error) {
			h := bad.Clone()
			if upgrades {
				h.Del("Sallyport-Upgraded") // the agent deletes it
			}
			return answer(403, h, `{}`), nil
		}
		resp := r.do(req)
		want := []string{"Audit-Id", "Content-Type", "X-Content-Type-Options"}
		if upgrades {
			want = []string{"Audit-Id", "Connection", "Content-Type", "X-Content-Type-Options"}
		}
		if got := slices.Sorted(maps.Keys(resp.Header)); !slices.Equal(got, want) || resp.Header.Get("X-Content-Type-Options") != "nosniff" || len(resp.Header["X-Content-Type-Options"]) != 1 {
			t.Errorf("upgrade %v: %v", upgrades, resp.Header)
		}
	}
}

func TestItem08Redirects(t *testing.T) {
	for _, tc := range []struct{ location, want string }{
		{"/api/v1/namespaces/d/services/s/proxy/", base + "/api/v1/namespaces/d/services/s/proxy/"},
		{"/x?next=//evil&a=../..#y", base + "/x?next=//evil&a=../..#y"},
		{"/", base + "/"},
		{"https://evil.example/", ""}, {"http://evil", ""}, {"//evil", ""}, {"///evil", ""}, {`/\evil`, ""}, {`\\evil`, ""}, {`/a\..\..`, ""}, {"https:evil", ""}, {"javascript:alert(1)", ""}, {"data:text/html,x", ""},
		{"relative", ""}, {"../x", ""}, {"?x", ""}, {"#x", ""}, {" /x", ""}, {"", ""}, {"/%zz", ""},
		// These would lead a client, with its token, to another cluster's address.
		{"/../c2/api", ""}, {"/..", ""}, {"/a/../../../c2/api", ""}, {"/./x", ""}, {"/%2e%2e/c2/api", ""}, {"/a/%2E./b", ""}, {"/..%2fc2", ""}, {"/a//b", ""}, {"/..;/c2", ""}, {"/../c2?x", ""}, {"/..#x", ""},
	} {
		for _, code := range []int{301, 302, 303, 307, 308, 201} {
			r := newRig(t)
			r.answer = func(*http.Request) (*http.Response, error) {
				return answer(code, http.Header{"Location": {tc.location}, "Content-Type": {"text/html"}}, "<a>"), nil
			}
			resp := r.do(get("/api/v1/x"))
			if tc.want == "" {
				if err := status(t, resp); resp.StatusCode != 502 || resp.Header.Get("Location") != "" || resp.Header.Get("Retry-After") != "" || !apierrors.IsInternalError(err) {
					t.Errorf("%d to %q: %d %v", code, tc.location, resp.StatusCode, resp.Header)
				}
				continue
			}
			if got := resp.Header["Location"]; resp.StatusCode != code || len(got) != 1 || got[0] != tc.want {
				t.Errorf("%d to %q: %d %q", code, tc.location, resp.StatusCode, got)
			}
			if n := len(r.requests()); n != 1 {
				t.Errorf("%d to %q: %d requests", code, tc.location, n)
			}
		}
	}
	for name, locations := range map[string][]string{"two": {"/a", "/b"}, "empty, then evil": {"", "https://evil"}, "good, then evil": {"/a", "//evil"}} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) {
			return answer(302, http.Header{"Location": locations}, ""), nil
		}
		if resp := r.do(get("/x")); resp.StatusCode != 502 || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
	r, req := newRig(t), get(execPath)
	upgrade("websocket")(r, req)
	r.answer = func(*http.Request) (*http.Response, error) {
		return answer(302, http.Header{"Location": {"/x"}}, ""), nil
	}
	if resp := r.do(req); resp.StatusCode != 502 || resp.Header.Get("Location") != "" {
		t.Errorf("a redirected upgrade: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestItem28ContentTypes(t *testing.T) {
	const text = "text/plain; charset=utf-8"
	for _, tc := range []struct {
		types []string
		want  string
	}{
		{[]string{"application/json"}, "application/json"},
		{[]string{"application/json;stream=watch"}, "application/json;stream=watch"},
		{[]string{"application/vnd.kubernetes.protobuf;stream=watch"}, "application/vnd.kubernetes.protobuf;stream=watch"},
		{[]string{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"},
		{[]string{"text/plain; version=0.0.4"}, "text/plain; version=0.0.4"},
		{[]string{"Application/JSON"}, "Application/JSON"},
		{[]string{"text/html"}, text}, {[]string{"text/html; charset=utf-8"}, text}, {[]string{"TEXT/HTML"}, text}, {[]string{"image/svg+xml"}, text}, {[]string{"application/xhtml+xml"}, text}, {[]string{"text/xml"}, text},
		{[]string{"application/javascript"}, text}, {[]string{"text/css"}, text}, {[]string{"multipart/x-mixed-replace; boundary=x"}, text}, {nil, text}, {[]string{""}, text}, {[]string{"x"}, text},
		{[]string{"application/json, text/html"}, text}, {[]string{"application/json;x=y, text/html"}, text}, {[]string{"text/plainx/html"}, text}, {[]string{"application/jsonx"}, text}, {[]string{"application/json text/html"}, text},
		{[]string{"application/json", "text/html"}, text}, {[]string{"", "text/html"}, text},
	} {
		for _, upgrades := range []bool{false, true} {
			r, req := newRig(t), get(execPath)
			if upgrades {
				upgrade("websocket")(r, req)
			}
			r.answer = func(*http.Request) (*http.Response, error) {
				h := http.Header{}
				if tc.types != nil {
					h["Content-Type"] = tc.types
				}
				return answer(200, h, "<script>"), nil
			}
			resp := r.do(req)
			if got := resp.Header["Content-Type"]; len(got) != 1 || got[0] != tc.want || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%q, upgrade %v: %v", tc.types, upgrades, resp.Header)
			}
		}
	}
	for _, code := range []int{204, 304} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) { return answer(code, http.Header{"Etag": {"x"}}, ""), nil }
		if resp := r.do(get("/x")); resp.StatusCode != code || resp.Header.Get("Content-Type") != "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%d: %d %v", code, resp.StatusCode, resp.Header)
		}
	}
}

// Interim answers and trailers pass no allow-list, so they do not pass at all.
// The cluster here is a real one of net/http, on the other end of a network.
func TestItem28InterimAnswersAndTrailersStop(t *testing.T) {
	for name, second := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			cluster := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				h := w.Header()
				h.Set("Set-Cookie", "early=1")
				h.Set("Link", "</x>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				h.Del("Set-Cookie")
				h.Del("Link")
				h.Set("Trailer", "Set-Cookie")
				h.Set("Content-Type", "application/json")
				io.WriteString(w, "{}")
				w.(http.Flusher).Flush()
				h.Set("Set-Cookie", "late=1")
				h.Set(http.TrailerPrefix+"X-Unannounced", "x")
			}))
			cluster.EnableHTTP2 = second
			cluster.StartTLS()
			defer cluster.Close()
			r := newRig(t)
			r.answer = func(req *http.Request) (*http.Response, error) {
				out := req.Clone(req.Context())
				out.URL.Scheme, out.URL.Host = "https", cluster.Listener.Addr().String()
				return cluster.Client().Transport.RoundTrip(out)
			}
			s := r.serve(t, second)
			early := 0
			trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { early++; return nil }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", s.URL+base+"/x", nil)
			req.Header.Set("Authorization", "Bearer good")
			resp, err := s.Client().Do(req)
			check(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			check(t, err)
			if early != 0 || len(resp.Trailer) != 0 || resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Trailer") != "" || string(body) != "{}" || resp.StatusCode != 200 {
				t.Errorf("%d interim answers, trailers %v, header %v, %d %s", early, resp.Trailer, resp.Header, resp.StatusCode, body)
			}
			cluster.Client().CloseIdleConnections()
		})
	}
}

// A body that breaks off must not look whole.
func TestBrokenAnswer(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) {
			resp := answer(200, nil, "")
			resp.Body, resp.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{})), -1
			return resp, nil
		}
		s := r.serve(t, secure)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+"/x", nil)
		req.Header.Set("Authorization", "Bearer good")
		resp, err := s.Client().Do(req)
		check(t, err)
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: %q looks whole", name, body)
		}
		resp.Body.Close()
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
