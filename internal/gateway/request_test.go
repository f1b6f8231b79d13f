package gateway_test

import (
	"net/http"
	"reflect"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// Both records of a request say what Kubernetes takes it to be, and by which
// roles of the binding.
func TestItem11RecordsSayWhatIsAsked(t *testing.T) {
	const exec = "/api/v1/namespaces/ns/pods/p/exec?command=secret"
	want := audit.Record{APIGroup: "", Resource: "pods", Subresource: "exec", Namespace: "ns", Name: "p"}
	for _, tc := range []struct {
		method, path string
		want         audit.Record
	}{
		{"GET", exec, with(want, "get")},
		{"POST", exec, with(want, "create")},
		{"GET", "/apis/apps/v1/deployments?watch=1", audit.Record{Verb: "watch", APIGroup: "apps", Resource: "deployments"}},
		{"GET", "/apis/apps/v1/watch/deployments", audit.Record{Verb: "watch", APIGroup: "apps", Resource: "deployments"}},
		{"GET", "/version", audit.Record{Verb: "get"}},
	} {
		r := newRig(t)
		grant := r.grant
		r.grant = func(p access.Principal, c access.ResourceID) (access.Grant, error) {
			g, err := grant(p, c)
			g.Roles = []string{"a/b", "a/c"}
			return g, err
		}
		r.do(request(tc.method, tc.path, nil))
		records := r.audited()
		if len(records) != 2 {
			t.Fatalf("%s: %d records", tc.path, len(records))
		}
		for _, rec := range records {
			got := audit.Record{Verb: rec.Verb, APIGroup: rec.APIGroup, Resource: rec.Resource, Subresource: rec.Subresource, Namespace: rec.Namespace, Name: rec.Name}
			if !reflect.DeepEqual(got, tc.want) || !reflect.DeepEqual(rec.Roles, []string{"a/b", "a/c"}) {
				t.Errorf("%s %s, %s: %+v roles %q", tc.method, tc.path, rec.Stage, got, rec.Roles)
			}
		}
	}
}

func with(rec audit.Record, verb string) audit.Record {
	rec.Verb = verb
	return rec
}

// What an API server could read in a second way is refused, and so is what may
// not be upgraded (checklist, items 9 to 11); package requestinfo has them all.
func TestItem10RefusesWhatReadsInTwoWays(t *testing.T) {
	for _, tc := range []struct {
		method, path string
		upgrade      bool
	}{
		{method: "GET", path: "/APIs/apps/v1/deployments"},
		{method: "GET", path: "/api/v1/namespaces/ns/pods/p/%65xec"},
		{method: "GET", path: "/api/v1/pods?watch=0&watch=1"},
		{method: "TRACE", path: "/api/v1/pods"},
		{method: "POST", path: "/api/v1/pods?_method=DELETE"},
		{method: "GET", path: "/api/v1/nodes/n/proxy/exec/ns/p/c", upgrade: true},
		{method: "GET", path: "/api/v1/namespaces/ns/pods/p/log", upgrade: true},
		{method: "GET", path: "/apis/example.com/v1/namespaces/ns/pods/p/exec", upgrade: true},
	} {
		r, req := newRig(t), request(tc.method, tc.path, nil)
		if tc.upgrade {
			upgrade("websocket")(r, req)
		}
		resp := r.do(req)
		status(t, resp)
		if resp.StatusCode != http.StatusBadRequest || len(r.requests()) != 0 {
			t.Errorf("%s %s: %d, %d forwarded", tc.method, tc.path, resp.StatusCode, len(r.requests()))
		}
	}
}
