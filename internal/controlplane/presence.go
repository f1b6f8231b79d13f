package controlplane

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// feeds knows which agents are connected here, and wakes their feeds. It is
// in memory only: presence is true of this process or of none.
type feeds struct {
	mu    sync.Mutex
	wakes map[string]map[chan struct{}]bool // by cluster key
	seen  map[string]presence               // by cluster uid
	keys  map[string]string                 // cluster uid to key
}

// presence is what is known of a cluster's agents.
type presence struct {
	feeds    int
	since    time.Time // of the oldest feed in an unbroken row
	sent     int64     // newest revision
	reported time.Time
	foreign  []string
}

func (p presence) connected() bool { return p.feeds > 0 }

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
func (f *feeds) join(uid, key string, now time.Time) (wake <-chan struct{}, leave func()) {
	ch := make(chan struct{}, 1)
	f.update(uid, func(p *presence) {
		if p.feeds++; p.feeds == 1 {
			p.since = now
		}
		if f.wakes[key] == nil {
			f.wakes[key] = map[chan struct{}]bool{}
		}
		f.wakes[key][ch] = true
	})
	return ch, func() {
		f.update(uid, func(p *presence) {
			p.feeds--
			if delete(f.wakes[key], ch); len(f.wakes[key]) == 0 {
				delete(f.wakes, key)
			}
		})
	}
}

func (f *feeds) sent(uid string, revision int64) {
	f.update(uid, func(p *presence) { p.sent = max(p.sent, revision) })
}

// report keeps what the agent said last, within bounds.
func (f *feeds) report(uid string, now time.Time, foreign []string) {
	kept := make([]string, 0, min(len(foreign), 100))
	for _, name := range foreign[:cap(kept)] {
		kept = append(kept, clip(name, 256))
	}
	f.update(uid, func(p *presence) { p.reported, p.foreign = now, kept })
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

// forget drops what is kept of clusters that are gone.
func (f *feeds) forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, k := range f.keys {
		if k == key && f.seen[uid].feeds == 0 {
			delete(f.keys, uid)
			delete(f.seen, uid)
		}
	}
}

// wake tells the feeds of a cluster, or of all with "", to read again.
func (f *feeds) wake(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, chans := range f.wakes {
		if key != "" && key != k {
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

// The three kinds that a feed is made of are followed once for all feeds.

func (c *ControlPlane) followClusters(ctx context.Context) error {
	return c.store.Clusters.Follow(ctx, "", func(u store.Update[access.Cluster]) {
		wakeFor(c.feeds, u, func(key string) string { return key })
		for _, key := range u.Deleted {
			c.feeds.forget(key)
		}
	})
}

func (c *ControlPlane) followBindings(ctx context.Context) error {
	return c.store.Bindings.Follow(ctx, "", func(u store.Update[access.RoleBinding]) {
		wakeFor(c.feeds, u, parentOf(2))
	})
}

func (c *ControlPlane) followTombstones(ctx context.Context) error {
	return c.store.Tombstones.Follow(ctx, "", func(u store.Update[access.Tombstone]) {
		wakeFor(c.feeds, u, parentOf(1))
	})
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
