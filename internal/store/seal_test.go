package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// canary is in no file and in no value of etcd's but sealed.
const canary = "canary-51f0c2"

// vault is a folder with a store and, beside it, its key file.
type vault struct {
	t        *testing.T
	dir, key string
}

func newVault(t *testing.T) vault {
	dir := t.TempDir()
	return vault{t, filepath.Join(dir, "etcd"), filepath.Join(dir, "encryption.key")}
}

func (v vault) ring() *keyring.Ring {
	v.t.Helper()
	ring, err := keyring.Open(v.key)
	if err != nil {
		v.t.Fatal(err)
	}
	return ring
}

func (v vault) open(ring *keyring.Ring) *store.Store {
	v.t.Helper()
	s, err := store.Open(v.t.Context(), store.Config{Dir: v.dir, Keys: ring})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { s.Close() })
	return s
}

// refused opens, and wants an error that says all of that.
func (v vault) refused(ring *keyring.Ring, says ...string) {
	v.t.Helper()
	s, err := store.Open(v.t.Context(), store.Config{Dir: v.dir, Keys: ring})
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, access.ErrInvalid) {
		v.t.Fatalf("error is %v, want ErrInvalid", err)
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			v.t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func putTenants(t *testing.T, s *store.Store, n int) {
	t.Helper()
	for i := range n {
		if _, err := s.Tenants.Put(t.Context(), store.Tenant{ID: fmt.Sprintf("%s-%d", canary, i)}, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func wantTenants(t *testing.T, s *store.Store, n int) {
	t.Helper()
	items, _, err := s.Tenants.List(t.Context(), "")
	if err != nil || len(items) != n {
		t.Fatalf("%d tenants, %v, want %d", len(items), err, n)
	}
}

// underKey checks that all values in etcd are sealed under the ring's newest key.
func underKey(t *testing.T, s *store.Store, ring *keyring.Ring) {
	t.Helper()
	all, err := store.Client(s).Get(t.Context(), store.Prefix(s), clientv3.WithPrefix())
	if err != nil || len(all.Kvs) == 0 {
		t.Fatalf("%d records, %v", len(all.Kvs), err)
	}
	for _, kv := range all.Kvs {
		if id, _ := keyring.KeyOf(kv.Value); id != ring.Keys()[0].ID {
			t.Errorf("%s is under key %q, want %s", kv.Key, id, ring.Keys()[0].ID)
		}
	}
}

// TestSealed looks for a record's contents in every file of the store.
func TestSealed(t *testing.T) {
	v := newVault(t)
	s := v.open(v.ring())
	cluster := access.Cluster{ID: storetest.ClusterID(t, "c1"), Document: []byte(canary), Location: canary}
	if _, err := s.Clusters.Put(t.Context(), cluster, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("%s holds the record in the clear", path)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("looked into %d files, %v", files, err)
	}
	if info, err := os.Stat(v.key); err != nil || info.Mode() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info, err)
	}
}

// TestSealedMigrates is a store from before encryption.
func TestSealedMigrates(t *testing.T) {
	v := newVault(t)
	s := v.open(nil)
	putTenants(t, s, 150) // more than a page
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ring := v.ring()
	s = v.open(ring)
	wantTenants(t, s, 150)
	underKey(t, s, ring)
	if ring.AdmitsPlain() || v.ring().AdmitsPlain() {
		t.Error("the ring still admits what is not sealed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantTenants(t, v.open(v.ring()), 150)
}

// TestSealedInterrupted: a kill while the store is encrypted for the first
// time, or under a new key, costs nothing; the next start goes on.
func TestSealedInterrupted(t *testing.T) {
	v := newVault(t)
	s := v.open(nil)
	putTenants(t, s, 5)
	s.Close()
	ring := v.ring()
	if err := ring.Create(); err != nil { // and killed
		t.Fatal(err)
	}
	ring = v.ring()
	s = v.open(ring)
	underKey(t, s, ring)
	s.Close()
	if _, err := ring.Add(); err != nil { // and killed
		t.Fatal(err)
	}
	ring = v.ring()
	s = v.open(ring)
	wantTenants(t, s, 5)
	underKey(t, s, ring)
	if keys := ring.Keys(); len(keys) != 2 || keys[1].Retired.IsZero() {
		t.Errorf("keys are %v, want the older one retired", keys)
	}
}

// TestSealedRefuses: no key, another key, and a store whose marker is gone fail
// closed, change nothing, and say what to do.
func TestSealedRefuses(t *testing.T) {
	v := newVault(t)
	ring := v.ring()
	s := v.open(ring)
	putTenants(t, s, 3)
	s.Close()
	id := ring.Keys()[0].ID

	v.refused(nil, id, "--encryption-key-file")
	missing := vault{t, v.dir, v.key + ".gone"}
	missing.refused(missing.ring(), id, missing.key, "put back the copy")
	if _, err := os.Stat(missing.key); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a new key file was made beside a sealed store")
	}
	other := newVault(t)
	other.open(other.ring()).Close()
	wrong := vault{t, v.dir, other.key}
	wrong.refused(wrong.ring(), id, other.key, "is not the key file of these records")

	s = v.open(v.ring())
	wantTenants(t, s, 3)
	if _, err := store.Client(s).Delete(t.Context(), store.Prefix(s)+"sealed"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	v.refused(v.ring(), "somebody has written to its etcd")
}

// TestSealedForgery is somebody who can write to etcd and has no key: what he
// puts there is no record.
func TestSealedForgery(t *testing.T) {
	s := storetest.New(t)
	putTenants(t, s, 2)
	path := func(i int) string { return fmt.Sprintf("%stenants/%s-%d", store.Prefix(s), canary, i) }
	genuine, err := store.Client(s).Get(t.Context(), path(0))
	if err != nil {
		t.Fatal(err)
	}
	value := genuine.Kvs[0].Value
	altered := bytes.Clone(value)
	altered[len(altered)-1] ^= 1
	for name, forged := range map[string]string{
		"in the clear":   `{"id":"` + canary + `-1"}`,
		"of another key": string(value),
		"cut short":      string(value[:len(value)-1]),
		"altered":        string(altered),
	} {
		t.Run(name, func(t *testing.T) {
			to := path(1)
			if name == "altered" {
				to = path(0)
			}
			if _, err := store.Client(s).Put(t.Context(), to, forged); err != nil {
				t.Fatal(err)
			}
			if item, err := s.Tenants.Get(t.Context(), to[strings.LastIndex(to, "/")+1:]); err == nil {
				t.Errorf("it was read as %v", item)
			}
		})
	}
}

// TestRotateKey replaces the key under a load of writes, none of which may be
// lost, refused or left under the old key.
func TestRotateKey(t *testing.T) {
	v := newVault(t)
	ring := v.ring()
	s := v.open(ring)
	putTenants(t, s, 100)
	before := ring.Keys()[0].ID
	stop := make(chan struct{})
	var writers sync.WaitGroup
	written := make([]int, 4)
	for w := range written {
		writers.Go(func() {
			for ; ; written[w]++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Tenants.Put(t.Context(), store.Tenant{ID: fmt.Sprintf("w%d-%d", w, written[w])}, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	id, records, err := s.RotateKey(t.Context())
	close(stop)
	writers.Wait()
	if err != nil || id == before || records < 100 {
		t.Fatalf("RotateKey = %q, %d, %v", id, records, err)
	}
	total := 100
	for _, n := range written {
		total += n
	}
	wantTenants(t, s, total)
	underKey(t, s, ring)
	s.Close()
	s = v.open(v.ring())
	wantTenants(t, s, total)
	t.Logf("%d records under a new key, %d written meanwhile", records, total-100)
}
