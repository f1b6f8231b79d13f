package authorize

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Update is a change of the store's records of one kind: changed and deleted
// ones, or with Reset the whole state. An empty update is a proof of progress.
type Update[T any] struct {
	Reset    bool
	Changed  []T
	Deleted  []string // keys
	Revision int64
	AsOf     time.Time // when this was known to be current
}

// isProof tells of an update that changes nothing.
func (u Update[T]) isProof() bool { return !u.Reset && len(u.Changed) == 0 && len(u.Deleted) == 0 }

// UpdateClusters takes an update of the store's clusters.
func (x *Index) UpdateClusters(u Update[access.Cluster]) {
	gone, revoked := x.applyClusters(u)
	for _, g := range gone {
		x.cfg.ClusterGone(g.uid, g.generation)
	}
	x.revoke(revoked)
	if !u.isProof() {
		x.boundsChanged()
	}
	x.hear(func() {
		x.heard.clusters = u.AsOf
		x.advanceLocked(&x.revisions.clusters, u.Revision)
	})
}

// clusterGone says whose agents must go.
type clusterGone struct {
	uid        string
	generation int64
}

// maxGeneration is above every generation: all agents of the cluster must go.
const maxGeneration = int64(^uint64(0) >> 1)

func (x *Index) applyClusters(u Update[access.Cluster]) (gone []clusterGone, revoked []revocation) {
	x.mu.Lock()
	defer x.mu.Unlock()
	deleted := u.Deleted
	if u.Reset {
		deleted = append(deleted, missing(x.clusters, u.Changed, func(c access.Cluster) string { return c.ID.Key() })...)
	}
	for _, key := range deleted {
		if old, ok := x.clusters[key]; ok {
			delete(x.clusters, key)
			delete(x.allowed, key)
			delete(x.generations, old.UID)
			delete(x.byUID, strings.ToLower(old.UID))
			gone = append(gone, clusterGone{old.UID, maxGeneration})
		}
	}
	for _, c := range u.Changed {
		key := c.ID.Key()
		if old, ok := x.clusters[key]; ok {
			switch {
			case old.UID != c.UID:
				delete(x.generations, old.UID)
				delete(x.byUID, strings.ToLower(old.UID))
				gone = append(gone, clusterGone{old.UID, maxGeneration})
			case old.Generation < c.Generation:
				gone = append(gone, clusterGone{c.UID, c.Generation})
			}
			if old.UID == c.UID && c.Policy.NarrowsFrom(old.Policy) {
				revoked = append(revoked, x.narrowedLocked(c)...)
			}
		}
		x.clusters[key] = c
		x.generations[c.UID] = c.Generation
		x.byUID[strings.ToLower(c.UID)] = key
		x.allowLocked(key, c.Policy)
	}
	return gone, revoked
}

// UpdateResources takes an update of the store's resources: the sources whose
// identities this server vouches for.
func (x *Index) UpdateResources(u Update[access.Resource]) {
	revoked := x.applyResources(u)
	for _, uid := range revoked {
		x.cfg.Revoked(uid, "its source was deleted")
	}
	x.hear(func() { x.heard.resources = u.AsOf })
}

func (x *Index) applyResources(u Update[access.Resource]) (revoked []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	deleted := u.Deleted
	if u.Reset {
		deleted = append(deleted, missing(x.identities, u.Changed, func(r access.Resource) string { return r.ID.Key() })...)
	}
	lost := map[string]access.ResourceID{} // by key, whose identity is another now
	for _, key := range deleted {
		lost[key] = x.identities[key].id
		delete(x.identities, key)
	}
	for _, r := range u.Changed {
		key, now := r.ID.Key(), identity{id: r.ID}
		if r.Identity != nil {
			now.oid = r.Identity.ObjectID
		}
		if old := x.identities[key]; old.oid != now.oid {
			lost[key] = r.ID
			if old.oid == "" { // it can have acted by no wide binding
				lost[key] = access.ResourceID{}
			}
		}
		x.identities[key] = now
	}
	if len(lost) == 0 {
		return nil
	}
	for _, b := range x.bindings {
		if x.lostLocked(b.RoleBinding, lost) {
			revoked = append(revoked, b.UID)
		}
	}
	return revoked
}

// lostLocked reports whether requests of the binding may be of a source whose
// identity is gone. Those of a wide binding are cut all together: the others
// are admitted again at once.
func (x *Index) lostLocked(b access.RoleBinding, lost map[string]access.ResourceID) bool {
	if b.Wide() {
		for _, id := range lost {
			if !id.IsZero() && b.ConsentsTo(id) {
				return true
			}
		}
		return false
	}
	key := b.Source.Key()
	_, ok := lost[key]
	return ok && b.SourceOID != "" && !strings.EqualFold(b.SourceOID, x.identities[key].oid)
}

