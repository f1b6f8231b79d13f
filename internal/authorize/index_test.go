package authorize_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
	"github.com/sallyport/sallyport/internal/authorize"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	subscription = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa"
	group        = subscription + "/resourceGroups/rg"
	tenant       = "99999999-2222-3333-4444-aaaaaaaaaaaa"
	roleA        = "Microsoft.MachineLearningServices/workspaces/mlworkload"
	roleB        = "Microsoft.MachineLearningServices/workspaces/inference-v1"
)

func parse(t testing.TB, s string) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func workspace(t testing.TB, name string) access.ResourceID {
	return parse(t, group+"/providers/Microsoft.MachineLearningServices/workspaces/"+name)
}

func clusterID(t testing.TB, name string) access.ResourceID {
	return parse(t, group+"/providers/Microsoft.ContainerService/managedClusters/"+name)
}

// world is an index with a clock of its own and what it reported.
type world struct {
	*authorize.Index
	now time.Time

	mu      sync.Mutex
	revoked []string // "uid: cause"
	gone    []string // "uid generation"
}

// here is where requests come from.
var here = netip.MustParseAddr("192.0.2.1")

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func empty() *world {
	w := &world{now: start}
	w.Index = authorize.NewIndex(authorize.Config{
		Now:     w.Now,
		Ranges:  func(ranges []string) (authorize.Set, error) { return new(addresses.Tags).Set(ranges) },
		Revoked: w.Revoked,
		ClusterGone: func(uid string, generation int64) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.gone = append(w.gone, fmt.Sprint(uid, " ", generation))
		},
	})
	return w
}

func (w *world) Now() time.Time { return w.now }

func (w *world) Revoked(uid, cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revoked = append(w.revoked, uid+": "+cause)
}

// loaded has cluster c1 and the given bindings.
func loaded(t testing.TB, bindings ...access.RoleBinding) *world {
	w := empty()
	w.clusters(authorize.Update[access.Cluster]{Reset: true, Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 1)}})
	w.bindings(authorize.Update[access.RoleBinding]{Reset: true, Changed: bindings})
	w.resources(authorize.Update[access.Resource]{Reset: true, Changed: []access.Resource{resource(t, "ml1", "oid-1"), resource(t, "ml-pinned", "oid-1")}})
	return w
}

func resource(t testing.TB, name, oid string) access.Resource {
	return access.Resource{ID: workspace(t, name), TenantID: tenant, Identity: &access.Identity{ObjectID: oid}}
}

func (w *world) resources(u authorize.Update[access.Resource]) {
	u.AsOf = w.now
	w.UpdateResources(u)
}

func (w *world) clusters(u authorize.Update[access.Cluster]) {
	u.AsOf = w.now
	w.UpdateClusters(u)
}

func (w *world) bindings(u authorize.Update[access.RoleBinding]) {
	u.AsOf = w.now
	w.UpdateBindings(u)
}

func (w *world) put(b access.RoleBinding) {
	w.bindings(authorize.Update[access.RoleBinding]{Changed: []access.RoleBinding{b}})
}

func (w *world) wantRevoked(t *testing.T, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.revoked)
	if slices.Sort(want); !slices.Equal(w.revoked, want) {
		t.Errorf("revoked %q, want %q", w.revoked, want)
	}
	w.revoked = nil
}

func (w *world) wantGone(t *testing.T, want ...string) {
	t.Helper()
	if slices.Sort(w.gone); !slices.Equal(w.gone, want) {
		t.Errorf("gone %q, want %q", w.gone, want)
	}
	w.gone = nil
}

func cluster(t testing.TB, name, uid string, generation int64) access.Cluster {
	return access.Cluster{ID: clusterID(t, name), UID: uid, TenantID: tenant, Generation: generation}
}

// binding is one in force with roleA.
func binding(t testing.TB, name, uid, source string) access.RoleBinding {
	id, err := clusterID(t, "c1").Child("trustedAccessRoleBindings", name)
	if err != nil {
		t.Fatal(err)
	}
	return access.RoleBinding{ID: id, UID: uid, Generation: 1, Applied: access.Applied{Generation: 1, Retired: 1}, Source: workspace(t, source), Roles: []string{roleA}, State: access.Succeeded, Created: start}
}

