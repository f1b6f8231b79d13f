package tunnel_test

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// filtered returns the names that a filter leaves of a header with these names.
func filtered(filter func(http.Header), names []string) []string {
	h := http.Header{}
	for _, name := range names {
		h[name] = []string{"x"} // as it is, not made canonical
	}
	filter(h)
	return slices.Sorted(maps.Keys(h))
}

// spoofs are headers by which somebody named an identity, a route or an
// origin to a proxy or an API server (checklist, items 1, 2, 28 and 37).
func spoofs() []string {
	return []string{
		"Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-Scopes", "impersonate-user", "IMPERSONATE-USER", "impersonate_user", "Impersonate_User",
		"X-Remote-User", "X-Remote-Group", "X-Remote-Uid", "X-Remote-Extra-Scopes", "X_Remote_User", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-User",
		"X-Forwarded-Client-Cert", "Forwarded", "Via", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "X-Method-Override", "X-Client-Cert", "Client-Cert",
		"X-Ms-Client-Principal", "X-Ms-Client-Principal-Id", "X-Goog-Authenticated-User-Email", "X-Auth-Request-User", "X-Webauth-User", "Remote-User", "Remote_User", "Authorization",
		"Proxy-Authorization", "Cookie", "Audit-Id", "Audit-ID", "Traceparent", "Te", "Trailer", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Http2-Settings", "Expect", "Host", "Origin",
		tunnel.HeaderBinding, tunnel.HeaderBindingUID, tunnel.HeaderSource, tunnel.HeaderRequestID, tunnel.HeaderUpgrade, tunnel.HeaderMethod, tunnel.HeaderUpgraded, "sallyport_binding", "Sallyport-Refused",
		"accept", "ACCEPT", "content_type", "User_Agent", "",
	}
}

func TestItem02AllowListOfRequests(t *testing.T) {
	plain := []string{"Accept", "Accept-Encoding", "Content-Encoding", "Content-Length", "Content-Type", "If-Match", "If-None-Match", "Kubectl-Command", "Range", "User-Agent"}
	upgrading := []string{"Connection", "Sec-Websocket-Extensions", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Version", "Upgrade", "X-Stream-Protocol-Version"}
	list := tunnel.NewAllowList()
	for _, tc := range []struct {
		name    string
		upgrade bool
		send    []string
		keep    []string
	}{
		{"needed", false, plain, plain},
		{"upgrade not asked for", false, upgrading, nil},
		{"upgrade", true, slices.Concat(plain, upgrading), slices.Sorted(slices.Values(slices.Concat(plain, upgrading)))},
		{"spoofs", false, spoofs(), nil},
		{"spoofs on an upgrade", true, spoofs(), nil},
	} {
		if got := filtered(func(h http.Header) { list.Request(h, tunnel.Kind{Upgrade: tc.upgrade}) }, tc.send); !slices.Equal(got, tc.keep) {
			t.Errorf("%s: left %q, want %q", tc.name, got, tc.keep)
		}
	}
}

func TestAllowListOfResponses(t *testing.T) {
	plain := []string{"Allow", "Audit-Id", "Cache-Control", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Etag", "Location", "Retry-After", "Vary", "Warning", "X-Kubernetes-Pf-Flowschema-Uid"}
	upgraded := []string{"Connection", "Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Upgrade", "X-Stream-Protocol-Version"}
	hostile := []string{
		"Set-Cookie", "set-cookie", "Nel", "Report-To", "Reporting-Endpoints", "Content-Security-Policy", "Strict-Transport-Security", "Public-Key-Pins", "Alt-Svc", "Clear-Site-Data", "Refresh",
		"Link", "Server", "Server-Timing", "X-Accel-Redirect", "X-Accel-Buffering", "X-Sendfile", "X-Lighttpd-Send-File", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials",
		"Content-Disposition", "Content-Location", "Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Trailer", "Transfer-Encoding", "X-Content-Type-Options", "X-Frame-Options",
		"Service-Worker-Allowed", "Sourcemap", "Sallyport-Refused", "Sallyport-Upgraded", "Location ", "location",
	}
	list := tunnel.NewAllowList()
	for _, tc := range []struct {
		name     string
		upgraded bool
		send     []string
		keep     []string
	}{
		{"needed", false, plain, plain},
		{"101 not answered", false, upgraded, nil},
		{"101", true, slices.Concat(plain, upgraded), slices.Sorted(slices.Values(slices.Concat(plain, upgraded)))},
		{"hostile", false, hostile, nil},
		{"hostile with 101", true, hostile, nil},
	} {
		if got := filtered(func(h http.Header) { list.Response(h, tunnel.Kind{Upgrade: tc.upgraded}) }, tc.send); !slices.Equal(got, tc.keep) {
			t.Errorf("%s: left %q, want %q", tc.name, got, tc.keep)
		}
	}
}

func TestItem01SpoofsIdentity(t *testing.T) {
	for name, want := range map[string]bool{
		"Impersonate-User": true, "impersonate-user": true, "IMPERSONATE-GROUP": true, "Impersonate-Uid": true, "Impersonate-Extra-X": true, "impersonate_user": true, "Impersonate": true, "ImpersonateX": true,
		"X-Impersonate-User": false, "Accept": false, "Imperson": false, "": false,
	} {
		h := http.Header{"Accept": {"x"}, name: {"x"}}
		if got := tunnel.SpoofsIdentity(h); (got != "") != want || want && got != name {
			t.Errorf("%q: %q", name, got)
		}
	}
}
