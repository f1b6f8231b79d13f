package gateway_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// stamped are the headers that the gateway itself sends.
func stamped() []string {
	return []string{tunnel.HeaderBinding, tunnel.HeaderBindingUID, tunnel.HeaderRequestID, tunnel.HeaderSource}
}

// checkForwarded holds a forwarded request to what the gateway itself set and
// the client's harmless headers.
func checkForwarded(t *testing.T, name string, r *rig, allowed ...string) {
	t.Helper()
	out := r.requests()
	if len(out) != 1 {
		t.Errorf("%s: %d requests forwarded", name, len(out))
		return
	}
	got := slices.Sorted(maps.Keys(out[0].Header))
	got = slices.DeleteFunc(got, func(h string) bool {
		return h == "User-Agent" || h == "Accept" || h == "Accept-Encoding" || slices.Contains(allowed, h)
	})
	if want := stamped(); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s: forwarded %q", name, got)
	}
	claim, err := tunnel.ReadClaim(out[0].Header)
	if err != nil || claim.Binding != "b1" || claim.BindingUID != bindingUID || claim.RequestID != r.audited()[0].ID {
		t.Errorf("%s: claim %+v, %v", name, claim, err)
	}
	if out[0].Host != "cluster" || out[0].URL.Host != "cluster" || out[0].Trailer != nil {
		t.Errorf("%s: host %q, URL %s, trailers %v", name, out[0].Host, out[0].URL, out[0].Trailer)
	}
}

// spoofs are header lines that some proxy or API server once believed
// (checklist, item 2). None begins with "impersonate": those are refused.
func spoofs() []string {
	return []string{
		"X-Remote-User: system:admin", "x-remote-user: system:admin", "X-REMOTE-GROUP: system:masters", "X-Remote-Uid: 1", "X-Remote-Extra-Scopes: x", "X_Remote_User: a", "x_remote_group: b",
		"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: evil", "X-Forwarded-Proto: http", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x", "X-Forwarded-User: admin", "X-Forwarded-Groups: g", "X-Forwarded-Client-Cert: c",
		"Forwarded: for=127.0.0.1;host=evil", "Via: 1.1 x", "X-Real-Ip: 127.0.0.1", "True-Client-Ip: 1.1.1.1", "Cf-Connecting-Ip: 1.1.1.1", "X-Original-Url: /api", "X-Rewrite-Url: /api", "X-Original-Method: GET",
		"X-Http-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "Client-Cert: c", "X-Client-Cert: c", "X-Ssl-Client-Cert: c", "Ssl-Client-S-Dn: cn", "X-Ms-Client-Principal: p",
		"X-Goog-Authenticated-User-Email: a", "X-Auth-Request-User: a", "X-Webauth-User: a", "Remote-User: root", "REMOTE_USER: root", "Proxy-Authorization: Basic x", "Proxy: http://evil", "Cookie: a=b",
		"Audit-ID: x", "audit-id: y", "Traceparent: 00-x", "B3: 1", "Te: trailers", "TE: trailers, deflate", "Http2-Settings: x", "Keep-Alive: timeout=1", "Proxy-Connection: keep-alive",
		"Sallyport-Binding: other", "sallyport-binding-uid: x", "SALLYPORT-SOURCE: x", "Sallyport-Request-Id: x", "sallyport_binding: x", "Sallyport-Upgrade: SPDY/3.1", "Sallyport-Method: GET", "Sallyport-Upgraded: websocket", "Sallyport-Refused: forbidden",
		"Origin: https://evil", "Referer: https://evil", "Sec-Websocket-Key: x", "Sec-WebSocket-Protocol: v4.channel.k8s.io", "X-Stream-Protocol-Version: v4.channel.k8s.io", "X-Sallyport-Anything: x", "Warning: x",
	}
}

func TestItem02SpoofedHeadersStop(t *testing.T) {
	lines := spoofs()
	if len(lines) < 40 {
		t.Fatal("too few")
	}
	together := strings.Join(lines, "\r\n")
	for _, text := range append(lines, together) {
		r := newRig(t)
		s := r.serve(t, false)
		got := raw(t, s, "GET "+base+"/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n"+text+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("%.60q: %.200s", text, got)
			continue
		}
		checkForwarded(t, text[:min(60, len(text))], r)
	}
}

// Connection lists name headers that a proxy then deletes (checklist, item 3):
// whatever is listed, the claim arrives.
func TestItem03ConnectionLists(t *testing.T) {
	for _, list := range []string{
		strings.Join(stamped(), ", "), strings.ToLower(strings.Join(stamped(), ",")), "close, Sallyport-Binding", "Authorization", "Accept, Content-Type, User-Agent, Host", "keep-alive, Impersonate-User, X-Remote-User", "Connection", ",,,", "sallyport-*",
	} {
		r := newRig(t)
		s := r.serve(t, false)
		got := raw(t, s, "GET "+base+"/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nConnection: "+list+"\r\nConnection: close\r\nX-Remote-User: x\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("%s: %.200s", list, got)
			continue
		}
		checkForwarded(t, list, r)
	}
}

