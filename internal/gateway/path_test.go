package gateway_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/gateway"
)

const (
	cluster = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c1"
	base    = gateway.PathPrefix + cluster
)

// parse reads a request target as net/http's server does.
func parse(t testing.TB, target string) (access.ResourceID, string, string, error) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return access.ResourceID{}, "", "", errors.Join(err, access.ErrInvalid) // net/http refuses it
	}
	return gateway.ParseTarget(u, target)
}

func TestTarget(t *testing.T) {
	for _, tc := range []struct{ target, path, query string }{
		{base, "/", ""},
		{base + "/", "/", ""},
		{base + "?x=1", "/", "x=1"},
		{base + "/api", "/api", ""},
		{base + "/api/v1/pods?watch=1&limit=500", "/api/v1/pods", "watch=1&limit=500"},
		{base + "/api/v1/namespaces/d/services/http:web:80/proxy/", "/api/v1/namespaces/d/services/http:web:80/proxy/", ""},
		{base + "/api/v1/namespaces/d/services/web/proxy/a%20b%25c", "/api/v1/namespaces/d/services/web/proxy/a%20b%25c", ""},
		{base + "/apis/a.b.c/v1/x...y/..z", "/apis/a.b.c/v1/x...y/..z", ""},
		{base + "/x?fieldSelector=a%3Db,c!%3Dd", "/x", "fieldSelector=a%3Db,c!%3Dd"},
		{base + "/x?a=../..//%2e%2e%2f", "/x", "a=../..//%2e%2e%2f"}, // of queries no path is made
		{strings.ToUpper(base[len("/k8s"):]) + "/api", "", ""},
	} {
		if tc.path == "" {
			tc.target, tc.path = gateway.PathPrefix+tc.target, "/api"
		}
		id, path, query, err := parse(t, tc.target)
		if err != nil || !strings.EqualFold(id.String(), cluster) || path != tc.path || query != tc.query {
			t.Errorf("%s: cluster %s path %s query %s, %v", tc.target, id, path, query, err)
		}
	}
}

// tricks are request targets that two readers could take for different things
// (checklist, item 10), and others that name no cluster.
func tricks() (invalid, notFound []string) {
	in := func(s string) string { return strings.Replace(base, "/resourceGroups", s+"/resourceGroups", 1) }
	return []string{
			base + "//", base + "//api", base + "/api//v1", base + "/./api", base + "/api/.", base + "/.", base + "/..", base + "/api/..", base + "/api/../v1", base + "/../c2/api",
			base + "/%2e/api", base + "/%2E%2E/api", base + "/.%2e/api", base + "/%2e./api", base + "/a%2eb", base + "/api%2fv1", base + "/api%2Fv1", base + "%2fapi", base + `/api\v1`, base + "/api%5cv1", base + "/api%5Cv1",
			base + "/api%00", base + "/%00/api", base + "/..;/api", base + "/..;x=1/api", base + "/.;/api", base + "/;/..", base + "/api/..;",
			base + "/a\"%2f..", base + "/a\"b", base + "/a<b", base + "/a^b", base + "/ä", base + "/a\"%2e%2e", base + "/a#b", base + "/a{b}", base + "/a|b", base + "/a`b", base + "/\xff%2fapi",
			base + "/%", base + "/%zz", base + "/%2", base + "/a b", base + "/a\x00", base + "/a\x7f", base + "/a\tb",
			base + "?a=%zz", base + "?a;b", base + "/x?a=1;b=2",
			"*", "", "api", "host:443", "http://169.254.169.254" + base, "https://evil.example" + base + "/api", "http:" + base,
			in("/"), in("/."), in("/.."), in("/%2e"), strings.Replace(base, "/c1", "%2fc1", 1), strings.Replace(base, "/c1", "/c%2e1", 1), strings.Replace(base, "c1", "c%31", 1),
			strings.Replace(base, "c1", "c1;x", 1), strings.Replace(base, "c1", "ⅽ1", 1), strings.Replace(base, "c1", "c\"1", 1), strings.Replace(base, "11111111-", "1111111-", 1),
			base + "/" + strings.Repeat("a", 32<<10), base + "?" + strings.Repeat("a", 32<<10),
		}, []string{
			"/", "/k8s", "/k8s/", "/K8S" + cluster, "/k8sx" + cluster, "/k8s%2f" + cluster[1:], "/x/../k8s" + cluster, "//k8s" + cluster, "/k8s" + cluster[:strings.LastIndex(cluster, "/")],
			"/k8s/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa", "/k8s" + strings.Replace(cluster, "managedClusters", "managedClustersX", 1), "/k8s" + strings.Replace(cluster, "Microsoft.ContainerService", "Other", 1), cluster,
		}
}

func TestItem10TargetRefuses(t *testing.T) {
	invalid, notFound := tricks()
	for kind, targets := range map[error][]string{access.ErrInvalid: invalid, access.ErrNotFound: notFound} {
		for _, target := range targets {
			id, path, _, err := parse(t, target)
			if !errors.Is(err, kind) && !(kind == access.ErrNotFound && errors.Is(err, access.ErrInvalid)) {
				t.Errorf("%.120q: cluster %s path %q, %v", target, id, path, err)
			}
			if err != nil && len(err.Error()) > 3000 {
				t.Errorf("%.120q: an error of %d bytes", target, len(err.Error()))
			}
		}
	}
}

// FuzzTarget: of what is accepted, there is one reading. The path goes on in
// the bytes it came in; net/url and the plainest splitter see the same cluster.
func FuzzTarget(f *testing.F) {
	invalid, notFound := tricks()
	for _, target := range append(invalid, notFound...) {
		f.Add(target)
	}
	for _, rest := range []string{"", "/", "/api/v1/pods?watch=1", "/a%20b", "/a;b", "/a:b@c", "/%ff", "/%0a", "/%252e%252e/"} {
		f.Add(base + rest)
		f.Add(strings.ToUpper(base) + rest)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		id, path, query, err := gateway.ParseTarget(u, target)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) && !errors.Is(err, access.ErrNotFound) {
				t.Fatal(err)
			}
			return
		}
		raw, rawQuery, _ := strings.Cut(target, "?")
		if again := gateway.PathPrefix + id.String() + path; again != raw && again != raw+"/" || query != rawQuery {
			t.Fatalf("%q: cluster %q path %q query %q", target, id, path, query)
		}
		if parts := strings.SplitN(raw, "/", 11); !strings.EqualFold(strings.Join(parts[2:10], "/"), id.Key()[1:]) {
			t.Fatalf("%q: a splitter reads %q, not %q", target, parts, id)
		}
		if parts := strings.SplitN(u.Path, "/", 11); !strings.EqualFold(strings.Join(parts[2:10], "/"), id.Key()[1:]) {
			t.Fatalf("%q: net/url reads %q, not %q", target, parts, id)
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || strings.Count(decoded, "/") != strings.Count(path, "/") || strings.ContainsAny(decoded, "\\\x00") {
			t.Fatalf("%q: %q decodes to %q, %v", target, path, decoded, err)
		}
		if out := (&url.URL{Path: decoded, RawPath: path}).EscapedPath(); out != path {
			t.Fatalf("%q: %q would go on as %q", target, path, out)
		}
		segments := strings.Split(decoded[1:], "/")
		for i, s := range segments {
			if s == "." || s == ".." || s == "" && i != len(segments)-1 {
				t.Fatalf("%q: segment %q", target, s)
			}
		}
	})
}
