package tunnel

import (
	"math/rand/v2"
	"time"
)

// Backoff spaces attempts to reach the gateway. Each wait is random between
// zero and a bound that doubles from Min to Max ("full jitter"), so agents that
// lost their gateway together do not come back together (checklist, item 34).
type Backoff struct {
	Min, Max time.Duration

	bound time.Duration // of the last wait; zero for none yet
}

// Next returns the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	b.bound = min(max(2*b.bound, b.Min), max(b.Min, b.Max))
	return rand.N(b.bound)
}

// Lasted says how long the last attempt had worked when it was lost. If longer
// than the longest wait, the loss is a new one and the waits are short again.
func (b *Backoff) Lasted(d time.Duration) {
	if d >= b.Max {
		b.bound = 0
	}
}
