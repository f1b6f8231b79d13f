package authorize

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
)

// Config configures an [Index].
type Config struct {
	// MaxAge is how long the index may go without hearing from the store
	// before it refuses. Default 5 s.
	MaxAge time.Duration
	// Revoked is called when requests of a binding must end: it was deleted,
	// re-created, or narrowed and the cluster has lost the role, its source was
	// deleted, or a policy locks it, has let it expire or narrows where it is
	// used from. It is called without a lock held, in the order of updates, and
	// before [Index.WaitFor] returns for them.
	Revoked func(bindingUID, cause string)
	// ClusterGone is called with the uid of a cluster that is no longer
	// registered, or whose enrolment rose to generation; agents below it must
	// go. It is called as Revoked is.
	ClusterGone func(clusterUID string, generation int64)
	// Ranges makes of a policy's allowed source ranges what an address is held
	// against. If it is nil or fails, no address is in the ranges.
	Ranges func(ranges []string) (Set, error)
	// SubscriptionWide lets bindings serve that consent to every resource of a
	// type in the subscription. Without it they admit nobody.
	SubscriptionWide bool
	// Now is the clock; default [time.Now].
	Now func() time.Time
	// Metrics takes the index's metrics; nil shows them to nobody.
	Metrics prometheus.Registerer
}

// Index answers from memory who may act where. It is safe for concurrent use.
type Index struct {
	cfg Config

	mu          sync.RWMutex
	clusters    map[string]access.Cluster // by cluster key
	byUID       map[string]string         // cluster keys, by cluster uid in lower case
	generations map[string]int64          // of the enrolment, by cluster uid
	bindings    map[string]entry          // by binding key
	bySource    map[sourceKey][]string    // binding keys, oldest first
	identities  map[string]identity       // of each resource, by resource key
	allowed     map[string]Set            // of policies with source ranges, by cluster or binding key
	heard       struct{ clusters, bindings, resources time.Time }
	revisions   struct{ clusters, bindings int64 }
	advanced    chan struct{} // closed and replaced when a revision advances
	loaded      chan struct{} // closed when every kind has been heard once

	bounds bounds
}

type entry struct {
	access.RoleBinding
	// usable are the roles that live requests may be using: those of the
	// generation last known to have retired the others, and those of every
	// generation since, which the cluster may have applied in part. A
	// generation that lacks one of them has narrowed the grant once it has
	// retired them, also when it never comes into force.
	usable []string
	// unknown is set when the index first saw the binding between two
	// generations, and so cannot say which roles the earlier one gave.
	unknown bool
}

type sourceKey struct{ cluster, source string }

// identity is a resource of the directory, and whom it acts as: oid is "" if it
// has no identity.
type identity struct {
	id  access.ResourceID
	oid string
}

// NewIndex returns an index that refuses everything until both watches have
// delivered their first state.
func NewIndex(cfg Config) *Index {
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ranges == nil {
		cfg.Ranges = func([]string) (Set, error) { return nothing{}, nil }
	}
	if cfg.Revoked == nil {
		cfg.Revoked = func(string, string) {}
	}
	if cfg.ClusterGone == nil {
		cfg.ClusterGone = func(string, int64) {}
	}
	x := &Index{
		cfg:         cfg,
		clusters:    map[string]access.Cluster{},
		byUID:       map[string]string{},
		generations: map[string]int64{},
		bindings:    map[string]entry{},
		bySource:    map[sourceKey][]string{},
		identities:  map[string]identity{},
		allowed:     map[string]Set{},
		bounds:      newBounds(),
		loaded:      make(chan struct{}),
		advanced:    make(chan struct{}),
	}
	registerMetrics(cfg.Metrics, x)
	return x
}

// Grant decides whether p may act in the cluster from an address; the zero one
// is in no range. Its error wraps [access.ErrUnavailable] when the index cannot
// prove it is current, [access.ErrNotFound] for an unknown cluster,
// [access.ErrUnauthenticated] for a token of another tenant and
// [access.ErrForbidden] without a binding that admits it.
func (x *Index) Grant(p access.Principal, cluster access.ResourceID, from netip.Addr) (access.Grant, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := x.freshLocked(); err != nil {
		return access.Grant{}, err
	}
	c, ok := x.clusters[cluster.Key()]
	if !ok {
		return access.Grant{}, fmt.Errorf("cluster %s is not registered here: %w", cluster, access.ErrNotFound)
	}
	if !strings.EqualFold(p.TenantID, c.TenantID) {
		return access.Grant{}, fmt.Errorf("wrong tenant: the token is of tenant %q, the cluster's subscription belongs to %q: %w", p.TenantID, c.TenantID, access.ErrUnauthenticated)
	}
	if p.Resource.IsZero() {
		return access.Grant{}, fmt.Errorf("the token names no source resource: %w", access.ErrUnauthenticated)
	}
	replaced, waiting := "", ""
	var bounded error // why the oldest binding in force does not admit
	for _, key := range x.namingLocked(cluster, p.Resource) {
		b := x.bindings[key]
		if b.State == access.Deleting {
			continue
		}
		source, oid := b.Source, b.SourceOID
		if b.Wide() { // whom it admits is who is in the directory now
			known := x.identities[p.Resource.Key()]
			if known.oid == "" {
				bounded = cmp.Or(bounded, fmt.Errorf("binding %q is for all sources of the subscription that the directory knows, and %s is not among them: %w", b.Name(), p.Resource, access.ErrForbidden))
				continue
			}
			source, oid = known.id, known.oid
		}
		if oid != "" && !strings.EqualFold(oid, p.ObjectID) {
			replaced = b.Name()
			continue
		}
		// A deleted source's last token would be good for another day.
		if oid != "" && !strings.EqualFold(oid, x.identities[source.Key()].oid) {
			return access.Grant{}, fmt.Errorf("the source %s of binding %q was deleted: %w", source, b.Name(), access.ErrForbidden)
		}
		if b.Applied.Generation == 0 {
			waiting = b.Name()
			continue
		}
		if err := x.admitsLocked(c, b.RoleBinding, from); err != nil {
			bounded = cmp.Or(bounded, err)
			continue
		}
		return access.Grant{Cluster: c.ID, ClusterUID: c.UID, Binding: b.Name(), BindingUID: b.UID, Source: source, SourceOID: oid, From: from, Roles: b.Roles}, nil
	}
	if bounded != nil {
		return access.Grant{}, bounded
	}
	if waiting != "" {
		return access.Grant{}, fmt.Errorf("binding %q is consented to, but the agent of cluster %s has not put it in force yet: %w", waiting, c.ID.Name(), access.ErrUnavailable)
	}
	if replaced != "" {
		return access.Grant{}, fmt.Errorf("binding %q was given to an earlier identity of %s, not to object id %s; its owner must consent again: %w", replaced, p.Resource, p.ObjectID, access.ErrForbidden)
	}
	return access.Grant{}, fmt.Errorf("no trusted access role binding of cluster %s names the source %s: %w", c.ID.Name(), p.Resource, access.ErrForbidden)
}

