package tunnel_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

func sorted(names ...[]string) []string { return slices.Sorted(slices.Values(slices.Concat(names...))) }

// An application's own headers pass, and nothing that a hop reads (checklist,
// items 1 to 3, 11 and 37).
func TestApplicationRequests(t *testing.T) {
	application := []string{
		"Accept", "Content-Type", "Cookie", "Origin", "Referer", "Traceparent", "X-Api-Key", "X-Request-Id", "X-Ms-Client-Request-Id", "X-Client-Version", "Azureml-Model-Deployment", "Api_Key", "X-Amz-Date", "Grpc-Timeout", "Foo.bar", "X-Csrf-Token", "Prefer",
	}
	websocket := []string{"Connection", "Sec-Websocket-Extensions", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Version", "Upgrade", "X-Stream-Protocol-Version"}
	// Of the spoofs these are an application's affair; in names that are no
	// canonical ones, net/http has them never.
	harmless := []string{"Cookie", "Origin", "Traceparent", "accept", "ACCEPT", "content_type", "User_Agent"}
	list := tunnel.NewAllowList()
	for _, tc := range []struct {
		name       string
		kind       tunnel.Kind
		send, keep []string
	}{
		{"own headers", tunnel.Kind{Application: true}, application, sorted(application)},
		{"own headers elsewhere", tunnel.Kind{}, application, []string{"Accept", "Content-Type"}},
		{"upgrade not asked for", tunnel.Kind{Application: true}, websocket, nil},
		{"upgrade", tunnel.Kind{Application: true, Upgrade: true}, slices.Concat(application, websocket), sorted(application, websocket)},
		{"spoofs", tunnel.Kind{Application: true}, spoofs(), sorted(harmless)},
		{"spoofs on an upgrade", tunnel.Kind{Application: true, Upgrade: true}, spoofs(), sorted(harmless)},
		{"odd names", tunnel.Kind{Application: true}, []string{"X:y", "X y", "X\r\nY", "Ä", "X\x00", "AUTHORIZATION", "Authorization_", "X-REMOTE_USER", "SALLYPORT_Binding", "Transfer_Encoding", "X_Forwarded-For", "Audit_Id"}, []string{"Authorization_"}},
	} {
		if got := filtered(func(h http.Header) { list.Request(h, tc.kind) }, tc.send); !slices.Equal(got, tc.keep) {
			t.Errorf("%s: left %q, want %q", tc.name, got, tc.keep)
		}
	}
}

// What an application answers passes, but for what acts on an origin, a client
// or a proxy by its name alone (item 28).
func TestApplicationResponses(t *testing.T) {
	own := []string{"Cache-Control", "Content-Disposition", "Content-Type", "Etag", "Link", "Location", "Server", "X-Powered-By", "X-Ms-Request-Id", "X-Ratelimit-Remaining", "Grpc-Status", "Server-Timing"}
	hostile := []string{
		"Set-Cookie", "set-cookie", "Set_Cookie", "Set-Cookie2", "Nel", "Report-To", "Reporting-Endpoints", "Content-Security-Policy", "Content-Security-Policy-Report-Only", "Strict-Transport-Security", "Public-Key-Pins", "Alt-Svc", "Clear-Site-Data", "Refresh",
		"X-Accel-Redirect", "X-Accel-Buffering", "X-Sendfile", "X-Lighttpd-Send-File", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Trailer", "Transfer-Encoding",
		"X-Content-Type-Options", "X-Frame-Options", "Service-Worker-Allowed", "Sourcemap", "Sallyport-Refused", "Sallyport-Upgraded", "sallyport_refused", "Cross-Origin-Opener-Policy", "Permissions-Policy", "Origin-Agent-Cluster", "Expect-Ct", "Connection", "Keep-Alive", "Upgrade", "Te", "Location ", "",
	}
	list := tunnel.NewAllowList()
	for name, tc := range map[string]struct{ send, keep []string }{"own": {own, sorted(own)}, "hostile": {hostile, nil}} {
		if got := filtered(func(h http.Header) { list.Response(h, tunnel.Kind{Application: true}) }, tc.send); !slices.Equal(got, tc.keep) {
			t.Errorf("%s: left %q, want %q", name, got, tc.keep)
		}
	}
	if got := filtered(func(h http.Header) { list.Response(h, tunnel.Kind{}) }, own); slices.Contains(got, "Server") {
		t.Errorf("Kubernetes' own answer: left %q", got)
	}
}

// Trailers are there when the body has ended: an application's, without what a
// header would have stopped at, and none of Kubernetes'.
func TestTrailers(t *testing.T) {
	for name, tc := range map[string]struct {
		kind tunnel.Kind
		want []string
	}{"application": {tunnel.Kind{Application: true}, []string{"Grpc-Status", "X-Late"}}, "Kubernetes": {tunnel.Kind{}, nil}} {
		resp := &http.Response{Trailer: http.Header{"Grpc-Status": nil, "Set-Cookie": nil}}
		resp.Body = &trailing{Reader: strings.NewReader("body"), resp: resp}
		got := tunnel.NewAllowList().Trailers(resp, tc.kind)
		if announced := slices.Sorted(maps.Keys(got.Trailer)); len(tc.want) > 0 != slices.Equal(announced, []string{"Grpc-Status"}) {
			t.Errorf("%s: announced %q", name, announced)
		}
		if _, err := io.ReadAll(got.Body); err != nil {
			t.Fatal(err)
		}
		if late := slices.Sorted(maps.Keys(got.Trailer)); !slices.Equal(late, tc.want) {
			t.Errorf("%s: trailers %q, want %q", name, late, tc.want)
		}
	}
}

// trailing sets its answer's trailers when it ends, as net/http does.
type trailing struct {
	io.Reader
	resp *http.Response
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.resp.Trailer = http.Header{"Grpc-Status": {"0"}, "X-Late": {"x"}, "Set-Cookie": {"a=b"}, "Content-Type": {"text/html"}, "Location": {"//evil"}, "Sallyport-Refused": {"x"}}
	}
	return n, err
}

func (b *trailing) Close() error { return nil }
