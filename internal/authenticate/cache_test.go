package authenticate

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
)

// TestCacheBound looks inside, since filling the cache from without would take
// ten thousand signatures.
func TestCacheBound(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	key := func(i int) (k [sha256.Size]byte) {
		binary.BigEndian.PutUint64(k[:], uint64(i))
		return k
	}
	var c cache
	p := access.Principal{Expires: now.Add(time.Hour)}
	for i := range maxCached + 5 {
		c.put(key(i), p, 0, now)
	}
	c.put(key(maxCached), p, 0, now) // again: takes no second place
	if len(c.entries) != maxCached || len(c.ring) != maxCached {
		t.Errorf("%d entries, %d keys", len(c.entries), len(c.ring))
	}
	for i, want := range map[int]bool{0: false, 4: false, 5: true, maxCached + 4: true} {
		if _, _, ok := c.get(key(i), now); ok != want {
			t.Errorf("entry %d is remembered: %t", i, ok)
		}
	}
	if _, _, ok := c.get(key(5), now.Add(cacheFor)); ok {
		t.Error("remembered too long")
	}
	// What was verified before the keys changed is not remembered after.
	_, generation, _ := c.get(key(-1), now)
	c.empty()
	c.put(key(7), p, generation, now)
	if len(c.entries) != 0 {
		t.Errorf("%d entries after the keys changed", len(c.entries))
	}
}
