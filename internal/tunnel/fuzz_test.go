package tunnel_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// FuzzHeaders: whatever lines a client writes, what travels on is written in
// bytes that a second reader finds one claim in, ours, and no header by which
// anybody on the way could be told another identity (checklist, items 1 to 3, 6
// and 36). The way back: no header of an answer that acts on an origin, a
// client or a tunnel.
func FuzzHeaders(f *testing.F) {
	for _, name := range spoofs() {
		f.Add([]byte(name+": evil\r\n"), false, false)
		f.Add([]byte(name+": evil\r\n"+name+": evil\r\n"), true, true)
	}
	for _, lines := range []string{
		"Connection: " + tunnel.HeaderBinding + ", Impersonate-User\r\nUpgrade: SPDY/3.1\r\n", "X-A: b\r\n Impersonate-User: evil\r\n", "X-A: b\n\nImpersonate-User: evil\r\n",
		"Impersonate-User : evil\r\n", " Impersonate-User: evil\r\n", "X-A: b\rImpersonate-User: evil\r\n", "Accept: a\x00b\r\n", "Accept: \xff\r\n", "X_Remote-User: evil\r\n", "Set-Cookie: a=b\r\nset_cookie: a=b\r\n",
	} {
		f.Add([]byte(lines), true, false)
		f.Add([]byte(lines), false, true)
	}
	list := tunnel.NewAllowList()
	f.Fuzz(func(t *testing.T, lines []byte, upgrade, application bool) {
		kind := tunnel.Kind{Upgrade: upgrade, Application: application}
		text := "GET / HTTP/1.1\r\nHost: cluster\r\n" + string(lines) + "\r\n"
		if r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text))); err == nil {
			list.Request(r.Header, kind)
			r.Trailer = nil
			tunnel.StampClaim(r.Header, someGrant(t), someRequest)
			forwarded(t, r, kind)
		}
		text = "HTTP/1.1 200 OK\r\n" + string(lines) + "\r\n"
		if resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil); err == nil {
			list.Response(resp.Header, kind)
			for name := range resp.Header {
				if bad := forbidden(name, []string{"set-cookie", "strict-transport-security", "content-security-policy", "nel", "report-to", "alt-svc", "refresh", "www-authenticate", "clear-site-data"}, []string{"sallyport-", "x-accel-", "access-control-", "impersonate"}); bad {
					t.Fatalf("%q: the answer keeps %q", lines, name)
				}
			}
		}
	})
}

// forwarded writes a filtered request, and reads it as the next hop does.
func forwarded(t *testing.T, r *http.Request, kind tunnel.Kind) {
	var wire bytes.Buffer
	out := &http.Request{Method: r.Method, URL: r.URL, Host: "cluster", Header: r.Header}
	if err := out.Write(&wire); err != nil {
		return // net/http refuses to send it, which is as good
	}
	next := bufio.NewReader(&wire)
	got, err := http.ReadRequest(next)
	if err != nil {
		t.Fatalf("the next hop cannot read it: %v", err)
	}
	if rest, err := io.ReadAll(next); err != nil || len(rest) != 0 {
		t.Fatalf("behind the request there is %q, %v", rest, err)
	}
	c, err := tunnel.ReadClaim(got.Header)
	if err != nil || c.Binding != someGrant(t).Binding || c.BindingUID != someBinding || c.Source.String() != someSource || c.RequestID != someRequest {
		t.Fatalf("the claim is %+v, %v", c, err)
	}
	tunnel.StripPrivate(got.Header)
	for name := range got.Header {
		hop := []string{"connection", "upgrade"}
		if kind.Upgrade {
			hop = nil
		}
		if forbidden(name, append(hop, "authorization", "audit-id", "forwarded", "via", "te", "trailer", "transfer-encoding", "keep-alive", "proxy-authorization", "x-real-ip", "expect"), []string{"impersonate", "x-remote-", "sallyport-", "x-forwarded-", "x-http-method"}) {
			t.Fatalf("%q reaches the next hop", name)
		}
	}
}

// forbidden compares as the loosest of readers does.
func forbidden(name string, names, prefixes []string) bool {
	folded := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), "_", "-"))
	return slices.Contains(names, folded) || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(folded, p) })
}