func caller(t testing.TB, source string) access.Principal {
	return access.Principal{Issuer: "i", TenantID: tenant, ObjectID: "oid-1", Resource: workspace(t, source)}
}

func TestRefusesUntilAllKindsAreLoaded(t *testing.T) {
	clusters := authorize.Update[access.Cluster]{Reset: true, Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 1)}}
	bindings := authorize.Update[access.RoleBinding]{Reset: true, Changed: []access.RoleBinding{binding(t, "b1", "u1", "ml1")}}
	for name, first := range map[string]func(*world){
		"nothing":       func(*world) {},
		"clusters only": func(w *world) { w.clusters(clusters) },
		"bindings only": func(w *world) { w.bindings(bindings) },
		"all but resources": func(w *world) {
			w.clusters(clusters)
			w.bindings(bindings)
		},
	} {
		w := empty()
		first(w)
		_, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		for what, err := range map[string]error{"Grant": err, "Holds": w.Holds(access.Grant{}), "Fresh": w.Fresh(), "Agent": w.Agent("uid-c1", 1)} {
			if !errors.Is(err, access.ErrUnavailable) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		w.clusters(clusters)
		w.bindings(bindings)
		w.resources(authorize.Update[access.Resource]{Reset: true})
		if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err != nil {
			t.Errorf("%s, then loaded: %v", name, err)
		}
	}
}

func TestStaleIndexRefuses(t *testing.T) {
	w := loaded(t, binding(t, "b1", "u1", "ml1"))
	g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		if err := w.Agent("uid-c1", 1); err != nil {
			t.Errorf("a handshake was refused: %v", err)
		}
		for _, other := range []error{w.Holds(g), w.Fresh()} {
			if errors.Is(other, access.ErrUnavailable) != errors.Is(err, access.ErrUnavailable) {
				t.Errorf("Grant says %v, another %v", err, other)
			}
		}
		return err
	}
	w.now = start.Add(5 * time.Second)
	if err := ask(); err != nil {
		t.Errorf("after 5 s: %v", err)
	}
	w.now = start.Add(5*time.Second + 1)
	if err := ask(); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("after more than 5 s: %v", err)
	}
	w.clusters(authorize.Update[access.Cluster]{})
	if err := ask(); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("with progress of one kind only: %v", err)
	}
	w.bindings(authorize.Update[access.RoleBinding]{})
	w.resources(authorize.Update[access.Resource]{})
	if err := ask(); err != nil {
		t.Errorf("with progress of all: %v", err)
	}
}

