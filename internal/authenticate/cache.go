package authenticate

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

const (
	maxCached = 10_000
	// cacheFor bounds how long a verified token is remembered.
	cacheFor = 2 * time.Minute
)

// cache remembers verified tokens by SHA-256, so that it holds no token. All
// entries live equally long but for their exp, so the oldest is the one to drop.
type cache struct {
	mu         sync.Mutex
	generation int // counts the times it was emptied
	entries    map[[sha256.Size]byte]cached
	ring       [][sha256.Size]byte // keys in the order they came; grows to maxCached
	next       int                 // oldest in a full ring
}

type cached struct {
	principal access.Principal
	until     time.Time // exp or cacheFor, whichever is first
}

// get returns the principal of a token that is remembered and has not expired,
// and the generation to pass to put if there is none.
func (c *cache) get(key [sha256.Size]byte, now time.Time) (access.Principal, int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || !now.Before(e.until) {
		return access.Principal{}, c.generation, false
	}
	return e.principal, c.generation, true
}

// put remembers p, unless the cache was emptied since generation was read: the
// token may then have been verified with a key that is gone.
func (c *cache) put(key [sha256.Size]byte, p access.Principal, generation int, now time.Time) {
	until := now.Add(cacheFor)
	if end := p.Expires.Add(skew); end.Before(until) {
		until = end
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if c.entries == nil {
		c.entries = map[[sha256.Size]byte]cached{}
	}
	if _, ok := c.entries[key]; !ok {
		if len(c.ring) < maxCached {
			c.ring = append(c.ring, key)
		} else {
			delete(c.entries, c.ring[c.next])
			c.ring[c.next] = key
			c.next = (c.next + 1) % maxCached
		}
	}
	c.entries[key] = cached{principal: p, until: until}
}

// empty forgets all.
func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.entries, c.ring, c.next = nil, nil, 0
}
