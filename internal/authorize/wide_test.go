package authorize_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authorize"
)

// wide is a binding to every workspace of the subscription.
func wide(t testing.TB, name, uid string) access.RoleBinding {
	b := binding(t, name, uid, "ml1")
	b.Source = parse(t, subscription)
	return b
}

// everybody is a world that serves such bindings.
func everybody(t testing.TB, bindings ...access.RoleBinding) *world {
	w := empty()
	w.Index = authorize.NewIndex(authorize.Config{SubscriptionWide: true, Now: w.Now, Revoked: w.Revoked})
	w.clusters(authorize.Update[access.Cluster]{Reset: true, Changed: []access.Cluster{cluster(t, "c1", "uid-c1", 1)}})
	w.bindings(authorize.Update[access.RoleBinding]{Reset: true, Changed: bindings})
	w.resources(authorize.Update[access.Resource]{Reset: true, Changed: []access.Resource{resource(t, "ml1", "oid-1"), resource(t, "ML2", "oid-2")}})
	return w
}

// TestWide: whom a binding to all of a type admits, and as whom.
func TestWide(t *testing.T) {
	w := everybody(t, wide(t, "all", "u-all"))
	as := func(id, oid string) access.Principal {
		return access.Principal{TenantID: tenant, ObjectID: oid, Resource: parse(t, id)}
	}
	workspaces := group + "/providers/Microsoft.MachineLearningServices/workspaces/"
	for _, c := range []struct {
		name string
		p    access.Principal
		err  error
	}{
		{"one", as(workspaces+"ml1", "oid-1"), nil},
		{"another", as(workspaces+"ml2", "oid-2"), nil},
		{"of an earlier identity", as(workspaces+"ml1", "oid-0"), access.ErrForbidden},
		{"with another's identity", as(workspaces+"ml1", "oid-2"), access.ErrForbidden},
		{"that the directory does not know", as(workspaces+"ml3", "oid-3"), access.ErrForbidden},
		{"of another type", as(group+"/providers/Microsoft.DataProtection/backupVaults/ml1", "oid-1"), access.ErrForbidden},
		{"below one of the type", as(workspaces+"ml1/computes/x", "oid-1"), access.ErrForbidden},
		{"of another subscription", as(strings.Replace(workspaces, "11111111", "22222222", 1)+"ml1", "oid-1"), access.ErrForbidden},
	} {
		g, err := w.Grant(c.p, clusterID(t, "c1"), here)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("a source %s: %v, want %v", c.name, err, c.err)
		}
		if err == nil && (!g.Source.Equal(c.p.Resource) || g.SourceOID != c.p.ObjectID || g.Binding != "all") {
			t.Errorf("a source %s: %+v", c.name, g)
		}
	}
	// The source is claimed in the directory's casing, which is the agents'.
	if g, _ := w.Grant(as(workspaces+"ml2", "oid-2"), clusterID(t, "c1"), here); g.Source.String() != workspaces+"ML2" {
		t.Errorf("source %s", g.Source)
	}
}

// TestWideIsOff: without the setting they admit nobody.
func TestWideIsOff(t *testing.T) {
	w := loaded(t, wide(t, "all", "u-all"))
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("admitted: %v", err)
	}
}

// TestWideComesSecond: a binding that names the source speaks for it.
func TestWideComesSecond(t *testing.T) {
	named := binding(t, "named", "u-named", "ml1")
	named.Created = start.Add(1)
	w := everybody(t, wide(t, "all", "u-all"), named)
	if g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); err != nil || g.Binding != "named" {
		t.Errorf("%+v, %v", g, err)
	}
}

// TestWideSourceDeleted: what it was doing is cut, it is not admitted again,
// and nor is a request that was granted before and registered after.
func TestWideSourceDeleted(t *testing.T) {
	vaults := wide(t, "vaults", "u-vaults")
	vaults.Roles = []string{"Microsoft.DataProtection/backupVaults/backup-operator"}
	w := everybody(t, wide(t, "all", "u-all"), vaults)
	g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Holds(g); err != nil {
		t.Errorf("while it is there: %v", err)
	}
	w.resources(authorize.Update[access.Resource]{Changed: []access.Resource{resource(t, "new", "oid-new")}})
	w.wantRevoked(t)
	w.resources(authorize.Update[access.Resource]{Deleted: []string{workspace(t, "ml1").Key()}})
	w.wantRevoked(t, "u-all: its source was deleted")
	if err := w.Holds(g); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("granted before: %v", err)
	}
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("again: %v", err)
	}
	// Created again it is another, and may act: the consent is to all.
	w.resources(authorize.Update[access.Resource]{Changed: []access.Resource{resource(t, "ml1", "oid-9")}})
	if _, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("with the token of before: %v", err)
	}
}

// TestHoldsSourceDeleted is the same for a binding that names its source.
func TestHoldsSourceDeleted(t *testing.T) {
	b := binding(t, "b1", "u1", "ml1")
	b.SourceOID = "oid-1"
	w := loaded(t, b)
	g, err := w.Grant(caller(t, "ml1"), clusterID(t, "c1"), here)
	if err != nil {
		t.Fatal(err)
	}
	w.resources(authorize.Update[access.Resource]{Deleted: []string{workspace(t, "ml1").Key()}})
	if err := w.Holds(g); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("granted before: %v", err)
	}
}
