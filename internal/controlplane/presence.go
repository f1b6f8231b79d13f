package controlplane

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// feeds knows which agents are connected here, wakes their feeds, and how old
// what it wakes them by may be. It is in memory only: presence is true of this
// process or of none.
type feeds struct {
	mu    sync.Mutex
	wakes map[string]map[chan struct{}]bool // by cluster key
	seen  map[string]presence               // by cluster uid
	keys  map[string]string                 // cluster uid to key; without it seen goes with the last feed
	asOf  [kinds]time.Time                  // see proven
}

// The kinds that a feed is made of.
const (
	clusterKind = iota
	bindingKind
	tombstoneKind
	resourceKind
	kinds
)

// presence is what is known of a cluster's agent.
type presence struct {
	reconciler, proxy half
	sent              int64 // newest revision
	reported          time.Time
	foreign           []string
}

// half is one of an agent's two processes, told apart by their role.
type half struct {
	feeds int
	since time.Time // of the oldest feed in an unbroken row
}

func (h half) connected() bool { return h.feeds > 0 }

func (p presence) connected() bool { return p.reconciler.connected() && p.proxy.connected() }

func (p *presence) half(role string) *half {
	if role == roleReport {
		return &p.reconciler
	}
	return &p.proxy
}

func newFeeds() *feeds {
	return &feeds{wakes: map[string]map[chan struct{}]bool{}, seen: map[string]presence{}, keys: map[string]string{}}
}

func (f *feeds) presence(uid string) presence {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[uid]
}

func (f *feeds) update(uid string, change func(*presence)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.seen[uid]
	change(&p)
	f.seen[uid] = p
}

// join adds a feed; wake has an element when the state may have changed.
func (f *feeds) join(peer Peer, key string, now time.Time) (wake <-chan struct{}, leave func()) {
	ch := make(chan struct{}, 1)
	f.update(peer.ClusterUID, func(p *presence) {
		h := p.half(peer.Role)
		if h.feeds++; h.feeds == 1 {
			h.since = now
		}
		if f.wakes[key] == nil {
			f.wakes[key] = map[chan struct{}]bool{}
		}
		f.wakes[key][ch] = true
	})
	return ch, func() {
		f.update(peer.ClusterUID, func(p *presence) {
			p.half(peer.Role).feeds--
			if delete(f.wakes[key], ch); len(f.wakes[key]) == 0 {
				delete(f.wakes, key)
			}
		})
		f.drop(peer.ClusterUID)
	}
}

// drop forgets a cluster that is gone, when its last feed has left.
func (f *feeds) drop(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.seen[uid]
	if _, known := f.keys[uid]; !known && !p.reconciler.connected() && !p.proxy.connected() {
		delete(f.seen, uid)
	}
}

func (f *feeds) sent(uid string, revision int64) {
	f.update(uid, func(p *presence) { p.sent = max(p.sent, revision) })
}

// report keeps what the agent said last, within bounds.
func (f *feeds) report(uid string, now time.Time, foreign []string) {
	kept := make([]string, 0, min(len(foreign), 100))
	for _, name := range foreign[:cap(kept)] {
		kept = append(kept, access.Clip(name, 256))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.keys[uid]; known { // else the cluster went while it reported
		p := f.seen[uid]
		p.reported, p.foreign = now, kept
		f.seen[uid] = p
	}
}

func (f *feeds) clusterKey(uid string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[uid]
}

func (f *feeds) remember(uid, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[uid] = key
}

// forget drops what is kept of the clusters that gone tells of.
func (f *feeds) forget(gone func(uid, key string) bool) {
	f.mu.Lock()
	var uids []string
	for uid, key := range f.keys {
		if gone(uid, key) {
			delete(f.keys, uid)
			uids = append(uids, uid)
		}
	}
	f.mu.Unlock()
	for _, uid := range uids {
		f.drop(uid)
	}
}

// prove takes what a follow has proven: each change of the kind up to asOf, on
// this process's clock, has woken its feeds. The zero time proves nothing.
func (f *feeds) prove(kind int, asOf time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asOf[kind] = asOf
}

// proven is the moment up to which a feed that is not awake missed nothing: the
// oldest of them.
func (f *feeds) proven() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.MinFunc(f.asOf[:], time.Time.Compare)
}

