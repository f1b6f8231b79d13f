package authorize_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authorize"
)

func bounded(b access.RoleBinding, p access.Policy) access.RoleBinding {
	b.Policy = p
	return b
}

func (w *world) putCluster(t testing.TB, p access.Policy) {
	c := cluster(t, "c1", "uid-c1", 1)
	c.Policy = p
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{c}})
}

func TestPolicyRefuses(t *testing.T) {
	locked := access.Policy{Locked: true, LockReason: "incident 7"}
	past, future := access.Policy{ExpiresOn: start}, access.Policy{ExpiresOn: start.Add(time.Second)}
	ranges := func(r ...string) access.Policy { return access.Policy{AllowedSourceRanges: r} }
	for _, tc := range []struct {
		name             string
		cluster, binding access.Policy
		says             string // "" when admitted
	}{
		{"none", access.Policy{}, access.Policy{}, ""},
		{"binding locked", access.Policy{}, locked, `binding "b1" is locked: incident 7`},
		{"cluster locked", locked, access.Policy{}, "cluster c1 is locked: incident 7"},
		{"binding expired", future, past, `access to binding "b1" expired on 2026-11-21T12:00:00Z`},
		{"cluster expired", past, future, "access to cluster c1 expired"},
		{"not yet", future, future, ""},
		{"in both levels' ranges", ranges("192.0.2.0/24"), ranges("10.0.0.0/8", "192.0.2.1"), ""},
		{"not in the cluster's", ranges("10.0.0.0/8"), ranges("192.0.2.1"), "address 192.0.2.1 is not in the source ranges that cluster c1 allows"},
		{"not in the binding's", ranges("192.0.2.1"), ranges("10.0.0.0/8"), `address 192.0.2.1 is not in the source ranges that binding "b1" allows`},
		{"ranges that cannot be read", access.Policy{}, ranges("NoSuchTag"), "not in the source ranges"},
	} {
		w := loaded(t, binding(t, "b1", "u1", "ml1"))
		before, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		if err != nil {
			t.Fatal(err)
		}
		w.putCluster(t, tc.cluster)
		w.put(bounded(binding(t, "b1", "u1", "ml1"), tc.binding))
		_, err = w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
		for what, err := range map[string]error{"Grant": err, "Holds": w.Holds(before)} {
			if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%s: %s: %v", tc.name, what, err)
			}
		}
		w.putCluster(t, access.Policy{})
		w.put(binding(t, "b1", "u1", "ml1"))
		if err := w.Holds(before); err != nil {
			t.Errorf("%s: not back: %v", tc.name, err)
		}
	}
}

func TestNoAddressIsInNoRange(t *testing.T) {
	w := loaded(t, bounded(binding(t, "b1", "u1", "ml1"), access.Policy{AllowedSourceRanges: []string{"0.0.0.0/0", "::/0"}}))
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), netip.Addr{}); !errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), "unknown address") {
		t.Error(err)
	}
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err != nil {
		t.Error(err)
	}
}

// Each binding is a consent of its own: where the oldest does not admit, the
// next one may.
func TestBoundedBindingLetsTheNextSpeak(t *testing.T) {
	second := binding(t, "b2", "u2", "ml1")
	second.Created = start.Add(time.Hour)
	w := loaded(t, bounded(binding(t, "b1", "u1", "ml1"), access.Policy{Locked: true, LockReason: "first"}), second)
	if g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err != nil || g.Binding != "b2" {
		t.Errorf("%+v, %v", g, err)
	}
	w.put(bounded(second, access.Policy{Locked: true, LockReason: "second"}))
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("the oldest should say why: %v", err)
	}
}

