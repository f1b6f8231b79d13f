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
	// Ends is the clock that ends of access are held against, one that is not
	// set back; default Now.
	Ends func() time.Time
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
	if cfg.Ends == nil {
		cfg.Ends = cfg.Now
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
