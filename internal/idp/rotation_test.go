package idp_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
)

// stages opens keys on a clock that the test moves.
func stages(t *testing.T) (k *idp.Keys, dir string, at func(time.Duration)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "keys")
	start := time.Now()
	now := start
	k, err := idp.OpenKeys(dir, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return k, dir, func(d time.Duration) { now = start.Add(d) }
}

func states(k *idp.Keys) (all []idp.KeyState) {
	for _, info := range k.Signing() {
		all = append(all, info.State)
	}
	return all
}

func kids(t *testing.T, k *idp.Keys) (all []string) {
	t.Helper()
	for _, key := range published(t, k) {
		all = append(all, key["kid"].(string))
	}
	return all
}

// TestRotateOverlap: a new key is published before it signs, and an old one
// until the last token that it can have signed has expired.
func TestRotateOverlap(t *testing.T) {
	k, dir, at := stages(t)
	old := kids(t, k)[0]
	fresh, err := k.Rotate(idp.KeyLead)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, signs string, want ...idp.KeyState) {
		t.Helper()
		if got := states(k); !slices.Equal(got, want) {
			t.Errorf("%s: states are %v, want %v", when, got, want)
		}
		for _, info := range k.Signing() {
			if info.State == idp.KeySigns && info.ID != signs {
				t.Errorf("%s: %s signs, want %s", when, info.ID, signs)
			}
		}
		if n := len(kids(t, k)); n != len(want) {
			t.Errorf("%s: %d keys published, want %d", when, n, len(want))
		}
	}
	check("at once", old, idp.KeyPublished, idp.KeySigns)
	if _, err := k.Rotate(idp.KeyLead); !errors.Is(err, access.ErrConflict) {
		t.Errorf("again: %v, want ErrConflict", err)
	}
	at(idp.KeyLead - time.Second - time.Millisecond)
	check("a moment before its time", old, idp.KeyPublished, idp.KeySigns)
	at(idp.KeyLead)
	check("in its time", fresh.ID, idp.KeySigns, idp.KeyVerifies)
	at(idp.KeyLead + 24*time.Hour + 6*time.Minute)
	check("when its last token has just expired", fresh.ID, idp.KeySigns, idp.KeyVerifies)
	at(idp.KeyLead + idp.KeyOverlap)
	check("after the overlap", fresh.ID, idp.KeySigns)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 3 {
		t.Errorf("before the sweep: %v, %v", names, err)
	}
	if err := k.Sweep(); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("after the sweep: %v, %v, want one signing key", names, err)
	}
}

// TestRotateClock: a clock set back by an hour leaves a key that signs, and
// one set forward takes no key away whose tokens are good.
func TestRotateClock(t *testing.T) {
	k, _, at := stages(t)
	at(-time.Hour)
	if got := states(k); !slices.Equal(got, []idp.KeyState{idp.KeySigns}) {
		t.Errorf("an hour before its birth: %v", got)
	}
	at(0)
	if _, err := k.Rotate(0); err != nil {
		t.Fatal(err)
	}
	at(24*time.Hour + 5*time.Minute + time.Hour) // its last token, by the true clock
	if got := states(k); len(got) != 2 {
		t.Errorf("an hour ahead: %v, want both", got)
	}
}

// TestWithdraw is a key that others have seen.
func TestWithdraw(t *testing.T) {
	k, dir, at := stages(t)
	old := kids(t, k)[0]
	if err := k.Withdraw(old); !errors.Is(err, access.ErrConflict) {
		t.Errorf("the key that signs: %v, want ErrConflict", err)
	}
	if err := k.Withdraw("none"); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("no such key: %v, want ErrNotFound", err)
	}
	pending, err := k.Rotate(idp.KeyLead)
	if err != nil {
		t.Fatal(err)
	}
	at(time.Minute)
	fresh, err := k.Rotate(0) // now, and not in two hours
	if err != nil {
		t.Fatal(err)
	}
	at(2 * time.Minute)
	if got := kids(t, k); slices.Contains(got, pending.ID) || got[0] != fresh.ID {
		t.Errorf("published are %v, want %s and the old one", got, fresh.ID)
	}
	if err := k.Withdraw(old); err != nil {
		t.Fatal(err)
	}
	if got := kids(t, k); !slices.Equal(got, []string{fresh.ID}) {
		t.Errorf("published are %v, want %s alone", got, fresh.ID)
	}
	again, err := idp.OpenKeys(dir, time.Now)
	if err != nil || !slices.Equal(kids(t, again), []string{fresh.ID}) {
		t.Errorf("after a restart: %v, %v", kids(t, again), err)
	}
}