func TestPolicyRevokes(t *testing.T) {
	b1 := binding(t, "b1", "u1", "ml1")
	from := func(r ...string) access.Policy { return access.Policy{AllowedSourceRanges: r} }
	for _, tc := range []struct {
		name   string
		old    access.Policy
		change func(*world)
		want   []string
	}{
		{"binding locked", access.Policy{}, func(w *world) { w.put(bounded(b1, access.Policy{Locked: true, LockReason: "why"})) }, []string{`u1: binding "b1" is locked: why`}},
		{"cluster locked", access.Policy{}, func(w *world) { w.putCluster(t, access.Policy{Locked: true}) }, []string{"u1: cluster c1 is locked", "u2: cluster c1 is locked"}},
		{"locked twice", access.Policy{}, func(w *world) {
			w.put(bounded(b1, access.Policy{Locked: true}))
			w.put(bounded(b1, access.Policy{Locked: true, LockReason: "more is known"}))
		}, []string{`u1: binding "b1" is locked`}},
		{"locked again", access.Policy{}, func(w *world) {
			w.put(bounded(b1, access.Policy{Locked: true}))
			w.put(b1)
			w.put(bounded(b1, access.Policy{Locked: true}))
		}, []string{`u1: binding "b1" is locked`, `u1: binding "b1" is locked`}},
		{"an end in the past", access.Policy{}, func(w *world) { w.put(bounded(b1, access.Policy{ExpiresOn: start})) }, []string{`u1: access to binding "b1" expired on 2026-11-21T12:00:00Z`}},
		{"an end in the future", access.Policy{}, func(w *world) { w.put(bounded(b1, access.Policy{ExpiresOn: start.Add(1)})) }, nil},
		{"ranges given", access.Policy{}, func(w *world) { w.put(bounded(b1, from("10.0.0.0/8"))) }, []string{"u1: the binding's allowed source ranges were narrowed"}},
		{"a range less", from("10.0.0.0/8", "192.0.2.1"), func(w *world) { w.put(bounded(b1, from("192.0.2.1"))) }, []string{"u1: the binding's allowed source ranges were narrowed"}},
		{"a range more", from("10.0.0.0/8"), func(w *world) { w.put(bounded(b1, from("192.0.2.1", "10.0.0.0/8"))) }, nil},
		{"cluster's ranges given", access.Policy{}, func(w *world) { w.putCluster(t, from("10.0.0.0/8")) },
			[]string{"u1: the allowed source ranges of cluster c1 were narrowed", "u2: the allowed source ranges of cluster c1 were narrowed"}},
		{"unlocked", access.Policy{Locked: true}, func(w *world) { w.put(b1) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := loaded(t, bounded(b1, tc.old), binding(t, "b2", "u2", "ml2"))
			w.revoked = nil
			tc.change(w)
			w.wantRevoked(t, tc.want...)
		})
	}
}

// A lock is acknowledged when what was live under it is cut, and not before.
func TestWaitForClusters(t *testing.T) {
	w := loaded(t, binding(t, "b1", "u1", "ml1"))
	c := cluster(t, "c1", "uid-c1", 1)
	c.Policy.Locked = true
	done := make(chan error)
	go func() { done <- w.WaitForClusters(t.Context(), 7) }()
	w.bindings(authorize.Update[access.RoleBinding]{Revision: 9}) // another kind proves nothing
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{c}, Revision: 7})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.wantRevoked(t, "u1: cluster c1 is locked")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.WaitForClusters(ctx, 8); !errors.Is(err, access.ErrUnavailable) {
		t.Error(err)
	}
}

func TestRunCutsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type cut struct {
			uid string
			at  time.Duration
		}
		began := time.Now()
		cuts := make(chan cut, 10)
		x := authorize.NewIndex(authorize.Config{
			Revoked: func(uid, _ string) { cuts <- cut{uid, time.Since(began)} },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- x.Run(ctx) }()
		synctest.Wait() // it has nothing to wait for yet

		put := func(b access.RoleBinding) {
			x.UpdateBindings(authorize.Update[access.RoleBinding]{Changed: []access.RoleBinding{b}, AsOf: time.Now()})
		}
		c := cluster(t, "c1", "uid-c1", 1)
		x.UpdateClusters(authorize.Update[access.Cluster]{Reset: true, Changed: []access.Cluster{c}, AsOf: time.Now()})
		for i, after := range []time.Duration{time.Hour, 90 * time.Minute, 0} {
			b := binding(t, fmt.Sprint("b", i), fmt.Sprint("u", i), "ml1")
			if after != 0 {
				b.Policy.ExpiresOn = began.Add(after)
			}
			put(b)
		}
		// u1's end is put off while it is waited for, the cluster's comes in between.
		time.Sleep(30 * time.Minute)
		later := binding(t, "b1", "u1", "ml1")
		later.Policy.ExpiresOn = began.Add(5 * time.Hour)
		put(later)
		if got := <-cuts; got != (cut{"u0", time.Hour}) {
			t.Errorf("first: %v", got)
		}
		c.Policy.ExpiresOn = began.Add(3 * time.Hour)
		x.UpdateClusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{c}, AsOf: time.Now()})
		got := map[cut]bool{<-cuts: true, <-cuts: true}
		if !got[cut{"u1", 3 * time.Hour}] || !got[cut{"u2", 3 * time.Hour}] {
			t.Errorf("with the cluster: %v", got)
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if len(cuts) != 0 {
			t.Errorf("cut again: %v", <-cuts)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
