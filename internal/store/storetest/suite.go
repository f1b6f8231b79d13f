package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Suite is what every store must do, however it was opened. open gives an
// empty store for one test.
func Suite(t *testing.T, open func(t *testing.T) *store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *store.Store)
	}{
		{"Versions", versions},
		{"KeysFold", keysFold},
		{"BadKeys", badKeys},
		{"BadWrites", badWrites},
		{"WholeSegments", wholeSegments},
		{"LongList", longList},
		{"DocumentKept", documentKept},
		{"Kinds", kinds},
		{"Commit", commit},
		{"CommitRefuses", commitRefuses},
		{"Limit", limit},
		{"Follow", follow},
		{"FollowOrder", followOrder},
		{"FollowProgress", followProgress},
		{"FollowEnds", followEnds},
		{"Cancelled", cancelled},
		{"Apart", apart},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

const sub = "/subscriptions/11111111-1111-1111-1111-111111111111"

// ClusterID returns the id of a cluster in a fixed resource group.
func ClusterID(t testing.TB, name string) access.ResourceID {
	t.Helper()
	return id(t, sub+"/resourceGroups/rg/providers/"+access.ClusterType+"/"+name)
}

func id(t testing.TB, text string) access.ResourceID {
	t.Helper()
	parsed, err := access.ParseResourceID(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func binding(t testing.TB, cluster, name string) access.RoleBinding {
	t.Helper()
	child, err := ClusterID(t, cluster).Child("trustedAccessRoleBindings", name)
	if err != nil {
		t.Fatal(err)
	}
	return access.RoleBinding{ID: child, UID: "uid-" + name, Generation: 1, State: access.Succeeded}
}

// put writes a new record and returns it as an item.
func put[T any](t testing.TB, k store.Kind[T], v T) store.Item[T] {
	t.Helper()
	version, err := k.Put(t.Context(), v, 0)
	if err != nil {
		t.Fatal(err)
	}
	return store.Item[T]{Value: v, Version: version}
}

func want(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: error is %v, want one of kind %q", what, err, kind)
	}
}

func names(items []store.Item[access.RoleBinding]) string {
	var all []string
	for _, item := range items {
		all = append(all, item.Value.Name())
	}
	return strings.Join(all, " ")
}

func versions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	b := binding(t, "c1", "b1")
	_, err := s.Bindings.Get(ctx, b.ID.Key())
	want(t, "get of nothing", err, access.ErrNotFound)
	if err != nil && !(strings.Contains(err.Error(), "role binding") && strings.Contains(err.Error(), b.ID.Key())) {
		t.Errorf("%q names not both kind and key", err)
	}
	_, err = s.Bindings.Put(ctx, b, 7)
	want(t, "update of nothing", err, access.ErrConflict)

	first := put(t, s.Bindings, b)
	_, err = s.Bindings.Put(ctx, b, 0)
	want(t, "create twice", err, access.ErrConflict)
	got, err := s.Bindings.Get(ctx, b.ID.Key())
	if err != nil || got.Version != first.Version || got.Value.UID != b.UID || got.Key != b.ID.Key() {
		t.Fatalf("get = %+v, %v", got, err)
	}

	b.Generation = 2
	second, err := s.Bindings.Put(ctx, b, first.Version)
	if err != nil || second <= first.Version {
		t.Fatalf("update: version %d after %d, %v", second, first.Version, err)
	}
	_, err = s.Bindings.Put(ctx, b, first.Version)
	want(t, "update of an old version", err, access.ErrConflict)
	want(t, "delete of an old version", s.Bindings.Delete(ctx, b.ID.Key(), first.Version), access.ErrConflict)
	if err := s.Bindings.Delete(ctx, b.ID.Key(), second); err != nil {
		t.Fatal(err)
	}
	want(t, "delete twice", s.Bindings.Delete(ctx, b.ID.Key(), second), access.ErrConflict)
	_, err = s.Bindings.Put(ctx, b, second)
	want(t, "update after delete", err, access.ErrConflict)
	if again := put(t, s.Bindings, b); again.Version <= second {
		t.Errorf("version %d was used again: now %d", second, again.Version)
	}
}

func keysFold(t *testing.T, s *store.Store) {
	ctx := t.Context()
	written := access.Cluster{ID: id(t, sub+"/resourcegroups/RG/providers/"+access.ClusterType+"/MyCluster")}
	put(t, s.Clusters, written)
	other := access.Cluster{ID: ClusterID(t, "mycluster")}
	_, err := s.Clusters.Put(ctx, other, 0)
	want(t, "the same id in another casing", err, access.ErrConflict)
	for _, key := range []string{written.ID.Key(), other.ID.Key(), written.ID.String(), strings.ToUpper(sub) + written.ID.String()[len(sub):]} {
		got, err := s.Clusters.Get(ctx, key)
		if err != nil || got.Value.ID.String() != written.ID.String() {
			t.Errorf("get %q = %q, %v; want the casing as written", key, got.Value.ID, err)
		}
	}
	list, _, err := s.Clusters.List(ctx, sub+"/resourceGroups/Rg/")
	if err != nil || len(list) != 1 || list[0].Key != written.ID.Key() {
		t.Errorf("list in another casing = %v, %v", list, err)
	}
}

func badKeys(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/", "b1", sub + "/", sub + "//x", sub + "/a b", sub + "/\x00", sub + "/\u212a", "//" + sub, "/x" + sub, sub + "/" + strings.Repeat("x", 5000)} {
		_, err := s.Bindings.Get(ctx, key)
		want(t, fmt.Sprintf("get %.80q", key), err, access.ErrInvalid)
	}
	for _, key := range []string{"", "/", "a/b", "a ", sub} {
		_, err := s.Operations.Get(ctx, key)
		want(t, fmt.Sprintf("get operation %q", key), err, access.ErrInvalid)
	}
	for _, prefix := range []string{sub, "/", sub + "//", "x/", "/subscriptions"} {
		_, _, err := s.Bindings.List(ctx, prefix)
		want(t, fmt.Sprintf("list %q", prefix), err, access.ErrInvalid)
		want(t, fmt.Sprintf("follow %q", prefix), s.Bindings.Follow(ctx, prefix, func(store.Update[access.RoleBinding]) {}), access.ErrInvalid)
	}
}