// UpdateBindings takes an update of the store's bindings.
func (x *Index) UpdateBindings(u Update[access.RoleBinding]) {
	x.revoke(x.applyBindings(u))
	if !u.isProof() {
		x.boundsChanged()
	}
	x.hear(func() {
		x.heard.bindings = u.AsOf
		x.advanceLocked(&x.revisions.bindings, u.Revision)
	})
}

// advanceLocked notes that one kind is known up to a revision.
func (x *Index) advanceLocked(have *int64, revision int64) {
	if revision > *have {
		*have = revision
		close(x.advanced)
		x.advanced = make(chan struct{})
	}
}

// hear notes, under the lock, that one kind was heard of.
func (x *Index) hear(note func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	note()
	if !x.isLoaded() && !x.heard.clusters.IsZero() && !x.heard.bindings.IsZero() && !x.heard.resources.IsZero() {
		close(x.loaded)
	}
}

// revocation says whose requests must end, and why.
type revocation struct{ uid, cause string }

// revoke is called without a lock held.
func (x *Index) revoke(revoked []revocation) {
	for _, r := range revoked {
		x.cfg.Revoked(r.uid, r.cause)
	}
}

func (x *Index) applyBindings(u Update[access.RoleBinding]) (revoked []revocation) {
	x.mu.Lock()
	defer x.mu.Unlock()
	deleted := u.Deleted
	if u.Reset {
		deleted = append(deleted, missing(x.bindings, u.Changed, func(b access.RoleBinding) string { return b.ID.Key() })...)
	}
	for _, key := range deleted {
		if old, ok := x.bindings[key]; ok {
			x.removeLocked(key)
			revoked = append(revoked, revocation{old.UID, "binding deleted"})
		}
	}
	for _, b := range u.Changed {
		if r := x.putLocked(b); r.uid != "" {
			revoked = append(revoked, r)
		}
	}
	return revoked
}

// putLocked enters a binding and returns whose requests must end for it.
func (x *Index) putLocked(b access.RoleBinding) revocation {
	key := b.ID.Key()
	old, known := x.bindings[key]
	next := entry{RoleBinding: b, unknown: b.Applied.Retired != 0}
	if known && old.UID == b.UID {
		next.usable, next.unknown = old.usable, old.unknown
	}
	narrowed := false
	if b.Applied.Retired == b.Generation {
		narrowed = known && next.unknown || len(lacking(b.Roles, next.usable)) > 0
		next.usable, next.unknown = b.Roles, false
	} else {
		next.usable = slices.Concat(next.usable, lacking(next.usable, b.Roles))
	}
	if known {
		x.removeLocked(key)
	}
	x.bindings[key] = next
	x.allowLocked(key, b.Policy)
	sk := sourceKey{b.Cluster().Key(), b.Source.Key()}
	x.bySource[sk] = append(x.bySource[sk], key)
	slices.SortFunc(x.bySource[sk], func(a, b string) int {
		return cmp.Or(x.bindings[a].Created.Compare(x.bindings[b].Created), cmp.Compare(a, b))
	})
	switch {
	case known && old.UID != b.UID:
		return revocation{old.UID, "binding deleted"}
	case b.State == access.Deleting:
		return revocation{b.UID, "binding deleted"}
	case narrowed:
		return revocation{b.UID, "a role was removed from the binding"}
	case known && b.Policy.NarrowsFrom(old.Policy):
		return revocation{b.UID, "the binding's allowed source ranges were narrowed"}
	}
	return revocation{}
}

// lacking returns the roles of want that are not among have.
func lacking(have, want []string) []string {
	var out []string
	for _, role := range want {
		if !slices.ContainsFunc(have, func(r string) bool { return strings.EqualFold(r, role) }) {
			out = append(out, role)
		}
	}
	return out
}

func (x *Index) removeLocked(key string) {
	old := x.bindings[key]
	delete(x.bindings, key)
	delete(x.allowed, key)
	sk := sourceKey{old.Cluster().Key(), old.Source.Key()}
	x.bySource[sk] = slices.DeleteFunc(x.bySource[sk], func(k string) bool { return k == key })
	if len(x.bySource[sk]) == 0 {
		delete(x.bySource, sk)
	}
}

// missing returns the keys of have that are not among now.
func missing[T, U any](have map[string]T, now []U, key func(U) string) []string {
	keep := make(map[string]bool, len(now))
	for _, v := range now {
		keep[key(v)] = true
	}
	var gone []string
	for k := range have {
		if !keep[k] {
			gone = append(gone, k)
		}
	}
	return gone
}
