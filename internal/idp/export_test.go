package idp

import "time"

// Sweep is what Run does each hour.
func (k *Keys) Sweep() error { return k.sweep() }

// Attempts are those of one provider.
type Attempts struct{ *attempts }

// NewAttempts has none yet.
func NewAttempts(now func() time.Time) Attempts { return Attempts{newAttempts(now)} }

// Allowed is allowed.
func (a Attempts) Allowed(user, address string) bool { return a.allowed(user, address) }

// Fail is fail.
func (a Attempts) Fail(user, address string) { a.fail(user, address) }
