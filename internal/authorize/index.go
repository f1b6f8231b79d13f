package authorize

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Config configures an [Index].
type Config struct {
	// MaxAge is how long the index may go without hearing from the store
	// before it refuses. Default 5 s.
	MaxAge time.Duration
	// Revoked is called when requests of a binding must end: it was deleted,
	// re-created, or narrowed and the cluster has applied it. It must not
	// block and must not call the index.
	Revoked func(bindingUID, cause string)
	// ClusterGone is called with the uid of a cluster that is no longer
	// registered, or whose enrolment rose to generation; agents below it must
	// go. It must not block.
	ClusterGone func(clusterUID string, generation int64)
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// Index answers from memory who may act where. It is safe for concurrent use.
type Index struct {
	cfg Config

	mu          sync.RWMutex
	clusters    map[string]access.Cluster // by cluster key
	generations map[string]int64          // of the enrolment, by cluster uid
	bindings    map[string]entry          // by binding key
	bySource    map[sourceKey][]string    // binding keys, oldest first
	heard       struct{ clusters, bindings time.Time }
	revision    int64         // of the bindings
	advanced    chan struct{} // closed and replaced when the revision advances
}

type entry struct {
	access.RoleBinding
	// inForce are the roles last known to be applied. A later generation that
	// lacks one of them has narrowed the grant.
	inForce []string
}

type sourceKey struct{ cluster, source string }

// NewIndex returns an index that refuses everything until both watches have
// delivered their first state.
func NewIndex(cfg Config) *Index {
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Revoked == nil {
		cfg.Revoked = func(string, string) {}
	}
	if cfg.ClusterGone == nil {
		cfg.ClusterGone = func(string, int64) {}
	}
	return &Index{
		cfg:         cfg,
		clusters:    map[string]access.Cluster{},
		generations: map[string]int64{},
		bindings:    map[string]entry{},
		bySource:    map[sourceKey][]string{},
		advanced:    make(chan struct{}),
	}
}

// Grant decides whether p may act in the cluster. Its error wraps
// [access.ErrUnavailable] when the index cannot prove it is current,
// [access.ErrNotFound] for an unknown cluster, [access.ErrUnauthenticated] for
// a token of another tenant and [access.ErrForbidden] without a binding.
func (x *Index) Grant(p access.Principal, cluster access.ResourceID) (access.Grant, error) {
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
	replaced := ""
	for _, key := range x.bySource[sourceKey{cluster.Key(), p.Resource.Key()}] {
		b := x.bindings[key]
		if b.State == access.Deleting {
			continue
		}
		if b.SourceOID != "" && !strings.EqualFold(b.SourceOID, p.ObjectID) {
			replaced = b.Name()
			continue
		}
		return access.Grant{Cluster: c.ID, ClusterUID: c.UID, Binding: b.Name(), BindingUID: b.UID, Source: b.Source}, nil
	}
	if replaced != "" {
		return access.Grant{}, fmt.Errorf("binding %q was given to an earlier identity of %s, not to object id %s; its owner must consent again: %w", replaced, p.Resource, p.ObjectID, access.ErrForbidden)
	}
	return access.Grant{}, fmt.Errorf("no trusted access role binding of cluster %s names the source %s: %w", c.ID.Name(), p.Resource, access.ErrForbidden)
}

// Holds reports whether a grant given earlier still stands. The error is nil
// or as that of [Index.Grant].
func (x *Index) Holds(g access.Grant) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := x.freshLocked(); err != nil {
		return err
	}
	key := g.Cluster.Key() + "/trustedaccessrolebindings/" + strings.ToLower(g.Binding)
	b, ok := x.bindings[key]
	if !ok || b.UID != g.BindingUID || b.State == access.Deleting {
		return fmt.Errorf("trusted access role binding %q was withdrawn: %w", g.Binding, access.ErrForbidden)
	}
	return nil
}