func TestGrant(t *testing.T) {
	pinned := binding(t, "pinned", "u-pinned", "ml-pinned")
	pinned.SourceOID = "OID-1"
	replaced := pinned
	replaced.ID, replaced.UID, replaced.Source, replaced.SourceOID = binding(t, "replaced", "", "x").ID, "u-replaced", workspace(t, "ml-replaced"), "oid-0"
	deleting := binding(t, "deleting", "u-deleting", "ml-deleting")
	deleting.State = access.Deleting
	updating := binding(t, "updating", "u-updating", "ml-updating")
	updating.State = access.Updating
	waiting := binding(t, "waiting", "u-waiting", "ml-waiting")
	waiting.State, waiting.Applied = access.Updating, access.Applied{}
	w := loaded(t, binding(t, "B1", "u1", "ml1"), pinned, replaced, deleting, updating, waiting)

	capitals := caller(t, "ml1")
	capitals.Resource, capitals.TenantID = parse(t, strings.ToUpper(capitals.Resource.String())), strings.ToUpper(tenant)
	noSource := caller(t, "ml1")
	noSource.Resource = access.ResourceID{}
	otherTenant := caller(t, "ml1")
	otherTenant.TenantID = "88888888-2222-3333-4444-aaaaaaaaaaaa"
	identity := caller(t, "ml1")
	identity.Resource = parse(t, group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/ml1")

	for _, tc := range []struct {
		name    string
		p       access.Principal
		cluster access.ResourceID
		uid     string
		kind    error
		text    string
	}{
		{"plain", caller(t, "ml1"), clusterID(t, "c1"), "u1", nil, ""},
		{"other casing", capitals, parse(t, strings.ToLower(clusterID(t, "c1").String())), "u1", nil, ""},
		{"pinned object id", caller(t, "ml-pinned"), clusterID(t, "c1"), "u-pinned", nil, ""},
		{"being updated", caller(t, "ml-updating"), clusterID(t, "c1"), "u-updating", nil, ""},
		{"not in force yet", caller(t, "ml-waiting"), clusterID(t, "c1"), "", access.ErrUnavailable, "not put it in force"},
		{"unknown cluster", caller(t, "ml1"), clusterID(t, "c2"), "", access.ErrNotFound, "c2"},
		{"cluster's parent", caller(t, "ml1"), parse(t, group), "", access.ErrNotFound, "registered"},
		{"other tenant", otherTenant, clusterID(t, "c1"), "", access.ErrUnauthenticated, "tenant"},
		{"no source", noSource, clusterID(t, "c1"), "", access.ErrUnauthenticated, "source"},
		{"no binding", caller(t, "ml2"), clusterID(t, "c1"), "", access.ErrForbidden, "ml2"},
		{"prefix of a source", caller(t, "ml"), clusterID(t, "c1"), "", access.ErrForbidden, "no trusted access role binding"},
		{"longer than a source", caller(t, "ml11"), clusterID(t, "c1"), "", access.ErrForbidden, "no trusted access role binding"},
		{"user-assigned identity", identity, clusterID(t, "c1"), "", access.ErrForbidden, "userAssignedIdentities"},
		{"being deleted", caller(t, "ml-deleting"), clusterID(t, "c1"), "", access.ErrForbidden, "no trusted access role binding"},
		{"earlier identity", caller(t, "ml-replaced"), clusterID(t, "c1"), "", access.ErrForbidden, "consent again"},
	} {
		g, err := w.Grant(tc.p, tc.cluster, here)
		if !errors.Is(err, tc.kind) || g.BindingUID != tc.uid {
			t.Errorf("%s: %+v, %v", tc.name, g, err)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %q does not say %q", tc.name, err, tc.text)
			}
			continue
		}
		if !g.Cluster.Equal(tc.cluster) || g.ClusterUID != "uid-c1" || !g.Source.Equal(tc.p.Resource) || w.Holds(g) != nil {
			t.Errorf("%s: %+v, holds: %v", tc.name, g, w.Holds(g))
		}
	}
	// The first PUT's casing names the objects in the cluster.
	if g, _ := w.Grant(capitals, clusterID(t, "c1"), here); g.Binding != "B1" || g.Cluster.String() != clusterID(t, "c1").String() {
		t.Errorf("%+v", g)
	}
}

func TestOldestBindingSpeaks(t *testing.T) {
	at := func(name string, age time.Duration) access.RoleBinding {
		b := binding(t, name, "u-"+name, "ml1")
		b.Created = start.Add(-age)
		return b
	}
	w := loaded(t, at("young", 1), at("old", 3), at("middle", 2), at("twin", 3))
	speaks := func() string {
		g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		if err != nil {
			return err.Error()
		}
		return g.Binding
	}
	for _, want := range []string{"old", "twin", "middle", "young"} { // twins in the order of their names
		if got := speaks(); got != want {
			t.Fatalf("%s speaks, want %s", got, want)
		}
		w.bindings(authorize.Update[access.RoleBinding]{Deleted: []string{at(want, 0).ID.Key()}})
	}
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
		t.Error(err)
	}
	// One that was given to an earlier identity does not speak for a later one.
	pinned := at("old", 3)
	pinned.SourceOID = "oid-0"
	w = loaded(t, at("young", 1), pinned)
	if got := speaks(); got != "young" {
		t.Errorf("%s speaks", got)
	}
}

