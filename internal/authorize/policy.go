package authorize

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Set is what an address is held against.
type Set interface {
	Contains(netip.Addr) bool
}

// nothing is the set of ranges that cannot be read.
type nothing struct{}

// Contains implements [Set].
func (nothing) Contains(netip.Addr) bool { return false }

// maxWait is how long Run waits at most while some access has an end, so that
// a step of the clock is noticed.
const maxWait = time.Second

// bounds is what the index keeps to cut what a policy has ended.
type bounds struct {
	changed chan struct{} // has an element when the next end may be another

	// cutting is held from finding what has ended until it was revoked, so that
	// no update is acknowledged while Run has still to cut for it.
	cutting sync.Mutex
	ended   map[string]bool // by binding uid: locked or expired, and cut
}

func newBounds() bounds {
	return bounds{changed: make(chan struct{}, 1), ended: map[string]bool{}}
}

// Run ends the live requests of bindings whose time is over, until ctx ends,
// and then returns nil. Grant and Holds need no Run: they look at the clock.
func (x *Index) Run(ctx context.Context) error {
	for {
		var timer <-chan time.Time
		if wait, ok := x.closeBounded(); ok {
			timer = time.After(min(wait, maxWait))
		}
		select {
		case <-timer:
		case <-x.bounds.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// closeBounded revokes what is locked or has expired since it last looked. ok
// is false when no access has an end to wait for.
func (x *Index) closeBounded() (wait time.Duration, ok bool) {
	x.bounds.cutting.Lock()
	defer x.bounds.cutting.Unlock()
	revoked, wait, ok := x.findEnded(x.cfg.Ends())
	x.revoke(revoked)
	return wait, ok
}

// boundsChanged revokes what an update has ended, and has Run find out anew
// how long to wait.
func (x *Index) boundsChanged() {
	x.closeBounded()
	select {
	case x.bounds.changed <- struct{}{}:
	default: // it is to look already
	}
}

func (x *Index) findEnded(now time.Time) (revoked []revocation, wait time.Duration, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	ended := map[string]bool{}
	for _, b := range x.bindings {
		c := x.clusters[b.Cluster().Key()]
		if err := admitsAt(c, b.RoleBinding, now); err != nil {
			ended[b.UID] = true
			if !x.bounds.ended[b.UID] {
				revoked = append(revoked, revocation{b.UID, access.Message(err)})
			}
			continue
		}
		if _, expires := access.Combine(c.Policy, b.Policy); !expires.IsZero() {
			if left := expires.Sub(now); !ok || left < wait {
				wait, ok = left, true
			}
		}
	}
	x.bounds.ended = ended
	return revoked, wait, ok
}

// admitsAt asks both policies about the moment.
func admitsAt(c access.Cluster, b access.RoleBinding, now time.Time) error {
	if err := c.Policy.Admits("cluster "+c.ID.Name(), now); err != nil {
		return err
	}
	return b.Policy.Admits(fmt.Sprintf("binding %q", b.Name()), now)
}

// admitsLocked asks both policies about the moment and the address.
func (x *Index) admitsLocked(c access.Cluster, b access.RoleBinding, from netip.Addr) error {
	if err := admitsAt(c, b, x.cfg.Ends()); err != nil {
		return err
	}
	for _, level := range [...]struct {
		what, key string
		p         access.Policy
	}{{"cluster " + c.ID.Name(), c.ID.Key(), c.Policy}, {fmt.Sprintf("binding %q", b.Name()), b.ID.Key(), b.Policy}} {
		if len(level.p.AllowedSourceRanges) == 0 {
			continue
		}
		if set := x.allowed[level.key]; set == nil || !set.Contains(from) {
			return fmt.Errorf("%s is not in the source ranges that %s allows: %w", address(from), level.what, access.ErrForbidden)
		}
	}
	return nil
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return "address " + a.String()
}

// allowLocked keeps what a policy's ranges are held against.
func (x *Index) allowLocked(key string, p access.Policy) {
	delete(x.allowed, key)
	if len(p.AllowedSourceRanges) == 0 {
		return
	}
	set, err := x.cfg.Ranges(p.AllowedSourceRanges)
	if err != nil || set == nil {
		set = nothing{}
	}
	x.allowed[key] = set
}

// narrowedLocked names the bindings of a cluster whose source ranges shrank.
func (x *Index) narrowedLocked(c access.Cluster) (revoked []revocation) {
	for _, b := range x.bindings {
		if b.Cluster().Equal(c.ID) {
			revoked = append(revoked, revocation{b.UID, "the allowed source ranges of cluster " + c.ID.Name() + " were narrowed"})
		}
	}
	return revoked
}