func (x *Index) freshLocked() error {
	oldest := x.heard.clusters
	if x.heard.bindings.Before(oldest) {
		oldest = x.heard.bindings
	}
	if oldest.IsZero() {
		return fmt.Errorf("the index of bindings is not loaded yet: %w", access.ErrUnavailable)
	}
	if age := x.cfg.Now().Sub(oldest); age > x.cfg.MaxAge {
		return fmt.Errorf("the index of bindings was last proven current %s ago, more than %s: %w", age.Round(time.Millisecond), x.cfg.MaxAge, access.ErrUnavailable)
	}
	return nil
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
	for {
		x.mu.RLock()
		reached := x.revision >= revision
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

// UpdateClusters takes an update of the store's clusters.
func (x *Index) UpdateClusters(u Update[access.Cluster]) {
	changed, deleted := u.Changed, u.Deleted
	x.mu.Lock()
	defer x.mu.Unlock()
	if u.Reset {
		deleted = append(deleted, missing(x.clusters, changed, func(c access.Cluster) string { return c.ID.Key() })...)
	}
	for _, c := range changed {
		key := c.ID.Key()
		if old, ok := x.clusters[key]; ok {
			switch {
			case old.UID != c.UID:
				delete(x.generations, old.UID)
				x.cfg.ClusterGone(old.UID, maxGeneration)
			case old.Generation < c.Generation:
				x.cfg.ClusterGone(c.UID, c.Generation)
			}
		}
		x.clusters[key] = c
		x.generations[c.UID] = c.Generation
	}
	for _, key := range deleted {
		if old, ok := x.clusters[key]; ok {
			delete(x.clusters, key)
			delete(x.generations, old.UID)
			x.cfg.ClusterGone(old.UID, maxGeneration)
		}
	}
	x.heard.clusters = u.AsOf
}

// maxGeneration is above every generation: all agents of the cluster must go.
const maxGeneration = int64(^uint64(0) >> 1)

// UpdateBindings takes an update of the store's bindings.
func (x *Index) UpdateBindings(u Update[access.RoleBinding]) {
	changed, deleted := u.Changed, u.Deleted
	x.mu.Lock()
	defer x.mu.Unlock()
	if u.Reset {
		deleted = append(deleted, missing(x.bindings, changed, func(b access.RoleBinding) string { return b.ID.Key() })...)
	}
	for _, key := range deleted {
		if old, ok := x.bindings[key]; ok {
			x.removeLocked(key)
			x.cfg.Revoked(old.UID, "binding deleted")
		}
	}
	for _, b := range changed {
		x.putLocked(b)
	}
	x.heard.bindings = u.AsOf
	if u.Revision > x.revision {
		x.revision = u.Revision
		close(x.advanced)
		x.advanced = make(chan struct{})
	}
}

func (x *Index) putLocked(b access.RoleBinding) {
	key := b.ID.Key()
	next := entry{RoleBinding: b}
	old, known := x.bindings[key]
	if known && old.UID == b.UID {
		next.inForce = old.inForce
	}
	inForceNow := b.Applied.Generation == b.Generation
	narrowed := inForceNow && slices.ContainsFunc(next.inForce, func(role string) bool {
		return !slices.ContainsFunc(b.Roles, func(r string) bool { return strings.EqualFold(r, role) })
	})
	if inForceNow {
		next.inForce = b.Roles
	}
	if known {
		x.removeLocked(key)
	}
	x.bindings[key] = next
	sk := sourceKey{b.Cluster().Key(), b.Source.Key()}
	x.bySource[sk] = append(x.bySource[sk], key)
	slices.SortFunc(x.bySource[sk], func(a, b string) int {
		return cmp.Or(x.bindings[a].Created.Compare(x.bindings[b].Created), cmp.Compare(a, b))
	})
	switch {
	case known && old.UID != b.UID:
		x.cfg.Revoked(old.UID, "binding deleted")
	case b.State == access.Deleting:
		x.cfg.Revoked(b.UID, "binding deleted")
	case narrowed:
		x.cfg.Revoked(b.UID, "a role was removed from the binding")
	}
}

func (x *Index) removeLocked(key string) {
	old := x.bindings[key]
	delete(x.bindings, key)
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
// generation is still good. It answers from memory, so a handshake can ask.
func (x *Index) Agent(clusterUID string, generation int64) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := x.freshLocked(); err != nil {
		return err
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
