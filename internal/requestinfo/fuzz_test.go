package requestinfo_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/requestinfo"
)

// FuzzItem10RequestInfo: whatever is accepted, an API server behind net/http reads the same
// from the bytes that are forwarded; and so does the plainest reader, which
// splits at slashes and decodes nothing.
func FuzzItem10RequestInfo(f *testing.F) {
	for _, tc := range refused() {
		path, query, _ := strings.Cut(tc.target, "?")
		f.Add(tc.method, path, query)
	}
	for _, path := range []string{"/", "/api/", pod, pod + "/exec", pod + "/proxy/a%20b", "/api/v1/watch/namespaces/ns/pods", "/apis/a.b/v1/x/system%3Anode/y/z", "/api/v1/namespaces/ns/status", "/api/v1/nodes/n/proxy/x"} {
		for _, query := range []string{"", "watch=1", "watch", "fieldSelector=metadata.name%3Dx&limit=5", "command=a&command=b"} {
			f.Add("GET", path, query)
			f.Add("DELETE", path, query)
		}
	}
	type reading struct {
		info *request.RequestInfo
		err  error
	}
	seen := make(chan reading, 1)
	resolver := request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	apiserver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		info, err := resolver.NewRequestInfo(r)
		seen <- reading{info, err}
	}))
	f.Cleanup(apiserver.Close)
	at, err := url.Parse(apiserver.URL)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		got, err := requestinfo.Parse(method, path, query)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || decoded != got.Path {
			t.Fatalf("%q decodes to %q, not %q: %v", path, decoded, got.Path, err)
		}
		out := &http.Request{Method: method, URL: &url.URL{Scheme: "http", Host: at.Host, Path: decoded, RawPath: path, RawQuery: query}, Header: http.Header{}}
		resp, err := apiserver.Client().Transport.RoundTrip(out)
		if err != nil {
			t.Fatalf("%s %q ? %q cannot be sent: %v", method, path, query, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %q ? %q: the server answers %s", method, path, query, resp.Status)
		}
		their := <-seen
		if their.err != nil {
			t.Fatal(their.err)
		}
		want := requestinfo.Info{
			Verb: their.info.Verb, APIGroup: their.info.APIGroup, APIVersion: their.info.APIVersion, Resource: their.info.Resource, Subresource: their.info.Subresource,
			Namespace: their.info.Namespace, Name: their.info.Name, Path: their.info.Path, IsResource: their.info.IsResourceRequest,
		}
		if got != want {
			t.Fatalf("%s %q ? %q: we read\n%+v, an API server\n%+v", method, path, query, got, want)
		}
		if got.IsResource {
			if plain := split(path); plain != [3]string{got.APIGroup, got.Resource, got.Subresource} {
				t.Fatalf("%s %q: we read\n%+v, a splitter\n%q", method, path, got, plain)
			}
		}
		if got.MayUpgrade() && (got.Resource == "nodes" || got.APIGroup != "" || strings.Count(path, "/") < 7) {
			t.Fatalf("%q may upgrade", path)
		}
	})
}

// split reads group, resource and subresource off the undecoded path.
func split(path string) [3]string {
	seg := strings.Split(strings.TrimSuffix(path, "/")[1:], "/")
	var out [3]string
	if seg = seg[1:]; strings.HasPrefix(path, "/apis/") {
		out[0], seg = seg[0], seg[1:]
	}
	if seg = seg[1:]; seg[0] == "watch" {
		seg = seg[1:]
	}
	if seg[0] == "namespaces" && len(seg) > 2 && seg[2] != "status" && seg[2] != "finalize" {
		seg = seg[2:]
	}
	out[1] = seg[0]
	if len(seg) > 2 {
		out[2] = seg[2]
	}
	return out
}
