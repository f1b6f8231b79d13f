package authorize_test

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authorize"
)

// A uid names the cluster that has it now, in any casing, and no other.
func TestClusterID(t *testing.T) {
	if _, err := empty().ClusterID("uid-c1"); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("before the index is loaded: %v", err)
	}
	w := loaded(t)
	want := func(uid, name string) {
		t.Helper()
		id, err := w.ClusterID(uid)
		if name == "" && !errors.Is(err, access.ErrNotFound) || name != "" && (err != nil || id.Name() != name) {
			t.Errorf("%s: %s, %v, want %q", uid, id, err, name)
		}
	}
	want("uid-c1", "c1")
	want("UID-C1", "c1")
	want("uid-c2", "")
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c1", "uid-new", 1)}})
	want("uid-c1", "") // registered anew
	want("uid-new", "c1")
	w.clusters(authorize.Update[access.Cluster]{Changed: []access.Cluster{cluster(t, "c2", "uid-c2", 1)}})
	want("uid-c2", "c2")
	w.clusters(authorize.Update[access.Cluster]{Deleted: []string{clusterID(t, "c1").Key()}})
	want("uid-new", "")
	w.clusters(authorize.Update[access.Cluster]{Reset: true})
	want("uid-c2", "")
}
