package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// TestOwnersOfOlderVersions: a data folder in which subscriptions keep their
// owners gets Owner assignments of them, once, also by a start that was killed
// after some of the subscriptions; and who lost the role since does not get it
// back.
func TestOwnersOfOlderVersions(t *testing.T) {
	const tenant, alice, bob = "99999999-9999-9999-9999-999999999999", "aaaaaaaa-0000-0000-0000-000000000001", "bbbbbbbb-0000-0000-0000-000000000002"
	id := func(text string) access.ResourceID {
		t.Helper()
		id, err := access.ParseResourceID(text)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first, second := id("/subscriptions/11111111-1111-1111-1111-111111111111"), id("/subscriptions/22222222-2222-2222-2222-222222222222")
	dir := filepath.Join(t.TempDir(), "etcd")
	open := func(work func(*server)) {
		t.Helper()
		st, err := store.Open(t.Context(), store.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		work(&server{store: st, log: slog.New(slog.DiscardHandler)})
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	start := func(s *server) {
		t.Helper()
		if err := s.assignOwners(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	owners := func(s *server, sub access.ResourceID) map[string]int {
		t.Helper()
		assignments, err := s.store.RoleAssignmentsAt(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, a := range assignments {
			if a.Role != access.OwnerRole || a.TenantID != tenant || a.Created.IsZero() {
				t.Errorf("%+v", a)
			}
			count[a.PrincipalID]++
		}
		item, err := s.store.Subscriptions.Get(t.Context(), sub.Key())
		if err != nil || len(item.Value.Owners) > 0 && len(count) > 0 {
			t.Errorf("%v, %+v: it has owners in both ways", err, item.Value)
		}
		return count
	}
	older := func(s *server, sub access.ResourceID, objectIDs ...string) {
		t.Helper()
		record := access.Subscription{ID: sub, DisplayName: "Old", TenantID: tenant, Created: time.Now()}
		for _, objectID := range objectIDs {
			record.Owners = append(record.Owners, access.Owner{TenantID: tenant, ObjectID: objectID})
		}
		if _, err := s.store.Subscriptions.Put(context.WithoutCancel(t.Context()), record, 0); err != nil {
			t.Fatal(err)
		}
	}

	// A start that was killed did the first and not the second.
	open(func(s *server) {
		older(s, first, alice, bob)
		start(s)
		older(s, second, alice, alice)
		if got := owners(s, first); len(got) != 2 || got[alice] != 1 || got[bob] != 1 {
			t.Errorf("the first: %v", got)
		}
		if got := owners(s, second); len(got) != 0 {
			t.Errorf("the second, before: %v", got)
		}
	})
	open(func(s *server) {
		start(s)
		if got := owners(s, first); len(got) != 2 || got[alice] != 1 || got[bob] != 1 {
			t.Errorf("the first, later: %v", got)
		}
		if got := owners(s, second); len(got) != 1 || got[alice] != 1 {
			t.Errorf("the second, in which one is there twice: %v", got)
		}
		items, _, err := s.store.RoleAssignments.List(t.Context(), store.AssignmentsAt(first))
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Value.PrincipalID == bob {
				if _, err := s.store.Commit(t.Context(), s.store.RoleAssignments.Deleting(item)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	open(func(s *server) {
		start(s)
		if got := owners(s, first); len(got) != 1 || got[alice] != 1 {
			t.Errorf("who lost the role: %v", got)
		}
	})
}
