package gateway

import (
	"maps"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
)

// recordsPerSecond is how many refusals of one caller are recorded one by one,
// and of all callers without an identity together; the rest of a second is
// counted in the next record of a refusal. A full disk would shut the door for
// everybody.
const recordsPerSecond = 50

// budgets ration the records of refusals. The zero value is ready.
type budgets struct {
	strangers budget // of callers without an identity

	mu      sync.Mutex
	callers map[string]*budget // by tenant and object id
	swept   time.Time
}

// admit reports whether a refusal may be recorded now, and notes in the record
// how many of the same caller's were not before.
func (b *budgets) admit(now time.Time, rec *audit.Record) bool {
	if rec.ObjectID == "" {
		return b.strangers.admit(now, rec)
	}
	return b.of(now, rec.TenantID+"/"+rec.ObjectID).admit(now, rec)
}

// of is one caller's budget. Callers are known by tokens whose signature was
// verified, so nobody can make them up.
func (b *budgets) of(now time.Time, caller string) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.swept) >= sweepEvery {
		b.swept = now
		maps.DeleteFunc(b.callers, func(_ string, of *budget) bool { return of.settled(now) })
	}
	of := b.callers[caller]
	if of == nil {
		if b.callers == nil {
			b.callers = map[string]*budget{}
		}
		of = &budget{}
		b.callers[caller] = of
	}
	return of
}

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

// settled reports whether the budget is as a new one would be.
func (b *budget) settled(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Unix() != b.second && b.skipped == 0
}
