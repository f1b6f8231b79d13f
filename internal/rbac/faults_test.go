package rbac_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// through is the reconciler's client with its requests shown to see, which may
// answer an error instead of the API server.
func through(t *testing.T, see func(*http.Request) error) kubernetes.Interface {
	t.Helper()
	token, err := dev.token(t.Context(), access.ReconcilerAccount)
	if err != nil {
		t.Fatal(err)
	}
	config := dev.as(token)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if err := see(r); err != nil {
				return nil, err
			}
			return next.RoundTrip(r)
		})
	})
	c, err := dev.client(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A heartbeat must not cost the API server a request.
func TestHeartbeatIsCheap(t *testing.T) {
	var requests atomic.Int64
	r := runWith(t, through(t, func(*http.Request) error { requests.Add(1); return nil }))
	b := binding(t, "heart-1", "uid-heart-1", "mlworkload")
	r.want(nil, b)
	r.inForce(b)
	before := requests.Load()
	const beats = 500
	for range beats {
		b.Retired++ // what the control plane noted of our reports is no change
		r.want(nil, b)
	}
	// The watch events of our own writes may cost a pass or two.
	if n := requests.Load() - before; n > 20 {
		t.Errorf("%d heartbeats cost %d requests", beats, n)
	}
}

// While the API server cannot be reached nothing is in force, nothing is final,
// and afterwards it comes right by itself.
func TestOutage(t *testing.T) {
	var up atomic.Bool
	r := runWith(t, through(t, func(*http.Request) error {
		if !up.Load() {
			return errors.New("no route to host")
		}
		return nil
	}))
	b := binding(t, "out-1", "uid-out-1", "mlworkload")
	r.want(nil, b)
	rep := r.until("a report", func(access.Report) bool { return true })
	if got := reportOf(rep, b); got.InForce || got.Final || !strings.Contains(got.Message, "no route to host") {
		t.Errorf("report %+v, want not in force, not final, and the cause", got)
	}
	up.Store(true)
	r.inForce(b)
	up.Store(false)
	b.Generation++
	r.want(nil, b)
	rep = r.until("a report of the new generation", func(rep access.Report) bool { return reportOf(rep, b).Generation == b.Generation })
	if reportOf(rep, b).InForce {
		t.Error("a generation that nobody could write is reported in force")
	}
}

// Narrowing comes before anything else is deleted, the new pair before the old
// one goes, and the proxy learns a binding last.
func TestOrderOfWrites(t *testing.T) {
	var writes []string
	var at atomic.Int64 // the index up to which writes belong to an earlier step
	done := make(chan string, 1000)
	r := runWith(t, through(t, func(q *http.Request) error {
		if q.Method != http.MethodGet && strings.Contains(q.URL.Path, "rbac.authorization") {
			path := q.URL.Path[strings.LastIndexByte(q.URL.Path[:strings.LastIndexByte(q.URL.Path, '/')], '/')+1:]
			done <- q.Method + " " + path
		}
		return nil
	}))
	step := func() string {
		for len(done) > 0 {
			writes = append(writes, <-done)
		}
		from := at.Swap(int64(len(writes)))
		return strings.Join(writes[from:], "\n")
	}
	b := binding(t, "order-1", "uid-order-1", "mlworkload")
	r.want(nil)
	r.until("a report", func(access.Report) bool { return true })
	step()

	r.want(nil, b)
	r.inForce(b)
	expect(t, "create", step(), "POST v1/clusterroles", "POST v1/clusterrolebindings", "PUT clusterroles/sallyport:proxy")

	b.Roles, b.Generation = binding(t, "order-1", "x", "inference-v1").Roles, 2
	r.want(nil, b)
	r.inForce(b)
	expect(t, "update", step(), "POST v1/clusterroles", "POST v1/clusterrolebindings",
		"DELETE clusterrolebindings/aks:trustedaccessrolebinding:order-1:mlworkload", "DELETE clusterroles/aks:trustedaccessrole:order-1:mlworkload")

	// Another source must not find the old source's roles: shut, write, open.
	b.Source, b.Generation = binding(t, "order-2", "x", "mlworkload").Source, 3
	b.Roles = binding(t, "order-1", "x", "mlworkload").Roles
	r.want(nil, b)
	r.inForce(b)
	expect(t, "another source", step(), "PUT clusterroles/sallyport:proxy", "POST v1/clusterroles", "POST v1/clusterrolebindings",
		"DELETE clusterrolebindings/aks:trustedaccessrolebinding:order-1:inference-v1", "DELETE clusterroles/aks:trustedaccessrole:order-1:inference-v1",
		"PUT clusterroles/sallyport:proxy")

	r.want([]access.Tombstone{{Name: b.Name, UID: b.UID}})
	r.until("removed", func(rep access.Report) bool { return len(rep.Removed) == 1 })
	expect(t, "delete", step(), "PUT clusterroles/sallyport:proxy",
		"DELETE clusterrolebindings/aks:trustedaccessrolebinding:order-1:mlworkload", "DELETE clusterroles/aks:trustedaccessrole:order-1:mlworkload")
}

// A narrowing that ends Failed has narrowed all the same: the report says that
// the removed role is gone, once it is without effect, so that live requests
// can be cut.
func TestNarrowingThatFails(t *testing.T) {
	var blind atomic.Bool
	r := runWith(t, through(t, func(q *http.Request) error {
		if blind.Load() && strings.Contains(q.URL.Path, "subjectaccessreviews") {
			return errors.New("no answer")
		}
		return nil
	}))
	b := binding(t, "fail-1", "uid-fail-1", "mlworkload", "inference-v1")
	both := b.Roles
	above := []access.Role{both[0], {
		SourceResourceType: both[0].SourceResourceType, Name: "node-killer",
		Rules: []access.Rule{{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	}}
	want := func(roles []access.Role, generation int64) {
		b.Roles, b.Generation = roles, generation
		r.want(nil, b)
	}
	gone := func(what string) {
		t.Helper()
		if left := objectsOf(t, b.Name); slices.ContainsFunc(left, func(name string) bool { return strings.HasSuffix(name, ":inference-v1") }) {
			t.Errorf("%s: %v are left", what, left)
		}
	}
	want(both, 1)
	r.inForce(b)
	if got := reportOf(r.last, b); got.Retired != 1 {
		t.Errorf("in force, and reported %+v", got)
	}
	source := dev.source(t, b)
	if err := listSecrets(t.Context(), source); err != nil {
		t.Errorf("under inference-v1: %v", err)
	}

	// While it cannot be asked whether the role is without effect, it is not
	// called gone.
	blind.Store(true)
	want(above, 2)
	r.until("final", func(rep access.Report) bool { return reportOf(rep, b).Final })
	if got := reportOf(r.last, b); got.InForce || got.Retired != 0 {
		t.Errorf("not asked, but reported %+v", got)
	}
	gone("final")

	// Given again meanwhile, it need not be without effect.
	want(both, 3)
	r.until("seen", func(rep access.Report) bool { return reportOf(rep, b).Generation == 3 })
	blind.Store(false)
	r.inForce(b)

	want(above, 4)
	r.until("retired", func(rep access.Report) bool { return reportOf(rep, b).Retired == 4 })
	if got := reportOf(r.last, b); got.InForce || !got.Final || !strings.Contains(got.Message, "ceiling") {
		t.Errorf("reported %+v, want a final failure", got)
	}
	gone("retired")
	mustForbid(t, "list secrets after it is called gone", listSecrets(t.Context(), source))
}

func expect(t *testing.T, what, got string, want ...string) {
	t.Helper()
	if got != strings.Join(want, "\n") {
		t.Errorf("%s wrote\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
	}
}

func TestRunRefusesBadConfig(t *testing.T) {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  rbac.Config
	}{
		{"no client", rbac.Config{}},
		{"prefix of Kubernetes' own", rbac.Config{Client: client, Prefix: "system:masters"}},
		{"upper-case prefix", rbac.Config{Client: client, Prefix: "AKS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := rbac.New(c.cfg).Run(context.Background(), nil, nil); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("got %v, want an ErrInvalid", err)
			}
		})
	}
}
