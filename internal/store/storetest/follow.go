package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Followed is a running Follow of a test.
type Followed[T any] struct {
	t       testing.TB
	updates chan store.Update[T]
	state   map[string]store.Item[T] // as a consumer keeps it
	last    store.Update[T]
}

// FollowIn starts a Follow that ends with the test. hook, if any, is called
// with each update first, in Follow's goroutine.
func FollowIn[T any](t testing.TB, k store.Kind[T], prefix string, hook func(store.Update[T])) *Followed[T] {
	fd := &Followed[T]{t: t, updates: make(chan store.Update[T], 1000), state: map[string]store.Item[T]{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- k.Follow(ctx, prefix, func(u store.Update[T]) {
			if hook != nil {
				hook(u)
			}
			select {
			case fd.updates <- u:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("follow returned %v, want its context's error", err)
		}
	})
	return fd
}

// Until applies updates until ok says so, or fails after 20 s.
func (fd *Followed[T]) Until(what string, ok func(u store.Update[T], state map[string]store.Item[T]) bool) store.Update[T] {
	fd.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case u := <-fd.updates:
			fd.apply(u)
			if ok(u, fd.state) {
				return u
			}
		case <-deadline:
			fd.t.Fatalf("no update within 20 s: %s; state %v", what, fd.state)
		}
	}
}

func (fd *Followed[T]) apply(u store.Update[T]) {
	fd.t.Helper()
	if u.Revision < fd.last.Revision || u.AsOf.Before(fd.last.AsOf) {
		fd.t.Errorf("went back from revision %d as of %v to %d as of %v", fd.last.Revision, fd.last.AsOf, u.Revision, u.AsOf)
	}
	if u.Reset {
		clear(fd.state)
	}
	for _, item := range u.Changed {
		if item.Version <= fd.last.Revision && !u.Reset || item.Version > u.Revision {
			fd.t.Errorf("version %d is not between revisions %d and %d", item.Version, fd.last.Revision, u.Revision)
		}
		fd.state[item.Key] = item
	}
	for _, key := range u.Deleted {
		delete(fd.state, key)
	}
	fd.last = u
}

func follow(t *testing.T, s *store.Store) {
	ctx := t.Context()
	b1, b2, b3 := binding(t, "c1", "B1"), binding(t, "c1", "b2"), binding(t, "c10", "b3")
	first := put(t, s.Bindings, b1)
	fd := FollowIn(t, s.Bindings, ClusterID(t, "c1").Key()+"/", nil)
	u := fd.Until("the first", func(store.Update[access.RoleBinding], map[string]store.Item[access.RoleBinding]) bool { return true })
	if !u.Reset || len(u.Changed) != 1 || u.Changed[0].Version != first.Version || u.Changed[0].Key != b1.ID.Key() || u.Changed[0].Value.Name() != "B1" {
		t.Fatalf("first update = %+v", u)
	}
	put(t, s.Bindings, b3) // another cluster: not for this follower
	second := put(t, s.Bindings, b2)
	u = fd.Until("b2", func(u store.Update[access.RoleBinding], _ map[string]store.Item[access.RoleBinding]) bool {
		return len(u.Changed) > 0
	})
	if u.Reset || len(u.Changed) != 1 || u.Changed[0].Key != b2.ID.Key() || u.Revision < second.Version {
		t.Fatalf("update = %+v", u)
	}
	// Two changes in one commit come in one update.
	if _, err := s.Commit(ctx, s.Bindings.Deleting(first), s.Bindings.Updating(second, b2)); err != nil {
		t.Fatal(err)
	}
	u = fd.Until("delete", func(u store.Update[access.RoleBinding], _ map[string]store.Item[access.RoleBinding]) bool {
		return len(u.Deleted) > 0
	})
	if len(u.Deleted) != 1 || u.Deleted[0] != b1.ID.Key() || len(u.Changed) != 1 {
		t.Fatalf("update = %+v", u)
	}
	b1.UID = "uid-again"
	put(t, s.Bindings, b1)
	fd.Until("b1 again", func(_ store.Update[access.RoleBinding], state map[string]store.Item[access.RoleBinding]) bool {
		return state[b1.ID.Key()].Value.UID == "uid-again"
	})
}

// followOrder writes quickly, one record over and over and many once, and
// holds the follower to order and to having missed nothing whenever it claims
// so: the count as of a moment is at least what was acknowledged before it.
func followOrder(t *testing.T, s *store.Store) {
	const many = 300
	type ack struct {
		at    time.Time
		count int
	}
	var mu sync.Mutex
	acks := []ack{{time.Now(), 0}}
	fd := FollowIn(t, s.Tenants, "", nil)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range many {
			if _, err := s.Tenants.Put(t.Context(), store.Tenant{ID: fmt.Sprintf("t%04d", i)}, 0); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			acks = append(acks, ack{time.Now(), i + 1})
			mu.Unlock()
		}
	})
	fd.Until("all", func(u store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range slices.Backward(acks) {
			if a.at.Before(u.AsOf) {
				if len(state) < a.count {
					t.Errorf("as of %v the follower has %d, but %d were acknowledged at %v", u.AsOf, len(state), a.count, a.at)
				}
				break
			}
		}
		return len(state) == many && len(u.Changed) == 0
	})
	writer.Wait()
}

// followProgress is proof of progress on a quiet store, under writes to other
// kinds, and under writes outside the prefix.
func followProgress(t *testing.T, s *store.Store) {
	fd := FollowIn(t, s.Bindings, "", nil)
	var before time.Time
	progress := func(u store.Update[access.RoleBinding], _ map[string]store.Item[access.RoleBinding]) bool {
		ok := !u.Reset && len(u.Changed) == 0 && len(u.Deleted) == 0 && u.AsOf.After(before)
		return ok
	}
	for range 3 {
		u := fd.Until("progress on a quiet store", progress)
		before = u.AsOf
	}
	item := put(t, s.Tenants, store.Tenant{ID: "t"})
	before = time.Now()
	if u := fd.Until("progress past another kind's write", progress); u.Revision < item.Version {
		t.Errorf("progress at revision %d, want at least %d", u.Revision, item.Version)
	}
}

func followEnds(t *testing.T, s *store.Store) {
	part, err := s.Within("part")
	if err != nil {
		t.Fatal(err)
	}
	begun, done := make(chan bool, 100), make(chan error, 1)
	go func() {
		done <- part.Tenants.Follow(context.Background(), "", func(store.Update[store.Tenant]) {
			select {
			case begun <- true:
			default:
			}
		})
	}()
	<-begun
	if err := part.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, "follow of a closed store", <-done, access.ErrUnavailable)
	_, err = part.Tenants.Get(t.Context(), "t")
	want(t, "get of a closed store", err, access.ErrUnavailable)
	want(t, "follow after close", part.Tenants.Follow(t.Context(), "", nil), access.ErrUnavailable)
	if err := part.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
