package access

import (
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

// Policy bounds in time and place what was consented to. A cluster and a
// binding have at most one each, and it is kept inside the record that it
// bounds: it is written with it, goes with it, and nothing created later under
// the same name inherits it. The zero value bounds nothing.
//
// Policies combine by all having to admit: access is locked if either level
// is, ends with the earlier expiry, and comes only from addresses that each
// level allows. So a binding's policy cannot widen its cluster's.
type Policy struct {
	// ETag is new with each write; "" means that there is no policy.
	ETag string `json:"etag,omitempty"`
	// ExpiresOn ends access at that moment; zero means never.
	ExpiresOn time.Time `json:"expiresOn,omitzero"`
	// Locked refuses everybody, until it is unlocked. LockReason is told to
	// those who are refused.
	Locked     bool   `json:"locked,omitempty"`
	LockReason string `json:"lockReason,omitempty"`
	// AllowedSourceRanges are the addresses that requests may come from, as
	// CIDR prefixes, single addresses or names of service tags; none allow all.
	AllowedSourceRanges []string `json:"allowedSourceRanges,omitempty"`
	// Written says who wrote it last.
	Written Consent `json:"written,omitzero"`
}

// Limits of a policy.
const (
	MaxLockReason   = 256 // bytes
	MaxSourceRanges = 200 // as AKS's authorized IP ranges
	MaxSourceRange  = 128 // bytes of one
)

// The years between which a policy may end. Outside, a client has most likely
// written its language's zero time and meant something else.
const minExpiryYear, maxExpiryYear = 2000, 9999

// CheckPolicy holds what an owner writes to the limits. Whether the source
// ranges can be read is not asked here. The error wraps [ErrInvalid] and begins
// with the property at fault.
func CheckPolicy(p Policy) error {
	if year := p.ExpiresOn.UTC().Year(); !p.ExpiresOn.IsZero() && (year < minExpiryYear || year > maxExpiryYear) {
		return fmt.Errorf("expiresOn %s must lie in the years %d to %d; leave it out for access that does not end: %w", p.ExpiresOn.UTC().Format(time.RFC3339), minExpiryYear, maxExpiryYear, ErrInvalid)
	}
	if p.LockReason != "" && !p.Locked {
		return fmt.Errorf("lockReason %q is given, but locked is not true: %w", Clip(p.LockReason, maxQuoted), ErrInvalid)
	}
	if len(p.LockReason) > MaxLockReason || !utf8.ValidString(p.LockReason) {
		return fmt.Errorf("lockReason has %d bytes, must be UTF-8 of at most %d: %w", len(p.LockReason), MaxLockReason, ErrInvalid)
	}
	for _, r := range p.LockReason {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("lockReason has the character %q; it must be one line of printable characters: %w", r, ErrInvalid)
		}
	}
	if len(p.AllowedSourceRanges) > MaxSourceRanges {
		return fmt.Errorf("allowedSourceRanges has %d entries, the most is %d: %w", len(p.AllowedSourceRanges), MaxSourceRanges, ErrInvalid)
	}
	for i, r := range p.AllowedSourceRanges {
		if r == "" || len(r) > MaxSourceRange {
			return fmt.Errorf("allowedSourceRanges[%d] has %d bytes, must have 1 to %d: %w", i, len(r), MaxSourceRange, ErrInvalid)
		}
	}
	return nil
}

// Admits reports whether the policy of what, such as "cluster prod", lets
// anybody in at this moment. The error wraps [ErrForbidden] and says why not.
// Where requests come from is not asked here.
func (p Policy) Admits(what string, now time.Time) error {
	switch {
	case p.Locked && p.LockReason != "":
		return fmt.Errorf("%s is locked: %s: %w", what, p.LockReason, ErrForbidden)
	case p.Locked:
		return fmt.Errorf("%s is locked: %w", what, ErrForbidden)
	case !p.ExpiresOn.IsZero() && !now.Before(p.ExpiresOn):
		return fmt.Errorf("access to %s expired on %s: %w", what, p.ExpiresOn.UTC().Format(time.RFC3339), ErrForbidden)
	}
	return nil
}

// NarrowsFrom reports whether p may refuse an address that old allowed.
func (p Policy) NarrowsFrom(old Policy) bool {
	if len(p.AllowedSourceRanges) == 0 {
		return false
	}
	return len(old.AllowedSourceRanges) == 0 || slices.ContainsFunc(old.AllowedSourceRanges, func(r string) bool {
		return !slices.Contains(p.AllowedSourceRanges, r)
	})
}

// SameBounds reports whether both bound the same, whoever wrote them.
func (p Policy) SameBounds(other Policy) bool {
	return p.ExpiresOn.Equal(other.ExpiresOn) && p.Locked == other.Locked && p.LockReason == other.LockReason &&
		slices.Equal(p.AllowedSourceRanges, other.AllowedSourceRanges)
}

// Combine folds the policies of a cluster and of one of its bindings into what
// an agent needs: it does not see where requests come from.
func Combine(cluster, binding Policy) (locked bool, expires time.Time) {
	expires = binding.ExpiresOn
	if expires.IsZero() || !cluster.ExpiresOn.IsZero() && cluster.ExpiresOn.Before(expires) {
		expires = cluster.ExpiresOn
	}
	return cluster.Locked || binding.Locked, expires
}
