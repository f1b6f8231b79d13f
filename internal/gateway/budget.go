package gateway

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
)

// recordsPerSecond is how many refusals of callers without an identity are
// recorded one by one; the rest of a second is counted in the next record.
const recordsPerSecond = 50

// budget rations records by the second. The zero value is ready.
type budget struct {
	mu      sync.Mutex
	second  int64
	spent   int
	skipped int
}

// admit reports whether a record may be written now, and notes in it how many
// were not before.
func (b *budget) admit(now time.Time, rec *audit.Record) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if second := now.Unix(); second != b.second {
		b.second, b.spent = second, 0
	}
	if b.spent >= recordsPerSecond {
		b.skipped++
		return false
	}
	b.spent++
	rec.Skipped, b.skipped = b.skipped, 0
	return true
}