func TestRevocation(t *testing.T) {
	one, two := binding(t, "b1", "u1", "ml1"), binding(t, "b2", "u2", "ml2")
	with := func(b access.RoleBinding, generation, applied int64, roles ...string) access.RoleBinding {
		b.Generation, b.Applied.Generation, b.Applied.Retired, b.Roles = generation, applied, applied, roles
		return b
	}
	// failed did not come into force; the cluster lost the roles it removed.
	failed := func(b access.RoleBinding, generation, retired int64, roles ...string) access.RoleBinding {
		b = with(b, generation, 1, roles...)
		b.State, b.Applied.Retired = access.Failed, retired
		return b
	}
	again := one
	again.UID = "u1-again"
	deleting := one
	deleting.State = access.Deleting
	moved := one
	moved.State = access.Updating
	type update = authorize.Update[access.RoleBinding]
	change := func(b ...access.RoleBinding) update { return update{Changed: b} }
	const deleted, removed = "u1: binding deleted", "u1: a role was removed from the binding"

	for _, tc := range []struct {
		name    string
		first   []access.RoleBinding
		updates []update
		want    []string
		holds   bool // the grant of b1
	}{
		{"deleted", []access.RoleBinding{one, two}, []update{{Deleted: []string{one.ID.Key()}}}, []string{deleted}, false},
		{"unknown key deleted", []access.RoleBinding{one}, []update{{Deleted: []string{two.ID.Key()}}}, nil, true},
		{"Deleting", []access.RoleBinding{one, two}, []update{change(deleting)}, []string{deleted}, false},
		{"created again", []access.RoleBinding{one}, []update{change(again)}, []string{deleted}, false},
		{"deleted and created again at once", []access.RoleBinding{one}, []update{{Deleted: []string{one.ID.Key()}, Changed: []access.RoleBinding{again}}}, []string{deleted}, false},
		{"reset without it", []access.RoleBinding{one, two}, []update{{Reset: true, Changed: []access.RoleBinding{two}}}, []string{deleted}, false},
		{"reset with another in its place", []access.RoleBinding{one, two}, []update{{Reset: true, Changed: []access.RoleBinding{again, two}}}, []string{deleted}, false},
		{"empty reset", []access.RoleBinding{one, two}, []update{{Reset: true}}, []string{deleted, "u2: binding deleted"}, false},
		{"reset with the same", []access.RoleBinding{one, two}, []update{{Reset: true, Changed: []access.RoleBinding{one, two}}}, nil, true},
		{"progress", []access.RoleBinding{one}, []update{{}, {}}, nil, true},
		{"state only", []access.RoleBinding{one}, []update{change(moved)}, nil, true},
		{"a role more", []access.RoleBinding{one}, []update{change(with(one, 2, 1, roleA, roleB)), change(with(one, 2, 2, roleA, roleB))}, nil, true},
		{"order and casing", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(with(one, 2, 2, roleB, strings.ToUpper(roleA)))}, nil, true},
		{"a role less, not applied", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(with(one, 2, 1, roleA)), change(with(one, 2, 1, roleA))}, nil, true},
		{"a role less, applied", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(with(one, 2, 1, roleA)), change(with(one, 2, 2, roleA)), change(with(one, 2, 2, roleA))}, []string{removed}, true},
		{"another role, applied", []access.RoleBinding{one}, []update{change(with(one, 2, 2, roleB))}, []string{removed}, true},
		{"a role added and withdrawn before the report", []access.RoleBinding{one}, []update{change(with(one, 2, 1, roleA, roleB)), change(with(one, 3, 1, roleA)), change(with(one, 3, 3, roleA))}, []string{removed}, true},
		{"a role less, failed with the role in place", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(failed(one, 2, 1, roleA))}, nil, true},
		{"a role less, failed with the role gone", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(with(one, 2, 1, roleA)), change(failed(one, 2, 1, roleA)), change(failed(one, 2, 2, roleA)), change(failed(one, 2, 2, roleA))}, []string{removed}, true},
		{"gone already when it comes into force", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{change(failed(one, 2, 2, roleA)), change(with(one, 2, 2, roleA))}, []string{removed}, true},
		{"first seen between two generations", []access.RoleBinding{with(one, 2, 1, roleA)}, []update{change(with(one, 2, 2, roleA)), change(with(one, 2, 2, roleA))}, []string{removed}, true},
		{"lost by one reset, narrowed in it", []access.RoleBinding{with(one, 1, 1, roleA, roleB)}, []update{{Reset: true, Changed: []access.RoleBinding{with(one, 2, 2, roleA)}}}, []string{removed}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := loaded(t, tc.first...)
			g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
			if err != nil {
				t.Fatal(err)
			}
			w.wantRevoked(t)
			for _, u := range tc.updates {
				w.bindings(u)
			}
			w.wantRevoked(t, tc.want...)
			err = w.Holds(g)
			if (err == nil) != tc.holds || err != nil && !errors.Is(err, access.ErrForbidden) {
				t.Errorf("the old grant: %v", err)
			}
		})
	}
}

