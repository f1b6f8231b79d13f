package access

import (
	"strings"
	"unicode/utf8"
)

// maxQuoted is how many bytes of a client's value an error quotes.
const maxQuoted = 200

// Clip shortens a text that somebody else chose, so that it cannot fill a log
// or an answer: of more than most bytes it keeps at most most, whole runes
// only, and "…" after them.
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// Message is the text of an error, which must not be nil, without the words of
// the six kinds at its end: a status, code or exit code says the kind already.
func Message(err error) string {
	text := err.Error()
	for rest := ""; rest != text; {
		rest = text
		for _, kind := range []error{ErrInvalid, ErrUnauthenticated, ErrForbidden, ErrNotFound, ErrConflict, ErrUnavailable} {
			text = strings.TrimSuffix(text, ": "+kind.Error())
		}
	}
	return text
}
