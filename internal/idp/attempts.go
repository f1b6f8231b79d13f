package idp

import (
	"context"
	"hash/maphash"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"
)

// What may fail in a minute. A password is tried ten times from one address, as
// Entra's smart lockout allows, and a hundred times from all, so that one who
// guesses does not lock the user out elsewhere.
const (
	attemptsWindow = time.Minute
	attemptsByBoth = 10  // one user, one address
	attemptsByOne  = 100 // one user, or one address
	// attemptsCounters is how many things are counted apart; 2 MiB. Beyond
	// that some share a counter, and shut each other out: a flood is never a way
	// to guess uncounted.
	attemptsCounters = 1 << 16
)

// attempts bounds how often passwords and codes are guessed, and how many
// passwords are hashed at once. Safe for concurrent use.
type attempts struct {
	now   func() time.Time
	slots chan struct{}
	seed  maphash.Seed // so that nobody can choose whose counter he shares

	mu     sync.Mutex
	failed []failures
}

// failures are those of one thing since the first of them.
type failures struct {
	since time.Time
	count int
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), seed: maphash.MakeSeed(), failed: make([]failures, attemptsCounters)}
}

// hashing waits for a slot in which a slow hash may be computed; done gives it
// back. It fails when ctx ends first, or nothing comes free for five seconds.
func (a *attempts) hashing(ctx context.Context) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// allowed reports whether one more may be tried by user at address. User is
// empty where only the address is known.
func (a *attempts) allowed(user, address string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, most := range limits(user, address) {
		if f := a.failed[a.counter(key)]; f.count >= most && a.now().Sub(f.since) < attemptsWindow {
			return false
		}
	}
	return true
}

// fail counts a failure.
func (a *attempts) fail(user, address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for key := range limits(user, address) {
		f := &a.failed[a.counter(key)]
		if now.Sub(f.since) >= attemptsWindow {
			*f = failures{since: now}
		}
		f.count++
	}
}

func (a *attempts) counter(key string) uint64 {
	return maphash.String(a.seed, key) % attemptsCounters
}

func limits(user, address string) map[string]int {
	address = network(address)
	keys := map[string]int{"address " + address: attemptsByOne}
	if user != "" {
		user = strings.ToLower(user)
		keys["user "+user] = attemptsByOne
		keys["user "+user+" "+address] = attemptsByBoth
	}
	return keys
}

// network is what one party has of addresses: of IPv6 a whole /64.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is6() || ip.Is4In6() {
		return address
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return prefix.String()
}