// A grant of a binding that was created again is a new one, and the old stays
// void.
func TestCreatedAgainIsAnother(t *testing.T) {
	w := loaded(t, binding(t, "b1", "u1", "ml1"))
	old, _ := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
	w.put(binding(t, "b1", "u2", "ml1"))
	g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
	if err != nil || g.BindingUID != "u2" || w.Holds(g) != nil || !errors.Is(w.Holds(old), access.ErrForbidden) {
		t.Errorf("%+v, %v; old grant %v", g, err, w.Holds(old))
	}
	// Created again for another source: the first source has nothing.
	w.put(binding(t, "b1", "u3", "ml2"))
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
		t.Error(err)
	}
	w.wantRevoked(t, "u1: binding deleted", "u2: binding deleted")
}

func TestClusterGone(t *testing.T) {
	const all = "9223372036854775807"
	key := clusterID(t, "c1").Key()
	for _, tc := range []struct {
		name   string
		update authorize.Update[access.Cluster]
		gone   []string
		kind   error // of asking for the cluster, and of the old grant
	}{
		{"deleted", authorize.Update[access.Cluster]{Deleted: []string{key}}, []string{"uid-c1 " + all}, access.ErrNotFound},
		{"reset without it", authorize.Update[access.Cluster]{Reset: true}, []string{"uid-c1 " + all}, access.ErrNotFound},
		{"registered again", authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c1", "uid-new", 1)}}, []string{"uid-c1 " + all}, nil},
		{"enrolled again", authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 2)}}, []string{"uid-c1 2"}, nil},
		{"touched", authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 1)}}, nil, nil},
		{"another", authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c2", "uid-c2", 1)}}, nil, nil},
	} {
		w := loaded(t, binding(t, "b1", "u1", "ml1"))
		old, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		if err != nil {
			t.Fatal(err)
		}
		w.clusters(tc.update)
		w.wantGone(t, tc.gone...)
		if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", tc.name, err)
		}
		stands := len(tc.gone) == 0 || tc.name == "enrolled again"
		if err := w.Holds(old); (err == nil) != stands {
			t.Errorf("%s: the old grant: %v", tc.name, err)
		}
	}
}

func TestAgent(t *testing.T) {
	w := loaded(t)
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c2", "uid-c2", 7)}})
	for _, tc := range []struct {
		uid        string
		generation int64
		kind       error
	}{
		{"uid-c1", 1, nil}, {"uid-c2", 7, nil},
		{"uid-c1", 0, access.ErrForbidden}, {"uid-c1", 2, access.ErrForbidden}, {"uid-c2", 6, access.ErrForbidden}, {"uid-c2", 8, access.ErrForbidden},
		{"", 0, access.ErrForbidden}, {"uid-c3", 1, access.ErrForbidden}, {"UID-C1", 1, access.ErrForbidden},
	} {
		if err := w.Agent(tc.uid, tc.generation); !errors.Is(err, tc.kind) {
			t.Errorf("%s generation %d: %v", tc.uid, tc.generation, err)
		}
	}
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 2)}, Deleted: []string{clusterID(t, "c2").Key()}})
	for uid, generation := range map[string]int64{"uid-c1": 1, "uid-c2": 7} {
		if err := w.Agent(uid, generation); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("%s generation %d: %v", uid, generation, err)
		}
	}
	if err := w.Agent("uid-c1", 2); err != nil {
		t.Error(err)
	}
}

