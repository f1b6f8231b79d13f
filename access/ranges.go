package access

import (
	"fmt"
	"net/netip"
	"strings"
)

// maxSourceRange bounds one entry of a list of ranges in bytes.
const maxSourceRange = 128

// Ranges are address prefixes in their one spelling: no host bits, and IPv4
// never inside IPv6.
type Ranges []netip.Prefix

// Contains reports whether an address lies in one of the ranges. An IPv4
// address inside IPv6 is taken as IPv4; an address with a zone, or none, is in
// no range.
func (rs Ranges) Contains(a netip.Addr) bool {
	a = a.Unmap()
	for _, r := range rs {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// ParseRanges parses CIDR prefixes and single addresses. The error wraps
// [ErrInvalid] and quotes the entry at fault.
func ParseRanges(texts []string) (Ranges, error) {
	rs := make(Ranges, 0, len(texts))
	for _, text := range texts {
		r, err := ParseRange(text)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// ParseRange parses one CIDR prefix, such as "10.0.0.0/8" or "2001:db8::/32",
// or a single address. Host bits, zones and IPv4 inside IPv6 are refused: each
// has a second reading. The error wraps [ErrInvalid].
func ParseRange(text string) (netip.Prefix, error) {
	fail := func(format string, args ...any) (netip.Prefix, error) {
		return netip.Prefix{}, fmt.Errorf("source range %q "+format+": %w", append(append([]any{Clip(text, maxQuoted)}, args...), ErrInvalid)...)
	}
	var p netip.Prefix
	if strings.Contains(text, "/") {
		var err error
		if p, err = netip.ParsePrefix(text); err != nil {
			return fail("must be a CIDR prefix such as 10.0.0.0/8 or 2001:db8::/32")
		}
	} else {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return fail("must be an address such as 10.0.0.1, or a CIDR prefix such as 10.0.0.0/8")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return fail("is IPv4 inside IPv6; write it as IPv4")
	case p != p.Masked():
		return fail("has host bits set; did you mean %s?", p.Masked())
	}
	return p, nil
}

// checkSourceRange admits a range or something that can be the name of a
// service tag, such as "AzureMachineLearning.WestEurope".
func checkSourceRange(text string) error {
	if len(text) > maxSourceRange {
		return fmt.Errorf("source range of %d bytes, the most is %d: %w", len(text), maxSourceRange, ErrInvalid)
	}
	if !isTagName(text) {
		_, err := ParseRange(text)
		return err
	}
	return nil
}

// isTagName holds for letters, digits, '.', '_' and '-' that begin with a
// letter. An IPv6 address has a colon, and so is none.
func isTagName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '.' || c == '_' || c == '-')) {
			return false
		}
	}
	return s != ""
}
