package store_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	storetest.Main(m)
}

func TestEmbedded(t *testing.T) {
	storetest.Suite(t, func(t *testing.T) *store.Store { return storetest.New(t) })
}

func TestExternal(t *testing.T) {
	storetest.Suite(t, storetest.External(t))
}

func TestConfig(t *testing.T) {
	secure := &tls.Config{}
	for name, cfg := range map[string]store.Config{
		"nothing":                {},
		"both":                   {Dir: t.TempDir(), Endpoints: []string{"http://127.0.0.1:1"}},
		"prefix without slashes": {Dir: t.TempDir(), Prefix: "x"},
		"prefix of one slash":    {Dir: t.TempDir(), Prefix: "/"},
		"prefix with a space":    {Dir: t.TempDir(), Prefix: "/a b/"},
		"clear text to a host":   {Endpoints: []string{"http://10.0.0.5:2379"}},
		"clear text to a name":   {Endpoints: []string{"http://localhost:2379"}},
		"https without TLS":      {Endpoints: []string{"https://10.0.0.5:2379"}},
		"http beside TLS":        {Endpoints: []string{"https://10.0.0.5:2379", "http://127.0.0.1:2379"}, TLS: secure},
		"no scheme":              {Endpoints: []string{"10.0.0.5:2379"}, TLS: secure},
		"unix":                   {Endpoints: []string{"unix://x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(t.Context(), cfg)
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v, want ErrInvalid", err)
			}
			if s != nil {
				s.Close()
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := store.Open(ctx, store.Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var log bytes.Buffer
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	version, err := s.Tenants.Put(t.Context(), store.Tenant{ID: "t"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %v, %v; want 0700", info.Mode().Perm(), err)
	}
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second open: %v, want ErrUnavailable naming the folder", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	item, err := s.Tenants.Get(t.Context(), "t")
	if err != nil || item.Version != version {
		t.Errorf("after reopening: version %d, %v; want %d", item.Version, err, version)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "level=INFO") {
		t.Errorf("etcd narrates: %s", log.String())
	}
}

// TestCompacted writes and compacts between the list and the watch, so that
// the watch begins at a revision that is gone.
func TestCompacted(t *testing.T) {
	external := storetest.External(t)
	for name, s := range map[string]*store.Store{"embedded": storetest.New(t), "external": external(t)} {
		t.Run(name, func(t *testing.T) {
			add := func(id string) int64 {
				version, err := s.Tenants.Put(t.Context(), store.Tenant{ID: id}, 0)
				if err != nil {
					t.Error(err)
				}
				return version
			}
			gone := add("gone")
			var once sync.Once
			fd := storetest.FollowIn(t, s.Tenants, "", func(store.Update[store.Tenant]) {
				once.Do(func() {
					add("a")
					if err := s.Tenants.Delete(t.Context(), "gone", gone); err != nil {
						t.Error(err)
					}
					if _, err := store.Client(s).Compact(t.Context(), add("b")); err != nil {
						t.Error(err)
					}
				})
			})
			resets := 0
			fd.Until("second reset", func(u store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
				if u.Reset {
					resets++
				}
				_, stale := state["gone"]
				return resets == 2 && len(state) == 2 && !stale
			})
			// A watch that is up to date is not disturbed by a compaction.
			last := add("c")
			fd.Until("c", func(_ store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
				return len(state) == 3
			})
			if _, err := store.Client(s).Compact(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			add("d")
			fd.Until("d", func(u store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
				if u.Reset {
					t.Error("reset for nothing")
				}
				return len(state) == 4
			})
		})
	}
}

// TestUnreadable is about a record that was not written by this program: a
// list names it, a follower takes it as deleted.
func TestUnreadable(t *testing.T) {
	s := storetest.New(t)
	if _, err := s.Tenants.Put(t.Context(), store.Tenant{ID: "t"}, 0); err != nil {
		t.Fatal(err)
	}
	fd := storetest.FollowIn(t, s.Tenants, "", nil)
	fd.Until("t", func(_ store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
		return len(state) == 1
	})
	if _, err := store.Client(s).Put(t.Context(), store.Prefix(s)+"tenants/t", "{"); err != nil {
		t.Fatal(err)
	}
	fd.Until("t is gone", func(_ store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
		return len(state) == 0
	})
	if _, _, err := s.Tenants.List(t.Context(), ""); err == nil || !strings.Contains(err.Error(), `tenant "t"`) {
		t.Errorf("list: %v, want an error that names the record", err)
	}
	fresh := storetest.FollowIn(t, s.Tenants, "", nil)
	fresh.Until("reset without t", func(u store.Update[store.Tenant], state map[string]store.Item[store.Tenant]) bool {
		return u.Reset && len(state) == 0
	})
}

// TestNoSpace fills the quota: the error says what to do, and doing it helps.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	small, err := store.OpenSmall(t.Context(), dir, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	filler := access.Cluster{ID: storetest.ClusterID(t, "c1"), Document: bytes.Repeat([]byte("x"), 1<<19)}
	var version int64
	for range 50 {
		next, perr := small.Clusters.Put(t.Context(), filler, version)
		if err = perr; err != nil {
			break
		}
		version = next
	}
	if !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "quota") {
		t.Fatalf("error is %v, want ErrUnavailable that names the quota", err)
	}
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	small, err = store.OpenSmall(t.Context(), dir, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	held, err := small.Clusters.Get(t.Context(), filler.ID.Key()) // the refused write may have been made
	if err != nil || held.Version < version {
		t.Fatalf("version %d, %v; want at least %d", held.Version, err, version)
	}
	if _, err := small.Clusters.Put(t.Context(), filler, held.Version); err != nil {
		t.Errorf("after a restart, which frees space: %v", err)
	}
}

// TestNoListener counts the process's sockets: the in-process server has none.
func TestNoListener(t *testing.T) {
	sockets := func() (n int) {
		t.Helper()
		fds, err := filepath.Glob("/proc/self/fd/*")
		if err != nil || len(fds) == 0 {
			t.Skip("no /proc to look in")
		}
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	before := sockets()
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if after := sockets(); after > before {
		t.Errorf("%d sockets before opening, %d after", before, after)
	}
}

// TestLayout pins how keys look in etcd: they outlive the program. Package
// keyring pins how values do.
func TestLayout(t *testing.T) {
	s := storetest.New(t)
	cluster := access.Cluster{ID: storetest.ClusterID(t, "C1"), Document: []byte(`{"a":1}`)}
	if _, err := s.Clusters.Put(t.Context(), cluster, 0); err != nil {
		t.Fatal(err)
	}
	resp, err := store.Client(s).Get(t.Context(), store.Prefix(s), clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	if got, want := string(resp.Kvs[0].Key), store.Prefix(s)+"clusters"+cluster.ID.Key(); got != want {
		t.Errorf("key is %q, want %q", got, want)
	}
	if id, ok := keyring.KeyOf(resp.Kvs[0].Value); !ok {
		t.Errorf("value %q is not sealed (key %q)", resp.Kvs[0].Value, id)
	}
}