func TestWaitFor(t *testing.T) {
	w := loaded(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.WaitFor(ctx, 0); err != nil {
		t.Error(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- w.WaitFor(ctx, 10) }()
	w.clusters(authorize.Update[access.Cluster]{Revision: 12})
	w.bindings(authorize.Update[access.RoleBinding]{Revision: 9})
	select {
	case err := <-waited:
		t.Errorf("returned at revision 9: %v", err)
	default:
	}
	w.bindings(authorize.Update[access.RoleBinding]{Revision: 10})
	if err := <-waited; err != nil {
		t.Error(err)
	}
	w.bindings(authorize.Update[access.RoleBinding]{Revision: 3}) // never goes back
	if err := w.WaitFor(ctx, 10); err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancelCause(ctx)
	end(errors.New("the reason"))
	if err := w.WaitFor(ended, 11); !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "the reason") {
		t.Error(err)
	}
}

// Once UpdateBindings has returned, a deletion is in force: no grant made
// before it holds, however grants and updates interleave (checklist, item 26).
func TestItem26NoGrantSurvivesItsDeletion(t *testing.T) {
	w := loaded(t)
	const rounds = 300
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	type seen struct {
		mu     sync.Mutex
		grants []access.Grant
	}
	var got seen
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
				if err != nil && !errors.Is(err, access.ErrForbidden) {
					t.Error(err)
					return
				}
				if err == nil {
					if err := w.Holds(g); err != nil && !errors.Is(err, access.ErrForbidden) {
						t.Error(err)
					}
					got.mu.Lock()
					got.grants = append(got.grants, g)
					got.mu.Unlock()
				}
				w.Agent("uid-c1", 1)
			}
		})
	}
	for i := range rounds {
		uid := fmt.Sprint("u", i)
		w.put(binding(t, "b1", uid, "ml1"))
		mine, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		if err != nil || mine.BindingUID != uid {
			t.Fatalf("%+v, %v", mine, err)
		}
		got.mu.Lock()
		taken := append(slices.Clone(got.grants), mine)
		got.grants = nil
		got.mu.Unlock()
		w.bindings(authorize.Update[access.RoleBinding]{Deleted: []string{binding(t, "b1", "", "x").ID.Key()}})
		for _, g := range taken {
			if err := w.Holds(g); !errors.Is(err, access.ErrForbidden) {
				t.Fatalf("round %d: %+v holds after its deletion: %v", i, g, err)
			}
		}
		w.wantRevoked(t, uid+": binding deleted")
		w.clusters(authorize.Update[access.Cluster]{})
	}
	cancel()
	readers.Wait()
}

// TestDeletedSource: the last token of a deleted source is good for another
// day, and must not be here.
func TestDeletedSource(t *testing.T) {
	pinned := binding(t, "b1", "u1", "ml1")
	pinned.SourceOID = "oid-1"
	unpinned := binding(t, "b2", "u2", "cloud")
	for name, change := range map[string]authorize.Update[access.Resource]{
		"deleted":         {Deleted: []string{workspace(t, "ml1").Key()}},
		"lost by a reset": {Reset: true},
		"created again":   {Changed: []access.Resource{resource(t, "ml1", "oid-2")}},
		"no identity":     {Changed: []access.Resource{{ID: workspace(t, "ml1")}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := loaded(t, pinned, unpinned)
			if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err != nil {
				t.Fatal(err)
			}
			w.resources(change)
			w.wantRevoked(t, "u1: its source was deleted")
			if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
				t.Errorf("after it: %v", err)
			}
			if _, err := w.Grant(caller(t, "cloud"), clusterID(t, "c1"), here); err != nil {
				t.Errorf("a source of the real cloud: %v", err)
			}
		})
	}
}
