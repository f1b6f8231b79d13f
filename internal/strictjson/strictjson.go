package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// maxQuoted is how many bytes of a member's name an error quotes.
const maxQuoted = 200

// Rules are what callers differ in.
type Rules struct {
	// MaxDepth is how many objects and arrays may lie in each other, at least 1:
	// the text itself is the first.
	MaxDepth int
	// FoldCase takes names that differ in case only for one, as encoding/json
	// does where it fills a struct.
	FoldCase bool
}

// Error says why a text was refused. It wraps [access.ErrInvalid] and quotes no
// value of the text, because tokens and secrets pass through here.
type Error struct {
	Reason string // why, unless Twice says it
	Twice  string // the member that occurs twice in one object
}

// Error returns the reason.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("member %q occurs twice in one object", access.Clip(e.Twice, maxQuoted))
	}
	return e.Reason
}

// Unwrap makes it an [access.ErrInvalid].
func (*Error) Unwrap() error { return access.ErrInvalid }

// Check refuses a text that is not one JSON object under the rules. The error
// is an [*Error].
func Check(data []byte, rules Rules) error {
	w := walker{json.NewDecoder(bytes.NewReader(data)), rules}
	if token, err := w.Token(); err != nil || token != json.Delim('{') {
		return &Error{Reason: "not a JSON object"}
	}
	if err := w.inside('{', 1); err != nil {
		return err
	}
	if _, err := w.Token(); !errors.Is(err, io.EOF) {
		return &Error{Reason: "more than one JSON value"}
	}
	return nil
}

// Decode reads a text that [Check] lets pass into v, a pointer to a struct, and
// refuses members that v does not know. The error is an [*Error].
func Decode(data []byte, rules Rules, v any) error {
	if err := Check(data, rules); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &Error{Reason: err.Error()}
	}
	return nil
}

// Fold makes names equal that encoding/json takes for the same. Up, then down,
// meets every letter that folds to another: 'ſ' is an s.
func Fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

type walker struct {
	*json.Decoder
	rules Rules
}

// inside reads the rest of an object or array, whose opening was just read and
// which is the depth-th inside another.
func (w walker) inside(open json.Delim, depth int) error {
	if depth > w.rules.MaxDepth {
		return &Error{Reason: fmt.Sprintf("nested deeper than %d levels", w.rules.MaxDepth)}
	}
	seen := map[string]bool{}
	for w.More() {
		if open == '{' {
			if err := w.name(seen); err != nil {
				return err
			}
		}
		token, err := w.Token()
		if err != nil {
			return w.broken()
		}
		if next, ok := token.(json.Delim); ok { // an opening: the decoder lets no other pass here
			if err := w.inside(next, depth+1); err != nil {
				return err
			}
		}
	}
	if _, err := w.Token(); err != nil { // the closing
		return w.broken()
	}
	return nil
}

// name reads the name of a member, whose object has had those that were seen.
func (w walker) name(seen map[string]bool) error {
	token, err := w.Token()
	if err != nil {
		return w.broken()
	}
	name, _ := token.(string)
	key := name
	if w.rules.FoldCase {
		key = Fold(name)
	}
	if seen[key] {
		return &Error{Twice: name}
	}
	seen[key] = true
	return nil
}

func (w walker) broken() error {
	return &Error{Reason: fmt.Sprintf("not a JSON object: wrong near byte %d", w.InputOffset())}
}