// namingLocked returns the keys of the cluster's bindings that consent to a
// source, oldest first: those that name it, and then those that name all of its
// type in the subscription.
func (x *Index) namingLocked(cluster, source access.ResourceID) []string {
	keys := x.bySource[sourceKey{cluster.Key(), source.Key()}]
	if !x.cfg.SubscriptionWide {
		return keys
	}
	all := slices.Clone(keys)
	for _, key := range x.bySource[sourceKey{cluster.Key(), "/subscriptions/" + strings.ToLower(source.Subscription())}] {
		if x.bindings[key].ConsentsTo(source) {
			all = append(all, key)
		}
	}
	return all
}

// Holds reports whether a grant given earlier still stands. The error is nil
// or as that of [Index.Grant].
func (x *Index) Holds(g access.Grant) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := x.freshLocked(); err != nil {
		return err
	}
	c, ok := x.clusters[g.Cluster.Key()]
	if !ok || c.UID != g.ClusterUID {
		return fmt.Errorf("cluster %s is no longer registered as it was: %w", g.Cluster.Name(), access.ErrForbidden)
	}
	key := g.Cluster.Key() + "/trustedaccessrolebindings/" + strings.ToLower(g.Binding)
	b, ok := x.bindings[key]
	if !ok || b.UID != g.BindingUID || b.State == access.Deleting {
		return fmt.Errorf("trusted access role binding %q was withdrawn: %w", g.Binding, access.ErrForbidden)
	}
	// Between the grant and here its request was not yet there to be cut.
	if g.SourceOID != "" && !strings.EqualFold(g.SourceOID, x.identities[g.Source.Key()].oid) {
		return fmt.Errorf("the source %s of binding %q was deleted: %w", g.Source, g.Binding, access.ErrForbidden)
	}
	return x.admitsLocked(c, b.RoleBinding, g.From)
}

func (x *Index) freshLocked() error {
	if !x.isLoaded() {
		return fmt.Errorf("the index of bindings is not loaded yet: %w", access.ErrUnavailable)
	}
	if age := x.cfg.Now().Sub(x.oldest()); age > x.cfg.MaxAge {
		return fmt.Errorf("the index of bindings was last proven current %s ago, more than %s: %w", age.Round(time.Millisecond), x.cfg.MaxAge, access.ErrUnavailable)
	}
	return nil
}

// Loaded is closed when the index has its first whole state.
func (x *Index) Loaded() <-chan struct{} { return x.loaded }

func (x *Index) isLoaded() bool {
	select {
	case <-x.loaded:
		return true
	default:
		return false
	}
}

// Fresh reports whether the index can answer now.
func (x *Index) Fresh() error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.freshLocked()
}

// WaitFor returns once the index holds every change of bindings up to the
// store's revision, so that a deletion is acknowledged only when it is in
// force here. Deleting a cluster deletes its bindings in the same transaction.
func (x *Index) WaitFor(ctx context.Context, revision int64) error {
	return x.waitFor(ctx, revision, &x.revisions.bindings)
}

// WaitForClusters is WaitFor for the changes of clusters.
func (x *Index) WaitForClusters(ctx context.Context, revision int64) error {
	return x.waitFor(ctx, revision, &x.revisions.clusters)
}

func (x *Index) waitFor(ctx context.Context, revision int64, have *int64) error {
	for {
		x.mu.RLock()
		reached := *have >= revision
		advanced := x.advanced
		x.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d at the gateway: %w: %w", revision, context.Cause(ctx), access.ErrUnavailable)
		}
	}
}

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

// Agent reports whether an agent's certificate of that cluster uid and
// generation is still good. It answers from memory, so a handshake can ask,
// and from an index that may be stale: a refused handshake would cost an agent
// its certificate, and what a stale index admits is shut out by Grant.
func (x *Index) Agent(clusterUID string, generation int64) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.isLoaded() {
		return fmt.Errorf("the index of clusters is not loaded yet: %w", access.ErrUnavailable)
	}
	current, ok := x.generations[clusterUID]
	switch {
	case !ok:
		return fmt.Errorf("no cluster with uid %s is registered: %w", clusterUID, access.ErrForbidden)
	case generation != current:
		return fmt.Errorf("certificate of generation %d, the cluster's enrolment is %d: %w", generation, current, access.ErrForbidden)
	}
	return nil
}