// wake tells the feeds of a cluster, or of all with "", to read again.
func (f *feeds) wake(key string) {
	f.wakeIf(func(k string) bool { return key == "" || key == k })
}

// wakeBelow tells the feeds of all clusters whose key begins so.
func (f *feeds) wakeBelow(prefix string) {
	f.wakeIf(func(k string) bool { return strings.HasPrefix(k, prefix) })
}

func (f *feeds) wakeIf(is func(key string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, chans := range f.wakes {
		if !is(k) {
			continue
		}
		for ch := range chans {
			select {
			case ch <- struct{}{}:
			default: // it is awake already
			}
		}
	}
}

// The kinds that a feed is made of are followed once for all feeds. What
// is gone is forgotten before its feeds are woken, and only then is it proven
// that they were.

func (c *ControlPlane) followClusters(ctx context.Context) error {
	return c.store.Clusters.Follow(ctx, "", func(u store.Update[access.Cluster]) {
		is := make(map[string]string, len(u.Changed)) // key to uid
		for _, item := range u.Changed {
			is[item.Key] = item.Value.UID
		}
		c.feeds.forget(func(uid, key string) bool {
			newest, changed := is[key]
			return changed && newest != uid || !changed && (u.Reset || slices.Contains(u.Deleted, key))
		})
		// Known before its agent comes: else each agent that comes back to a server
		// which has just started costs a look through all clusters (item 34).
		for key, uid := range is {
			c.feeds.remember(uid, key)
		}
		wakeFor(c.feeds, u, func(key string) string { return key })
		c.feeds.prove(clusterKind, u.AsOf)
	})
}

func (c *ControlPlane) followBindings(ctx context.Context) error {
	return c.store.Bindings.Follow(ctx, "", func(u store.Update[access.RoleBinding]) {
		wakeFor(c.feeds, u, parentOf(2))
		c.feeds.prove(bindingKind, u.AsOf)
	})
}

func (c *ControlPlane) followTombstones(ctx context.Context) error {
	return c.store.Tombstones.Follow(ctx, "", func(u store.Update[access.Tombstone]) {
		wakeFor(c.feeds, u, parentOf(1))
		c.feeds.prove(tombstoneKind, u.AsOf)
	})
}

// followResources wakes the feeds of the subscription's clusters: a binding may
// be for all resources of a type.
func (c *ControlPlane) followResources(ctx context.Context) error {
	return c.store.Resources.Follow(ctx, "", func(u store.Update[access.Resource]) {
		if c.cfg.PreviewRoleBindings {
			for _, item := range u.Changed {
				c.feeds.wakeBelow(sameSubscription(item.Key))
			}
			for _, key := range u.Deleted {
				c.feeds.wakeBelow(sameSubscription(key))
			}
			if u.Reset {
				c.feeds.wake("")
			}
		}
		c.feeds.prove(resourceKind, u.AsOf)
	})
}

// sameSubscription is the beginning of the keys of all that is in the same
// subscription as a resource.
func sameSubscription(key string) string {
	return strings.Join(strings.SplitN(key, "/", 4)[:3], "/") + "/"
}

func wakeFor[T any](f *feeds, u store.Update[T], cluster func(key string) string) {
	if u.Reset {
		f.wake("")
		return
	}
	for _, item := range u.Changed {
		f.wake(cluster(item.Key))
	}
	for _, key := range u.Deleted {
		f.wake(cluster(key))
	}
}

// parentOf cuts trailing segments off a key.
func parentOf(segments int) func(key string) string {
	return func(key string) string {
		for range segments {
			key = key[:strings.LastIndexByte(key, '/')]
		}
		return key
	}
}
