package addresses

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// maxQuoted is how many bytes of somebody else's text an error quotes.
const maxQuoted = 100

// Set is the addresses that a list of ranges and tags allows. Make one with
// [Tags.Set]; the zero value contains nothing. It is safe for concurrent use.
type Set struct {
	own  prefixes
	tags *Tags
	// names are folded tag names. They are looked up when the set is asked, so
	// that it follows the file.
	names []string
}

// Contains reports whether the address is in the set. An IPv4 address in its
// IPv6 form is the IPv4 address, and a zone does not count.
func (s Set) Contains(addr netip.Addr) bool {
	addr = plain(addr)
	if s.own.contain(addr) {
		return true
	}
	if len(s.names) == 0 {
		return false
	}
	table := s.tags.table.Load()
	return table != nil && slices.ContainsFunc(s.names, func(name string) bool { return (*table)[name].prefixes.contain(addr) })
}

// plain is the one form in which addresses are compared and shown.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// parseRange reads a CIDR range or a single address as a user writes it. The
// error wraps [access.ErrInvalid].
func parseRange(text string) (netip.Prefix, error) {
	prefix, err := parsePrefix(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("address range %q has bits set behind its prefix; write %s for the range, or %s for the one address: %w",
			access.Clip(text, maxQuoted), prefix.Masked(), prefix.Addr(), access.ErrInvalid)
	}
	return prefix, nil
}

// parsePrefix is parseRange for text in which host bits do not matter.
func parsePrefix(text string) (netip.Prefix, error) {
	bad := func(why string) (netip.Prefix, error) {
		return netip.Prefix{}, fmt.Errorf("address range %q %s; give a range such as 192.0.2.0/24 or 2001:db8::/32, or one address: %w",
			access.Clip(text, maxQuoted), why, access.ErrInvalid)
	}
	if strings.Contains(text, "%") {
		return bad("has a zone, which means something on one machine only")
	}
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return bad("is not an IP address")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return bad("is not in CIDR form")
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		const mapping = 96 // bits before the IPv4 address (RFC 4291, section 2.5.5.2)
		if prefix.Bits() < mapping {
			return bad("holds IPv4 addresses inside IPv6 and others")
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-mapping)
	}
	return prefix, nil
}

// prefixes are sorted and masked, and none contains another: two prefixes are
// either nested or apart, so at most one of them contains an address.
type prefixes []netip.Prefix

// newPrefixes sorts and reduces a list, which it takes over.
func newPrefixes(list []netip.Prefix) prefixes {
	for i, p := range list {
		list[i] = p.Masked()
	}
	slices.SortFunc(list, netip.Prefix.Compare) // a wider one comes before what it contains
	kept := list[:0]
	for _, p := range list {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return slices.Clip(kept)
}

// contain reports whether one of the prefixes contains a plain address.
func (ps prefixes) contain(addr netip.Addr) bool {
	// The first that begins behind the address; the one before may contain it.
	i, _ := slices.BinarySearchFunc(ps, addr, func(p netip.Prefix, a netip.Addr) int {
		if p.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return i > 0 && ps[i-1].Contains(addr)
}