// Impersonation is refused however it is spelled, and nothing is forwarded.
func TestItem01ImpersonationIsRefused(t *testing.T) {
	for _, line := range []string{
		"Impersonate-User: system:admin", "impersonate-user: a", "IMPERSONATE-GROUP: system:masters", "Impersonate-Uid: 1", "Impersonate-Extra-Scopes: x", "Impersonate_User: a", "impersonate_group: a", "Impersonate: x",
		"Sec-WebSocket-Protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.eA",
		"Impersonate-User: a\r\nImpersonate-User: b", "Connection: Impersonate-User\r\nImpersonate-User: a", "X: y\r\n Impersonate-User: a\r\nImpersonate-Group: g",
	} {
		r := newRig(t)
		s := r.serve(t, false)
		got := raw(t, s, "GET "+base+"/api/v1 HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n"+line+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 403") || len(r.requests()) != 0 {
			t.Errorf("%q: %d forwarded, %.100s", line, len(r.requests()), got)
		}
	}
}

// Trailers, TE and Expect end at the gateway; bodies arrive whole and as they
// are (checklist, item 37).
func TestItem37TrailersExpectAndBodies(t *testing.T) {
	for _, tc := range []struct{ name, head, body, want string }{
		{"trailers", "Transfer-Encoding: chunked\r\nTrailer: Impersonate-User, X-T\r\nTE: trailers\r\n", "5\r\nhello\r\n0\r\nImpersonate-User: a\r\nX-T: b\r\nX-Unannounced: c\r\n\r\n", "hello"},
		{"expect", "Expect: 100-continue\r\nContent-Length: 5\r\n", "hello", "hello"},
		{"length", "Content-Length: 5\r\n", "hello", "hello"},
		{"compressed", "Content-Encoding: gzip\r\nContent-Length: 5\r\n", "\x1f\x8b\x08\x00x", "\x1f\x8b\x08\x00x"},
		{"chunk extensions", "Transfer-Encoding: chunked\r\n", "5;ext=\"x\"\r\nhello\r\n0\r\n\r\n", "hello"},
	} {
		r := newRig(t)
		var body string
		var after http.Header
		r.answer = func(req *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(req.Body)
			body, after = string(b), req.Trailer
			return answer(200, nil, "{}"), err
		}
		s := r.serve(t, false)
		got := raw(t, s, "POST "+base+"/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nConnection: close\r\n"+tc.head+"\r\n"+tc.body)
		if tc.name == "expect" {
			got = strings.TrimPrefix(got, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if !strings.HasPrefix(got, "HTTP/1.1 200") || body != tc.want || len(after) != 0 {
			t.Errorf("%s: body %q, trailers %v, %.200s", tc.name, body, after, got)
			continue
		}
		checkForwarded(t, tc.name, r, "Content-Length", "Content-Encoding")
	}
}

// A refused request with Expect is not asked for its body.
func TestItem37RefusedRequestIsNotAskedForItsBody(t *testing.T) {
	r := newRig(t)
	s := r.serve(t, false)
	got := raw(t, s, "POST "+base+"/api HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 401") {
		t.Errorf("%.100s", got)
	}
}

func TestHTTP2(t *testing.T) {
	r := newRig(t)
	s := r.serve(t, true)
	for i, line := range append([]string{"Accept: a/b"}, spoofs()...) {
		name, value, _ := strings.Cut(line, ": ")
		switch strings.ToLower(name) {
		case "te", "keep-alive", "proxy-connection", "http2-settings": // not sent over HTTP/2
			continue
		}
		r.mu.Lock()
		r.forwarded, r.records = nil, nil
		r.mu.Unlock()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+"/api", nil)
		req.Header = http.Header{"Authorization": {"Bearer good"}, name: {value}}
		req.Host = fmt.Sprintf("host%d.evil", i)
		resp, err := s.Client().Do(req)
		check(t, err)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
			t.Errorf("%s: HTTP/%d %d", line, resp.ProtoMajor, resp.StatusCode)
		}
		checkForwarded(t, line, r)
	}
}