func badWrites(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for _, test := range []struct {
		name  string
		write func() error
	}{
		{"no id", func() error { _, err := s.Bindings.Put(ctx, access.RoleBinding{}, 0); return err }},
		{"negative version", func() error { _, err := s.Bindings.Put(ctx, binding(t, "c1", "b1"), -1); return err }},
		{"delete of version 0", func() error { return s.Bindings.Delete(ctx, ClusterID(t, "c1").Key(), 0) }},
		{"tombstone without uid", func() error {
			_, err := s.Tombstones.Put(ctx, access.Tombstone{Cluster: ClusterID(t, "c1")}, 0)
			return err
		}},
		{"tombstone without cluster", func() error { _, err := s.Tombstones.Put(ctx, access.Tombstone{UID: "u"}, 0); return err }},
		{"tombstone uid of two segments", func() error {
			_, err := s.Tombstones.Put(ctx, access.Tombstone{Cluster: ClusterID(t, "c1"), UID: "a/b"}, 0)
			return err
		}},
		{"pending and done", func() error {
			_, err := s.Pending.Put(ctx, access.Operation{ID: "o", Status: access.OperationFailed}, 0)
			return err
		}},
		{"too large", func() error {
			_, err := s.Clusters.Put(ctx, access.Cluster{ID: ClusterID(t, "c1"), Document: make([]byte, 1<<20)}, 0)
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) { want(t, "write", test.write(), access.ErrInvalid) })
	}
}

