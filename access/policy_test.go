package access_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestCheckPolicy(t *testing.T) {
	many := make([]string, access.MaxSourceRanges+1)
	for i := range many {
		many[i] = "10.0.0.1"
	}
	for _, tc := range []struct {
		name string
		p    access.Policy
		says string // "" for a good one
	}{
		{"nothing", access.Policy{}, ""},
		{"all", access.Policy{ExpiresOn: noon, Locked: true, LockReason: "Störung 4711: see the wiki", AllowedSourceRanges: []string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::1", "AzureMachineLearning.WestEurope"}}, ""},
		{"past", access.Policy{ExpiresOn: noon.AddDate(-20, 0, 0)}, ""},
		{"another language's zero", access.Policy{ExpiresOn: time.Unix(0, 0)}, "expiresOn 1970-01-01T00:00:00Z must lie"},
		{"too late", access.Policy{ExpiresOn: noon.AddDate(8000, 0, 0)}, "expiresOn"},
		{"reason without lock", access.Policy{LockReason: "x"}, "locked is not true"},
		{"long reason", access.Policy{Locked: true, LockReason: strings.Repeat("x", access.MaxLockReason+1)}, "257 bytes"},
		{"two lines", access.Policy{Locked: true, LockReason: "a\nb"}, `'\n'`},
		{"right to left", access.Policy{Locked: true, LockReason: "a\u202eb"}, "printable"},
		{"not UTF-8", access.Policy{Locked: true, LockReason: "\xff"}, "UTF-8"},
		{"too many", access.Policy{AllowedSourceRanges: many}, "201 entries"},
		{"second entry", access.Policy{AllowedSourceRanges: []string{"10.0.0.0/8", ""}}, "allowedSourceRanges[1] has 0 bytes"},
		{"long entry", access.Policy{AllowedSourceRanges: []string{strings.Repeat("a", 129)}}, "allowedSourceRanges[0] has 129 bytes"},
	} {
		err := access.CheckPolicy(tc.p)
		if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestAdmits(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    access.Policy
		says string
	}{
		{"nothing", access.Policy{}, ""},
		{"before its end", access.Policy{ExpiresOn: noon.Add(1)}, ""},
		{"at its end", access.Policy{ExpiresOn: noon}, "access to cluster c1 expired on 2026-11-21T12:00:00Z"},
		{"after its end", access.Policy{ExpiresOn: noon.Add(-time.Hour)}, "expired on 2026-11-21T11:00:00Z"},
		{"locked", access.Policy{Locked: true}, "cluster c1 is locked: forbidden"},
		{"locked for a reason", access.Policy{Locked: true, LockReason: "incident 7", ExpiresOn: noon}, "cluster c1 is locked: incident 7"},
	} {
		err := tc.p.Admits("cluster c1", noon)
		if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestCombine(t *testing.T) {
	early, late := access.Policy{ExpiresOn: noon}, access.Policy{ExpiresOn: noon.Add(time.Hour)}
	for _, tc := range []struct {
		name             string
		cluster, binding access.Policy
		locked           bool
		expires          time.Time
	}{
		{"none", access.Policy{}, access.Policy{}, false, time.Time{}},
		{"cluster's end alone", early, access.Policy{}, false, noon},
		{"binding's end alone", access.Policy{}, early, false, noon},
		{"cluster's end first", early, late, false, noon},
		{"binding's end first", late, early, false, noon},
		{"cluster locked", access.Policy{Locked: true}, early, true, noon},
		{"binding locked", access.Policy{}, access.Policy{Locked: true}, true, time.Time{}},
	} {
		if locked, expires := access.Combine(tc.cluster, tc.binding); locked != tc.locked || !expires.Equal(tc.expires) {
			t.Errorf("%s: %v, %v", tc.name, locked, expires)
		}
	}
}

func TestNarrowsFrom(t *testing.T) {
	of := func(ranges ...string) access.Policy { return access.Policy{AllowedSourceRanges: ranges} }
	for _, tc := range []struct {
		name     string
		old, now access.Policy
		narrows  bool
	}{
		{"none, none", of(), of(), false},
		{"opened", of("10.0.0.0/8"), of(), false},
		{"closed", of(), of("10.0.0.0/8"), true},
		{"one more", of("10.0.0.0/8"), of("192.0.2.1", "10.0.0.0/8"), false},
		{"one less", of("10.0.0.0/8", "192.0.2.1"), of("10.0.0.0/8"), true},
		{"another", of("10.0.0.0/8"), of("192.0.2.1"), true},
	} {
		if tc.now.NarrowsFrom(tc.old) != tc.narrows {
			t.Errorf("%s: want %v", tc.name, tc.narrows)
		}
	}
}
