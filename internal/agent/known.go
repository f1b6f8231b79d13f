package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/clock"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// maxSilence is how long the proxy serves without hearing from the control
// plane; its heartbeat comes every second.
const maxSilence = 5 * time.Second

// maxWait is how long run waits at most while some access has an end, so that
// a step of the clock is noticed.
const maxWait = time.Second

// known is what the proxy learned of the cluster's bindings on its own feed.
type known struct {
	live    *tunnel.Live
	now     func() time.Time
	ends    func() time.Time // what ends of access are held against: never set back
	changed chan struct{}    // has an element when the next end may be another

	mu       sync.Mutex
	heard    time.Time
	bindings map[string]binding // by uid
}

type binding struct {
	name    string
	sources []access.ResourceID // that may act by it
	// locked and expires are what the policies of cluster and binding say.
	locked  bool
	expires time.Time
	// usable are the roles that live requests may be using: those of the
	// generation last reported to have retired the others, and those of every
	// generation since, which may have been applied in part.
	usable []string
	// unknown is set when the binding was first seen between two generations,
	// and the roles of the earlier one are not known here.
	unknown bool
}

func newKnown(live *tunnel.Live, now func() time.Time) *known {
	return &known{live: live, now: now, ends: clock.New(now).Now, bindings: map[string]binding{}, changed: make(chan struct{}, 1)}
}

// bounded says why the policies let nobody in at this moment, if so.
func (b binding) bounded(now time.Time) error {
	return access.Policy{Locked: b.locked, ExpiresOn: b.expires}.Admits(fmt.Sprintf("binding %q", b.name), now)
}

// run cuts the requests of bindings whose time is over, until ctx ends. The
// feed need not be there for it: what it said last of an end still holds.
func (k *known) run(ctx context.Context) error {
	for {
		var timer <-chan time.Time
		if wait, ok := k.cutBounded(); ok {
			timer = time.After(min(wait, maxWait))
		}
		select {
		case <-timer:
		case <-k.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// cutBounded cuts what is locked or has expired. ok is false when no access has
// an end to wait for.
func (k *known) cutBounded() (wait time.Duration, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cutBoundedLocked()
}

func (k *known) cutBoundedLocked() (wait time.Duration, ok bool) {
	now := k.ends()
	for uid, b := range k.bindings {
		if err := b.bounded(now); err != nil {
			k.live.Cut(uid, err)
			continue
		}
		if left := b.expires.Sub(now); !b.expires.IsZero() && (!ok || left < wait) {
			wait, ok = left, true
		}
	}
	return wait, ok
}

// update takes the whole desired state and cuts the requests of bindings that
// are gone, that a policy has locked or ended, or that were narrowed once the
// cluster has lost the role.
func (k *known) update(d access.Desired) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := make(map[string]binding, len(d.Bindings))
	for _, b := range d.Bindings {
		old, seen := k.bindings[b.UID]
		entry := binding{name: b.Name, sources: b.Actors(), locked: b.Locked, expires: b.ExpiresOn, usable: old.usable, unknown: old.unknown || !seen && b.Retired != 0}
		roles := make([]string, len(b.Roles))
		for i, r := range b.Roles {
			roles[i] = strings.ToLower(r.QualifiedName())
		}
		if b.Retired == b.Generation {
			removed := slices.ContainsFunc(entry.usable, func(r string) bool { return !slices.Contains(roles, r) })
			if removed || seen && entry.unknown {
				k.live.Cut(b.UID, fmt.Errorf("a role was removed from binding %q: %w", b.Name, access.ErrForbidden))
			}
			entry.usable, entry.unknown = roles, false
		} else {
			entry.usable = slices.Concat(entry.usable, roles)
			slices.Sort(entry.usable)
			entry.usable = slices.Compact(entry.usable)
		}
		if slices.ContainsFunc(old.sources, func(s access.ResourceID) bool { return !isAmong(entry.sources, s) }) {
			k.live.Cut(b.UID, fmt.Errorf("a source of binding %q was deleted: %w", b.Name, access.ErrForbidden))
		}
		next[b.UID] = entry
	}
	for uid, old := range k.bindings {
		if _, ok := next[uid]; !ok {
			k.live.Cut(uid, fmt.Errorf("binding %q was deleted: %w", old.name, access.ErrForbidden))
		}
	}
	k.bindings, k.heard = next, k.now()
	k.cutBoundedLocked()
	select {
	case k.changed <- struct{}{}:
	default: // run is to look already
	}
}

func isAmong(sources []access.ResourceID, source access.ResourceID) bool {
	return slices.ContainsFunc(sources, source.Equal)
}

// check holds a gateway's claim against what is known here.
func (k *known) check(c tunnel.Claim) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if silence := k.now().Sub(k.heard); silence > maxSilence {
		return fmt.Errorf("the agent has not heard from the control plane for more than %s: %w", maxSilence, access.ErrUnavailable)
	}
	b, ok := k.bindings[c.BindingUID]
	switch {
	case !ok:
		return fmt.Errorf("this cluster has no binding with uid %s: %w", c.BindingUID, access.ErrForbidden)
	case b.name != c.Binding:
		return fmt.Errorf("uid %s is not that of binding %q: %w", c.BindingUID, c.Binding, access.ErrForbidden)
	case !isAmong(b.sources, c.Source):
		return fmt.Errorf("binding %q is not of source %s: %w", c.Binding, c.Source, access.ErrForbidden)
	}
	return b.bounded(k.ends())
}