func wholeSegments(t *testing.T, s *store.Store) {
	for _, cluster := range []string{"c", "c1", "c10", "c1-a", "C1.b"} {
		put(t, s.Bindings, binding(t, cluster, "in-"+strings.NewReplacer(".", "-").Replace(cluster)))
	}
	put(t, s.Bindings, binding(t, "c1", "second"))
	for prefix, wanted := range map[string]string{
		ClusterID(t, "c1").Key() + "/":  "in-c1 second",
		ClusterID(t, "c").Key() + "/":   "in-c",
		ClusterID(t, "c10").Key() + "/": "in-c10",
		ClusterID(t, "c2").Key() + "/":  "",
	} {
		list, _, err := s.Bindings.List(t.Context(), prefix)
		if got := names(list); err != nil || got != wanted {
			t.Errorf("list %q = %q, %v; want %q", prefix, got, err, wanted)
		}
	}
	// Keys are in byte order, where "-" and "." come before "/".
	for _, prefix := range []string{"", sub + "/"} {
		list, _, err := s.Bindings.List(t.Context(), prefix)
		if got, wanted := names(list), "in-c in-c1-a in-C1-b in-c1 second in-c10"; err != nil || got != wanted {
			t.Errorf("list %q = %q, %v; want %q", prefix, got, err, wanted)
		}
	}
}

