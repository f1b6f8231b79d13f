package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sallyport/sallyport/access"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"", 3, ""},
		{"abc", 3, "abc"},
		{"abcd", 3, "abc…"},
		{"aé", 3, "aé"},
		{"aéb", 2, "a…"}, // é has two bytes
		{"a😀b", 4, "a…"},
		{"a😀b", 5, "a😀…"},
		{"abc", 0, "…"},
		{"\x80\x80\x80", 2, "…"}, // no rune begins here
	} {
		if got := access.Clip(c.in, c.most); got != c.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

// FuzzClip: what is kept is a beginning of the text, within the bound, and
// valid where the text was.
func FuzzClip(f *testing.F) {
	f.Add("aéb", 2)
	f.Add("\xff\x80a😀", 3)
	f.Fuzz(func(t *testing.T, s string, most int) {
		if most < 0 {
			return
		}
		got := access.Clip(s, most)
		kept, cut := strings.CutSuffix(got, "…")
		if len(s) <= most {
			if got != s {
				t.Fatalf("Clip(%q, %d) = %q", s, most, got)
			}
			return
		}
		if !cut || len(kept) > most || !strings.HasPrefix(s, kept) || utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Fatalf("Clip(%q, %d) = %q", s, most, got)
		}
	})
}

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("name %q: %w", "x", access.ErrInvalid), `name "x"`},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", access.ErrNotFound)), "a: b"},
		{fmt.Errorf("a: %w: %w", fmt.Errorf("b: %w", access.ErrUnavailable), access.ErrForbidden), "a: b"},
		{fmt.Errorf("a: %w: %w", fmt.Errorf("b: %w", access.ErrForbidden), access.ErrUnavailable), "a: b"},
		{fmt.Errorf("invalid: %w", errors.New("port")), "invalid: port"},
		{access.ErrConflict, "conflict"},
	} {
		if got := access.Message(c.err); got != c.want {
			t.Errorf("Message(%q) = %q, want %q", c.err, got, c.want)
		}
	}
}
