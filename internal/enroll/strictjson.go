package enroll

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/access"
)

const maxDepth = 16

// checkJSON refuses JSON that two readers could understand differently: keys
// that occur twice in an object, also in another case, since encoding/json
// takes the last and folds case where other readers do not (checklist, item
// 14). Values are not quoted in the error, because tokens pass through here.
func checkJSON(data []byte) error {
	if !json.Valid(data) {
		return errors.New("not valid JSON")
	}
	return checkValue(json.NewDecoder(bytes.NewReader(data)), 0)
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			// Up, then down, meets every letter that folds to another.
			folded := strings.ToLower(strings.ToUpper(name))
			if seen[folded] {
				return fmt.Errorf("key %q occurs twice", access.Clip(name, maxQuoted))
			}
			seen[folded] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing delimiter
	return err
}

// decodeStrict reads one JSON object into v and refuses duplicate and unknown
// keys.
func decodeStrict(data []byte, v any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}