// longList has more records than one page, and a writer during the list: the
// two records it always changes together must be seen at one version.
func longList(t *testing.T, s *store.Store) {
	const many = 600
	ctx, cancel := context.WithCancel(t.Context())
	for at := 0; at < many; at += 100 {
		var changes []store.Change
		for i := range 100 {
			changes = append(changes, s.Tenants.Creating(store.Tenant{ID: fmt.Sprintf("t%04d", at+i)}))
		}
		if _, err := s.Commit(ctx, changes...); err != nil {
			t.Fatal(err)
		}
	}
	var writer sync.WaitGroup
	defer writer.Wait()
	defer cancel()
	both := func() error {
		a, err := s.Tenants.Get(ctx, "t0000")
		if err != nil {
			return err
		}
		z, err := s.Tenants.Get(ctx, "t0599")
		if err != nil {
			return err
		}
		_, err = s.Commit(ctx, s.Tenants.Updating(a, a.Value), s.Tenants.Updating(z, z.Value))
		return err
	}
	if err := both(); err != nil {
		t.Fatal(err)
	}
	writer.Go(func() {
		for ctx.Err() == nil {
			if err := both(); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		list, revision, err := s.Tenants.List(ctx, "")
		if err != nil || len(list) != many {
			t.Fatalf("list has %d items, %v", len(list), err)
		}
		if list[0].Version != list[many-1].Version || list[0].Version > revision {
			t.Errorf("the list is of two moments: versions %d and %d at revision %d", list[0].Version, list[many-1].Version, revision)
		}
	}
}

func documentKept(t *testing.T, s *store.Store) {
	document := `{ "properties":{"unknown":1e400,"<&>":"\u2028"},  "tags":null}`
	put(t, s.Clusters, access.Cluster{ID: ClusterID(t, "c1"), Document: []byte(document)})
	got, err := s.Clusters.Get(t.Context(), ClusterID(t, "c1").Key())
	if err != nil || string(got.Value.Document) != document {
		t.Errorf("document = %s, %v; want every byte kept", got.Value.Document, err)
	}
}

// kinds writes one record of each, and finds it by the key its room computes.
func kinds(t *testing.T, s *store.Store) {
	cluster := ClusterID(t, "C1")
	op := access.Operation{ID: "AAAA-1", Status: access.OperationInProgress}
	found(t, s.Subscriptions, access.Subscription{ID: id(t, sub)}, sub)
	found(t, s.Groups, access.ResourceGroup{ID: id(t, sub+"/resourceGroups/RG")}, sub+"/resourcegroups/rg")
	found(t, s.Resources, access.Resource{ID: id(t, sub+"/resourceGroups/rg/providers/A.B/c/d")}, sub+"/resourcegroups/rg/providers/a.b/c/d")
	found(t, s.ResourceUIDs, store.ResourceUID{UID: "U1"}, "u1")
	found(t, s.Clusters, access.Cluster{ID: cluster}, cluster.Key())
	found(t, s.JoinTokens, store.JoinToken{ID: "J1", SecretHash: []byte{1, 2}}, "j1")
	found(t, s.Bindings, binding(t, "C1", "B1"), cluster.Key()+"/trustedaccessrolebindings/b1")
	found(t, s.Tombstones, access.Tombstone{Cluster: cluster, UID: "U1"}, cluster.Key()+"/u1")
	found(t, s.Operations, op, "aaaa-1")
	found(t, s.Pending, op, "aaaa-1")
	found(t, s.Tenants, store.Tenant{ID: "T1"}, "t1")
	found(t, s.Applications, store.Application{ClientID: "A1", TenantID: "T1"}, "a1")
	found(t, s.Users, store.User{ObjectID: "U1", TenantID: "T1"}, "u1")
	found(t, s.UserNames, store.UserName{UPN: "Alice@contoso.example", ObjectID: "U1"}, "alice@contoso.example")
	found(t, s.UserGroups, store.Group{ObjectID: "G1", TenantID: "T1"}, "g1")
	found(t, s.FederatedCredentials, access.FederatedCredential{Identity: cluster, Name: "F1"}, cluster.Key()+"/federatedidentitycredentials/f1")
	found(t, s.RoleAssignments, access.RoleAssignment{Scope: cluster, Name: "N1"}, cluster.Key()+"/providers/microsoft.authorization/roleassignments/n1")
}

func found[T any](t *testing.T, k store.Kind[T], v T, key string) {
	t.Helper()
	item := put(t, k, v)
	list, _, err := k.List(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Key != key || list[0].Version != item.Version {
		t.Errorf("list of %T = %+v, %v; want key %q", v, list, err, key)
	}
}

func commit(t *testing.T, s *store.Store) {
	ctx := t.Context()
	cluster := put(t, s.Clusters, access.Cluster{ID: ClusterID(t, "c1"), UID: "u1"})
	b := binding(t, "c1", "b1")
	op := access.Operation{ID: "op1", Status: access.OperationInProgress}
	version, err := s.Commit(ctx, s.Clusters.Unchanged(cluster), s.Bindings.Creating(b), s.Operations.Creating(op), s.Pending.Creating(op))
	if err != nil {
		t.Fatal(err)
	}
	item, err := s.Bindings.Get(ctx, b.ID.Key())
	if err != nil || item.Version != version {
		t.Fatalf("binding at version %d, %v; want that of the commit, %d", item.Version, err, version)
	}
	pending, err := s.Pending.Get(ctx, "op1")
	if err != nil {
		t.Fatal(err)
	}

	// One condition fails: nothing is written.
	stale := item
	stale.Version--
	for name, condition := range map[string]store.Change{
		"changed":  s.Bindings.Unchanged(stale),
		"present":  s.Bindings.Absent(b.ID.Key()),
		"created":  s.Bindings.Creating(b),
		"updated":  s.Bindings.Updating(stale, b),
		"deleted":  s.Bindings.Deleting(stale),
		"vanished": s.Clusters.Unchanged(store.Item[access.Cluster]{Value: access.Cluster{ID: ClusterID(t, "c2")}, Version: 3}),
	} {
		_, err := s.Commit(ctx, s.Pending.Deleting(pending), condition)
		want(t, name, err, access.ErrConflict)
	}
	if _, err := s.Pending.Get(ctx, "op1"); err != nil {
		t.Fatalf("a refused commit deleted: %v", err)
	}

	b.Generation = 2
	_, err = s.Commit(ctx, s.Bindings.Updating(item, b), s.Pending.Deleting(pending), s.Bindings.Absent(binding(t, "c1", "b2").ID.Key()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Pending.Get(ctx, "op1")
	want(t, "get of what was deleted", err, access.ErrNotFound)
	if item, err = s.Bindings.Get(ctx, b.ID.Key()); err != nil || item.Value.Generation != 2 {
		t.Errorf("binding = %+v, %v", item, err)
	}
}

func commitRefuses(t *testing.T, s *store.Store) {
	item := put(t, s.Bindings, binding(t, "c1", "b1"))
	other, err := s.Within("other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var many []store.Change
	for i := range 129 {
		many = append(many, s.Tenants.Absent(fmt.Sprint("t", i)))
	}
	for name, changes := range map[string][]store.Change{
		"nothing":           nil,
		"zero change":       {{}},
		"too many":          many,
		"twice":             {s.Bindings.Unchanged(item), s.Bindings.Updating(item, item.Value)},
		"another store's":   {other.Bindings.Creating(item.Value)},
		"another key":       {s.Bindings.Updating(item, binding(t, "c1", "b2"))},
		"never read":        {s.Bindings.Updating(store.Item[access.RoleBinding]{Value: item.Value}, item.Value)},
		"never read either": {s.Bindings.Deleting(store.Item[access.RoleBinding]{Value: item.Value})},
		"faulty second":     {s.Tenants.Creating(store.Tenant{ID: "t"}), s.Tenants.Creating(store.Tenant{})},
	} {
		_, err := s.Commit(t.Context(), changes...)
		want(t, name, err, access.ErrInvalid)
	}
	if _, err := s.Commit(t.Context(), many[:128]...); err != nil {
		t.Errorf("128 conditions: %v", err)
	}
}

// limit races 100 writers against a rule over many records: all update the
// cluster they counted under, so only as many win as the rule allows.
func limit(t *testing.T, s *store.Store) {
	const writers, most = 100, 7
	cluster := put(t, s.Clusters, access.Cluster{ID: ClusterID(t, "c1")})
	create := func(b access.RoleBinding) (bool, error) {
		for {
			guard, err := s.Clusters.Get(t.Context(), cluster.Value.ID.Key())
			if err != nil {
				return false, err
			}
			list, _, err := s.Bindings.List(t.Context(), cluster.Value.ID.Key()+"/")
			if err != nil || len(list) >= most {
				return false, err
			}
			_, err = s.Commit(t.Context(), s.Clusters.Updating(guard, guard.Value), s.Bindings.Creating(b))
			if !errors.Is(err, access.ErrConflict) {
				return err == nil, err
			}
		}
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range writers {
		b := binding(t, "c1", fmt.Sprint("b", i))
		all.Go(func() {
			ok, err := create(b)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	all.Wait()
	list, _, err := s.Bindings.List(t.Context(), cluster.Value.ID.Key()+"/")
	if err != nil || len(list) != most || won.Load() != most {
		t.Errorf("%d won and %d are stored, %v; want %d", won.Load(), len(list), err, most)
	}
}

func cancelled(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Tenants.Get(ctx, "t")
	want(t, "cancelled get", err, context.Canceled)
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, _, err = s.Tenants.List(late, "")
	want(t, "late list", err, access.ErrUnavailable)
	_, err = s.Tenants.Put(late, store.Tenant{ID: "t"}, 0)
	want(t, "late put", err, access.ErrUnavailable)
}

func apart(t *testing.T, s *store.Store) {
	for _, segment := range []string{"", "a/b", "a b", ".\x00"} {
		_, err := s.Within(segment)
		want(t, fmt.Sprintf("within %q", segment), err, access.ErrInvalid)
	}
	other, err := s.Within("other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	put(t, other.Tenants, store.Tenant{ID: "t"})
	if list, _, err := s.Tenants.List(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("list = %v, %v; want nothing of another prefix", list, err)
	}
}