// smuggled are bytes that two HTTP readers could cut into requests in
// different ways (checklist, item 36).
func smuggled() map[string]string {
	const auth = "Host: gateway\r\nAuthorization: Bearer good\r\n"
	line := "POST " + base + "/first HTTP/1.1\r\n" + auth
	second := "GET " + base + "/second HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nImpersonate-User: admin\r\nSallyport-Binding: other\r\n\r\n"
	size := fmt.Sprintf("Content-Length: %d\r\n", len(second))
	corpus := map[string]string{
		"TE and CL":              line + "Transfer-Encoding: chunked\r\n" + size + "\r\n0\r\n\r\n" + second,
		"CL and TE":              line + size + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second,
		"TE twice":               line + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + size + "\r\n" + second,
		"TE list":                line + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + second,
		"TE unknown":             line + "Transfer-Encoding: xchunked\r\n" + size + "\r\n" + second,
		"TE with tab":            line + "Transfer-Encoding:\tchunked\r\n" + size + "\r\n0\r\n\r\n" + second,
		"TE with vertical tab":   line + "Transfer-Encoding: \x0bchunked\r\n" + size + "\r\n0\r\n\r\n" + second,
		"TE quoted":              line + "Transfer-Encoding: \"chunked\"\r\n" + size + "\r\n0\r\n\r\n" + second,
		"space before colon":     line + "Transfer-Encoding : chunked\r\n" + size + "\r\n0\r\n\r\n" + second,
		"TE folded":              line + "Transfer-Encoding:\r\n chunked\r\n" + size + "\r\n0\r\n\r\n" + second,
		"CL folded":              line + "Content-Length:\r\n 0\r\n\r\n" + second,
		"CL twice":               line + size + "Content-Length: 0\r\n\r\n" + second,
		"CL list":                line + "Content-Length: 0, 5\r\n\r\n" + second,
		"CL plus":                line + "Content-Length: +0\r\n\r\n" + second,
		"CL hex":                 line + "Content-Length: 0x0\r\n\r\n" + second,
		"CL negative":            line + "Content-Length: -1\r\n\r\n" + second,
		"CL huge":                line + "Content-Length: 99999999999999999999\r\n\r\n" + second,
		"chunk size overflow":    line + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + second,
		"chunk size with 0x":     line + "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + second,
		"chunk without CRLF":     line + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n" + second,
		"chunk extension LF":     line + "Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n" + second,
		"folded identity":        "GET " + base + "/first HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nX-A: b\r\n Impersonate-User: admin\r\nConnection: close\r\n\r\n",
		"bare CR in header":      line + "X-A: b\rImpersonate-User: admin\r\nConnection: close\r\n\r\n",
		"bare LF in header":      line + "X-A: b\nSallyport-Binding: other\nConnection: close\r\n\r\n",
		"NUL in header":          line + "X-A: b\x00\r\nConnection: close\r\n\r\n",
		"two hosts":              line + "Host: evil\r\nConnection: close\r\n\r\n",
		"no host":                "GET " + base + "/first HTTP/1.1\r\nAuthorization: Bearer good\r\nConnection: close\r\n\r\n",
		"space in target":        "GET " + base + "/first /second HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n",
		"LF in target":           "GET " + base + "/first\nGET /second HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n",
		"absolute target":        "GET http://evil" + base + "/first HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n",
		"HTTP/0.9":               "GET " + base + "/first\r\n" + auth + "\r\n",
		"HTTP/1.0 chunked":       "POST " + base + "/first HTTP/1.0\r\n" + auth + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second,
		"HTTP/2 preface":         "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + second,
		"CONNECT":                "CONNECT evil:443 HTTP/1.1\r\n" + auth + "\r\n" + second,
		"CONNECT with a path":    "CONNECT " + base + "/first HTTP/1.1\r\n" + auth + "\r\n" + second,
		"upgrade refused":        "GET " + base + "/first HTTP/1.1\r\n" + auth + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + second,
		"upgrade with a body":    line + "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" + size + "\r\n" + second,
		"upgrade answered 403":   "GET " + base + execPath + " HTTP/1.1\r\n" + auth + "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n" + second,
		"expect, then a request": line + "Expect: 100-continue\r\n" + size + "\r\n" + second,
	}
	return corpus
}

// At most the one request that was meant reaches the tunnel, and never under
// another claim than the gateway's. A second request on the connection is only
// ever one that the gateway itself has authenticated and refused.
func TestItem36Smuggling(t *testing.T) {
	for name, text := range smuggled() {
		r := newRig(t)
		r.answer = func(req *http.Request) (*http.Response, error) {
			if req.Body != nil && req.Header.Get(tunnel.HeaderUpgrade) == "" {
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					return nil, err
				}
			}
			if req.URL.Path == execPath {
				return answer(403, nil, "no"), nil
			}
			return answer(200, nil, "{}"), nil
		}
		s := r.serve(t, false)
		got := raw(t, s, text)
		s.Close()
		out := r.requests()
		if len(out) > 1 {
			t.Errorf("%s: %d requests forwarded", name, len(out))
		}
		for _, req := range out {
			claim, err := tunnel.ReadClaim(req.Header)
			if err != nil || claim.Binding != "b1" || req.URL.Path == "/second" || tunnel.SpoofsIdentity(req.Header) != "" || strings.Contains(fmt.Sprint(req.Header), "other") {
				t.Errorf("%s: forwarded %s %v", name, req.URL, req.Header)
			}
			if len(req.TransferEncoding) > 0 && req.ContentLength >= 0 {
				t.Errorf("%s: forwarded with two lengths", name)
			}
		}
		if name == "upgrade answered 403" && (strings.Count(got, "HTTP/1.1") != 1 || !strings.Contains(got, "Connection: close")) {
			t.Errorf("%s: the connection went on: %s", name, got)
		}
	}
}
