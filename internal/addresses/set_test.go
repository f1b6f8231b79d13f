package addresses_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
)

func addr(t testing.TB, text string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func set(t testing.TB, tags *addresses.Tags, ranges ...string) addresses.Set {
	t.Helper()
	s, err := tags.Set(ranges)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSet(t *testing.T) {
	for _, tc := range []struct {
		ranges  string
		in, out string
	}{
		{"", "", "0.0.0.0 127.0.0.1 ::1"},
		{"192.0.2.0/24", "192.0.2.0 192.0.2.255 ::ffff:192.0.2.7", "192.0.1.255 192.0.3.0 ::192.0.2.7"},
		{"192.0.2.7", "192.0.2.7 ::ffff:192.0.2.7", "192.0.2.6 192.0.2.8"},
		{"::ffff:192.0.2.7", "192.0.2.7 ::ffff:c000:207", "192.0.2.8"},
		{"::ffff:192.0.2.0/120", "192.0.2.0 192.0.2.255", "192.0.3.0 192.0.1.255"},
		{"::ffff:0:0/96", "0.0.0.0 255.255.255.255", "::1"},
		{"2001:db8::/32", "2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff:: 2001:db9::"},
		{"0.0.0.0/0", "0.0.0.0 255.255.255.255 ::ffff:1.2.3.4", ":: ::1 2001:db8::1"},
		{"::/0", ":: ::1 ffff::", "0.0.0.0 127.0.0.1 ::ffff:1.2.3.4"},
		{"fe80::/10", "fe80::1%eth0", "fec0::1%eth0"},
		{"10.0.0.0/8, 10.1.0.0/16,10.255.255.255 , ::1", "10.0.0.0 10.1.2.3 10.2.0.0 10.255.255.255 ::1", "11.0.0.0 9.255.255.255 ::2"},
		{"10.0.0.0/9,10.128.0.0/9", "10.0.0.0 10.127.255.255 10.128.0.0 10.255.255.255", "11.0.0.0"},
	} {
		var ranges []string
		if tc.ranges != "" {
			ranges = strings.Split(tc.ranges, ",")
		}
		s := set(t, new(addresses.Tags), ranges...)
		for _, a := range strings.Fields(tc.in) {
			if !s.Contains(addr(t, a)) {
				t.Errorf("%q does not contain %s", tc.ranges, a)
			}
		}
		for _, a := range strings.Fields(tc.out) {
			if s.Contains(addr(t, a)) {
				t.Errorf("%q contains %s", tc.ranges, a)
			}
		}
		if s.Contains(netip.Addr{}) {
			t.Errorf("%q contains the zero address", tc.ranges)
		}
	}
	if (addresses.Set{}).Contains(addr(t, "127.0.0.1")) {
		t.Error("the zero set contains an address")
	}
}

// TestSetRefuses: what does not mean what its author thinks is an error.
func TestSetRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                    "is not an IP address",
		"10.0.0.5/8":          "write 10.0.0.0/8 for the range, or 10.0.0.5 for the one address",
		"2001:db8::1/32":      "write 2001:db8::/32",
		"10.0.0.0/33":         "CIDR",
		"10.0.0.0/-1":         "CIDR",
		"10.0.0.0/08":         "CIDR",
		"10.0.0/8":            "CIDR",
		"10.0.0":              "is not an IP address",
		"010.0.0.1":           "is not an IP address",
		"1.2.3.4:80":          "is not an IP address",
		"10.0.0.1-10.0.0.9":   "is not an IP address",
		"fe80::1%eth0":        "zone",
		"fe80::%eth0/64":      "zone",
		"::ffff:10.0.0.0/90":  "IPv4 addresses inside IPv6",
		"::ffff:10.0.0.1/104": "write 10.0.0.0/8",
		"Storage":             "--service-tags",
		"localhost":           "--service-tags",
		"10.0.0.0/8 ::1":      "CIDR",
		"\x00":                `"\x00"`,
	} {
		if s, err := new(addresses.Tags).Set([]string{"192.0.2.1", text}); !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), says) || s.Contains(addr(t, "192.0.2.1")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSetAgainstPlainSearch holds sets of many nested and overlapping ranges to
// the answer of asking each range in turn.
func TestSetAgainstPlainSearch(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var plain []netip.Prefix
		var ranges []string
		for range random.IntN(30) {
			p, err := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(256))}).Prefix(8 + random.IntN(25))
			if err != nil {
				t.Fatal(err)
			}
			plain, ranges = append(plain, p), append(ranges, p.String())
		}
		s := set(t, new(addresses.Tags), ranges...)
		for range 200 {
			a := netip.AddrFrom4([4]byte{10, byte(random.IntN(5)), byte(random.IntN(256)), byte(random.IntN(2))})
			want := false
			for _, p := range plain {
				want = want || p.Contains(a)
			}
			if s.Contains(a) != want {
				t.Fatalf("round %d: %s in %v: %v", round, a, ranges, !want)
			}
		}
	}
}

func FuzzSet(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "::ffff:10.0.0.0/104", "2001:db8::1", "fe80::1%x", "::/0", "Sql.WestEurope", "", "1.2.3.4/32/1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := new(addresses.Tags).Set([]string{text})
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) || len(err.Error()) > 1000 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		// What was accepted begins with an address that it contains, in either
		// form of it.
		first, _, _ := strings.Cut(strings.TrimSpace(text), "/")
		a, err := netip.ParseAddr(first)
		if err != nil || !s.Contains(a) || !s.Contains(a.Unmap()) || a.Is4() && !s.Contains(netip.AddrFrom16(a.As16())) {
			t.Errorf("%q was accepted: %v", text, err)
		}
	})
}

// BenchmarkContains asks for an address in one tag of many prefixes, as the
// largest published one has, and in a list of many tags.
func BenchmarkContains(b *testing.B) {
	tags := published(b, 100, 10_000)
	for _, bc := range []struct {
		name   string
		ranges []string
	}{
		{"one range", []string{"10.0.0.0/8"}},
		{"tag of 10000 prefixes", []string{"Service0"}},
		{"ten such tags", []string{"Service0", "Service1", "Service2", "Service3", "Service4", "Service5", "Service6", "Service7", "Service8", "Service9"}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s, outside := set(b, tags, bc.ranges...), addr(b, "203.0.113.9")
			b.ReportAllocs()
			for b.Loop() {
				if s.Contains(outside) {
					b.Fatal("contained")
				}
			}
		})
	}
}

// published makes a file of that many tags.
func published(t testing.TB, count, size int) *addresses.Tags {
	t.Helper()
	tags, err := addresses.ParseServiceTags(strings.NewReader(publishedText(count, size)))
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

func publishedText(count, size int) string {
	var text strings.Builder
	text.WriteString(`{"changeNumber":1,"cloud":"Public","values":[`)
	for i := range count {
		fmt.Fprintf(&text, `%s{"name":"Service%d","id":"Service%d","properties":{"changeNumber":1,"region":"","regionId":0,"platform":"Azure","systemService":"S","addressPrefixes":[`, comma(i), i, i)
		for j := range size {
			n := j * 8
			fmt.Fprintf(&text, `%s"20.%d.%d.%d/30"`, comma(j), n>>16, n>>8&255, n&255)
		}
		text.WriteString(`],"networkFeatures":["API","NSG"]}}`)
	}
	text.WriteString("]}")
	return text.String()
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}
