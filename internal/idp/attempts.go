package idp

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"time"
)

// What may fail in a minute. A password is tried ten times from one address, as
// Entra's smart lockout allows, and a hundred times from all, so that one who
// guesses does not lock the user out elsewhere.
const (
	attemptsWindow   = time.Minute
	attemptsByBoth   = 10  // one user, one address
	attemptsByOne    = 100 // one user, or one address
	maxCountedThings = 10_000
)

// attempts bounds how often passwords and codes are guessed, and how many
// passwords are hashed at once. Safe for concurrent use.
type attempts struct {
	now   func() time.Time
	slots chan struct{}

	mu     sync.Mutex
	failed map[string]failures
}

// failures are those of one thing since the first of them.
type failures struct {
	since time.Time
	count int
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), failed: map[string]failures{}}
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
		f := a.failed[key]
		if f.count >= most && a.now().Sub(f.since) < attemptsWindow {
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
	if len(a.failed) >= maxCountedThings {
		for key, f := range a.failed {
			if now.Sub(f.since) >= attemptsWindow {
				delete(a.failed, key)
			}
		}
	}
	for key := range limits(user, address) {
		f, known := a.failed[key]
		if now.Sub(f.since) >= attemptsWindow {
			f = failures{since: now}
		}
		f.count++
		if known || len(a.failed) < 2*maxCountedThings { // a flood of new ones is held by its addresses
			a.failed[key] = f
		}
	}
}

func limits(user, address string) map[string]int {
	keys := map[string]int{"address " + address: attemptsByOne}
	if user != "" {
		user = strings.ToLower(user)
		keys["user "+user] = attemptsByOne
		keys["user "+user+" "+address] = attemptsByBoth
	}
	return keys
}
