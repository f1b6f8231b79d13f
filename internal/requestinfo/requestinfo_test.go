package requestinfo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/requestinfo"
)

const pod = "/api/v1/namespaces/ns/pods/p"

// Every spelling of one thing is that thing (checklist, item 11).
func TestItem11EverySpelling(t *testing.T) {
	exec := requestinfo.Info{APIVersion: "v1", Resource: "pods", Subresource: "exec", Namespace: "ns", Name: "p", IsResource: true}
	pods := requestinfo.Info{APIVersion: "v1", Resource: "pods", Namespace: "ns", IsResource: true}
	verb := func(i requestinfo.Info, verb string) requestinfo.Info { i.Verb = verb; return i }
	name := func(i requestinfo.Info, name string) requestinfo.Info { i.Name = name; return i }
	for _, tc := range []struct {
		method, target string
		want           requestinfo.Info // Path is compared when set
	}{
		{"GET", pod + "/exec?command=sh&command=-c", verb(exec, "get")},
		{"POST", pod + "/exec?command=sh", verb(exec, "create")},
		{"GET", pod + "/exec/", verb(exec, "get")},
		{"GET", "/api/v1/namespaces/ns/pods", verb(pods, "list")},
		{"HEAD", "/api/v1/namespaces/ns/pods", verb(pods, "list")},
		{"GET", "/api/v1/namespaces/ns/pods/", verb(pods, "list")},
		{"GET", "/api/v1/namespaces/ns/pods?watch=0", verb(pods, "list")},
		{"GET", "/api/v1/namespaces/ns/pods?watch=False", verb(pods, "list")},
		{"GET", "/api/v1/namespaces/ns/pods?limit=500&x=1&x=2", verb(pods, "list")},
		{"GET", "/api/v1/namespaces/ns/pods?watch=1", verb(pods, "watch")},
		{"GET", "/api/v1/namespaces/ns/pods?watch=True&timeoutSeconds=5", verb(pods, "watch")},
		{"GET", "/api/v1/namespaces/ns/pods?watch", verb(pods, "watch")},
		{"GET", "/api/v1/watch/namespaces/ns/pods", verb(pods, "watch")},
		{"GET", "/api/v1/watch/namespaces/ns/pods?watch=0", verb(pods, "watch")},
		{"GET", "/api/v1/watch/namespaces/ns/pods/p", name(verb(pods, "watch"), "p")},
		{"GET", "/api/v1/namespaces/ns/pods?fieldSelector=metadata.name%3Dp", name(verb(pods, "list"), "p")},
		{"GET", "/api/v1/namespaces/ns/pods?watch=1&fieldSelector=metadata.name%3Dp", name(verb(pods, "watch"), "p")},
		{"GET", pod + "?watch=1", name(verb(pods, "get"), "p")}, // no API server watches there
		{"DELETE", "/api/v1/namespaces/ns/pods", verb(pods, "deletecollection")},
		{"DELETE", pod, name(verb(pods, "delete"), "p")},
		{"POST", "/api/v1/namespaces/ns/pods", verb(pods, "create")},
		{"PATCH", pod, name(verb(pods, "patch"), "p")},
		{"PUT", pod, name(verb(pods, "update"), "p")},
		{"PUT", "/api/v1/namespaces/ns/finalize", requestinfo.Info{Verb: "update", APIVersion: "v1", Resource: "namespaces", Subresource: "finalize", Namespace: "ns", Name: "ns", IsResource: true}},
		{"GET", "/apis/apps/v1/deployments", requestinfo.Info{Verb: "list", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", IsResource: true}},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", requestinfo.Info{Verb: "get", APIGroup: "rbac.authorization.k8s.io", APIVersion: "v1", Resource: "clusterroles", Name: "system:node", IsResource: true, Path: "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"}},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/Caf%C3%A9%20x", requestinfo.Info{Verb: "get", APIGroup: "rbac.authorization.k8s.io", APIVersion: "v1", Resource: "clusterroles", Name: "Café x", IsResource: true}},
		{"GET", "/api/v1/nodes/n/proxy/run/ns/p/c", requestinfo.Info{Verb: "get", APIVersion: "v1", Resource: "nodes", Subresource: "proxy", Name: "n", IsResource: true}},
		{"OPTIONS", pod + "/proxy/a%20b%25c%41?limit=x&watch=1&watch=0&_method=PUT", requestinfo.Info{APIVersion: "v1", Resource: "pods", Subresource: "proxy", Namespace: "ns", Name: "p", IsResource: true, Path: pod + "/proxy/a b%cA"}},
		{"GET", "/api/v1/namespaces/ns/services/https:web:443/proxy/", requestinfo.Info{Verb: "get", APIVersion: "v1", Resource: "services", Subresource: "proxy", Namespace: "ns", Name: "https:web:443", IsResource: true}},
		{"GET", "/", requestinfo.Info{Verb: "get", Path: "/"}},
		{"GET", "/api", requestinfo.Info{Verb: "get", Path: "/api"}},
		{"GET", "/apis/apps/v1", requestinfo.Info{Verb: "get", Path: "/apis/apps/v1"}},
		{"POST", "/healthz?verbose", requestinfo.Info{Verb: "post", Path: "/healthz"}},
		{"GET", "/.well-known/openid-configuration", requestinfo.Info{Verb: "get"}},
		{"GET", "/openapi/v3/apis/apps/v1?hash=AB", requestinfo.Info{Verb: "get"}},
	} {
		path, query, _ := strings.Cut(tc.target, "?")
		got, err := requestinfo.Parse(tc.method, path, query)
		if tc.want.Path == "" {
			tc.want.Path = got.Path
		}
		if err != nil || got != tc.want {
			t.Errorf("%s %s:\n%+v, %v, want\n%+v", tc.method, tc.target, got, err, tc.want)
		}
	}
}

// refused are requests that two readers could take for different things.
func refused() []struct{ method, target string } {
	return []struct{ method, target string }{
		{"get", pod}, {"Get", pod}, {"TRACE", pod}, {"CONNECT", pod}, {"", pod}, {"FOO", "/"}, {"OPTIONS", pod}, {"OPTIONS", "/api/v1/nodes/n/proxy/"}, {"GET\n", pod},
		{"GET", ""}, {"GET", "api"}, {"GET", "*"}, {"GET", "http://x/api"},
		{"GET", "//api"}, {"GET", "/api//v1"}, {"GET", "/api/v1/namespaces/ns//pods"}, {"GET", pod + "//"}, {"GET", pod + "/proxy//"}, {"GET", "/./api"}, {"GET", pod + "/../q"}, {"GET", pod + "/proxy/../log"}, {"GET", pod + "/proxy/.."}, {"GET", pod + "/..;x/"},
		{"GET", pod + "/%2e%2e/q"}, {"GET", pod + "/proxy/%2e%2e/q"}, {"GET", pod + "/proxy/a%2Fb"}, {"GET", pod + "%2fexec"}, {"GET", pod + "/proxy/%5c"}, {"GET", pod + `\exec`}, {"GET", pod + "%00"},
		{"GET", pod + "/%65xec"}, {"GET", pod + "/ex%65c"}, {"GET", "/%61pi/v1/pods"}, {"GET", "/api/%761/pods"}, {"GET", "/api/v1/namespaces/n%73/pods"}, {"GET", "/api/v1/n%61mespaces/ns/pods"}, {"GET", pod + "/pro%78y/x"}, {"GET", "/api/v1/namespaces/ns/pods/%70/proxy/"}, {"GET", "/api/v1/w%61tch/pods"}, {"GET", "/api/v1/namespaces/ns/pods/%7E"}, {"GET", "/h%65althz"},
		{"GET", pod + "%252f"}, {"GET", "/api/v1/namespaces/ns/pods/a%25b"}, {"GET", pod + "%0d%0aX"}, {"GET", pod + "%7f"}, {"GET", pod + "%C2%85"}, {"GET", pod + "%ff"}, {"GET", pod + "%c0%ae"},
		{"GET", pod + "/a b"}, {"GET", pod + "/proxy/a\"b"}, {"GET", pod + "/ä"}, {"GET", pod + "/%"}, {"GET", pod + "/%zz"}, {"GET", pod + "#x"},
		{"GET", "/APIs/apps/v1/deployments"}, {"GET", "/API/v1/pods"}, {"GET", "/Api"}, {"GET", "/apis/Apps/v1/deployments"}, {"GET", "/api/V1/pods"}, {"GET", "/api/v1/Pods"}, {"GET", pod + "/EXEC"}, {"GET", pod + "/Exec"}, {"GET", "/api/v1/Namespaces/ns/pods"}, {"GET", "/api/v1/Watch/pods"}, {"GET", pod + "/Proxy/x"}, {"GET", "/api/v1/namespaces/ns/pods;x=1/p"}, {"GET", pod + "/exec;x"},
		{"GET", "/api/v1/proxy/namespaces/ns/pods/p/"}, {"GET", "/api/v1/proxy/namespaces/ns/services/s"}, {"GET", "/api/v1/proxy/nodes/n"}, {"GET", "/api/v1/proxy"}, {"GET", "/apis/apps/v1/proxy/x"},
		{"GET", "/api/v1/watch"}, {"POST", "/api/v1/watch/namespaces/ns/pods"}, {"DELETE", "/api/v1/watch/pods"}, {"HEAD", "/api/v1/watch/pods"}, {"POST", "/api/v1/watch/namespaces/ns/pods/p/exec"}, {"GET", "/api/v1/watch/namespaces/ns/pods/p/exec"}, {"GET", "/api/v1/watch/namespaces/ns/pods/p/proxy/x"},
		{"GET", "/api/v1/pods?watch=0&watch=1"}, {"GET", "/api/v1/pods?Watch=1"}, {"GET", "/api/v1/pods?watch=1&WATCH=0"}, {"GET", "/api/v1/pods?watch=f"}, {"GET", "/api/v1/pods?watch=no"}, {"GET", "/api/v1/pods?watch=2"}, {"GET", "/api/v1/pods?%77atch=1&watch=0"},
		{"GET", "/api/v1/pods?fieldSelector=metadata.name%3Da&fieldSelector=metadata.name%3Db"}, {"GET", "/api/v1/pods?fieldselector=metadata.name%3Da"}, {"DELETE", "/api/v1/pods?labelSelector=a&labelSelector=b"}, {"DELETE", "/api/v1/pods?LabelSelector=a"},
		{"GET", "/api/v1/pods?limit=x"}, {"GET", "/api/v1/pods?timeoutSeconds=x"}, {"GET", "/api/v1/pods?fieldSelector=%21%21"}, {"GET", "/api/v1/pods?a;b"}, {"GET", "/api/v1/pods?a=%zz"}, {"GET", pod + "/proxy/?a=1;b"},
		{"GET", "/?a b"}, {"GET", pod + "/proxy/?a b"}, {"GET", "/?a#b"}, {"GET", "/?a\r\nb"}, {"GET", "/?\x7f"}, {"GET", "/?ä"},
		{"POST", pod + "?_method=DELETE"}, {"POST", "/api/v1/pods?_Method=DELETE"}, {"GET", "/healthz?_method=PUT"},
	}
}

func TestItem10ParseRefuses(t *testing.T) {
	for _, tc := range refused() {
		path, query, _ := strings.Cut(tc.target, "?")
		if got, err := requestinfo.Parse(tc.method, path, query); !errors.Is(err, access.ErrInvalid) || got != (requestinfo.Info{}) {
			t.Errorf("%q %q: %+v, %v", tc.method, tc.target, got, err)
		} else if len(err.Error()) > 600 {
			t.Errorf("%q %q: an error of %d bytes", tc.method, tc.target, len(err.Error()))
		}
	}
}

// Values of a query could be anything, also secrets, and errors are recorded.
func TestErrorsQuoteNoQueryValue(t *testing.T) {
	for _, query := range []string{"watch=canary", "watch=canary&watch=canary", "limit=canary", "fieldSelector=!canary!", "_method=canary"} {
		if _, err := requestinfo.Parse("GET", "/api/v1/pods", query); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestItem09MayUpgrade(t *testing.T) {
	for _, tc := range []struct {
		path                 string
		upgrade, application bool
	}{
		{pod + "/exec", true, false}, {pod + "/attach", true, false}, {pod + "/portforward", true, false},
		{pod + "/proxy", true, true}, {pod + "/proxy/", true, true}, {pod + "/proxy/ws/x", true, true}, {"/api/v1/namespaces/ns/services/s:80/proxy/ws", true, true},
		{"/api/v1/namespaces/ns/pods/proxy/proxy/x", true, true}, {"/api/v1/namespaces/watch/pods/watch/proxy", true, true},
		{pod, false, false}, {pod + "/log", false, false}, {pod + "/exec/", false, false}, {pod + "/exec/x", false, false}, {pod + "/exec/exec", false, false},
		{"/api/v1/namespaces/ns/services/s/exec", false, false}, {"/api/v1/namespaces/ns/proxy", false, false}, {"/api/v1/namespaces/ns/proxy/x/proxy", false, false},
		{"/api/v1/nodes/n/proxy/exec/ns/p/c", false, false}, {"/api/v1/nodes/n/proxy", false, false}, {"/api/v1/namespaces/ns/nodes/n/proxy/", false, false},
		{"/api/v1/pods/p/exec", false, false}, {"/api/v1/pods/p/proxy", false, false}, {"/api/v2/namespaces/ns/pods/p/exec", false, false},
		{"/apis/apps/v1/namespaces/ns/pods/p/exec", false, false}, {"/apis/x.io/v1/namespaces/ns/services/p/proxy", false, false},
		{"/namespaces/ns/pods/p/exec", false, false}, {"/", false, false}, {"/x/api/v1/namespaces/ns/pods/p/exec", false, false},
	} {
		info, err := requestinfo.Parse("GET", tc.path, "")
		if err != nil || info.MayUpgrade() != tc.upgrade || info.Application() != tc.application {
			t.Errorf("%s: upgrade %v, application %v, %v", tc.path, info.MayUpgrade(), info.Application(), err)
		}
	}
}
