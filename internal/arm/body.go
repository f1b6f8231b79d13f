package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// MaxBody bounds a request's body in bytes. ARM takes 8 MB; a document is kept
// as one value of the store, which takes less.
const MaxBody = 1 << 20

// maxDepth bounds the nesting of a body.
const maxDepth = 64

// ReadBody reads a request's body, which must be one JSON object, without two
// members of one name in any casing. An empty body reads as {}. The error is
// an [*Error].
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "RequestContentTooLarge",
			Message: "The request content has more than 1048576 bytes, the most that is accepted."}
	}
	if err != nil {
		return nil, InvalidContent("it could not be read to its end")
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return []byte("{}"), nil
	}
	return text, CheckBody(text)
}

// CheckBody holds text to the rules of [ReadBody].
func CheckBody(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 || bytes.TrimSpace(text)[0] != '{' {
		return InvalidContent("a JSON object is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return InvalidContent("there is more after the JSON object")
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return InvalidContent("it is nested deeper than %d levels", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return InvalidContent("it is not JSON near byte %d", dec.InputOffset())
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			token, err := dec.Token()
			if err != nil {
				return InvalidContent("it is not JSON near byte %d", dec.InputOffset())
			}
			name, _ := token.(string)
			folded := strings.ToLower(strings.ToUpper(name)) // encoding/json folds so: 'ſ' is an s
			if seen[folded] {
				return InvalidContent("member '%s' occurs twice in one object", clip(name))
			}
			seen[folded] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return InvalidContent("it is not JSON near byte %d", dec.InputOffset())
	}
	return nil
}

// Decode reads text, which passed [CheckBody], into v. Members v does not know
// are let pass, as ARM does. The error is an [*Error].
func Decode(text []byte, v any) error {
	err := json.Unmarshal(text, v)
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) {
		return InvalidContent("member '%s' is a JSON %s, which does not fit", typ.Field, typ.Value)
	}
	if err != nil {
		return InvalidContent("it could not be read")
	}
	return nil
}

// writeOnly are the endings of names, lower case, whose values are secrets of
// the client's: adminPassword, servicePrincipalProfile.secret,
// configurationProtectedSettings and their like. An ending, because
// azureKeyvaultSecretsProvider and enableSecretRotation are not secrets.
func writeOnly(name string) bool {
	name = strings.ToLower(name)
	for _, end := range []string{"password", "passwd", "secret", "secrets", "secretvalue", "privatekey", "connectionstring",
		"sharedkey", "accountkey", "accesskey", "apikey", "token", "protectedsettings", "credentials"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// Redact returns a document without its write-only members, at any depth. It
// runs before a document is stored, so they exist nowhere afterwards.
func Redact(doc map[string]any) map[string]any {
	out := make(map[string]any, len(doc))
	for name, value := range doc {
		if !writeOnly(name) {
			out[name] = redactValue(value)
		}
	}
	return out
}

func redactValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return Redact(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = redactValue(v[i])
		}
		return out
	}
	return value
}

// ParseDocument reads an object whose numbers keep their text.
func ParseDocument(text []byte) (map[string]any, error) {
	doc := map[string]any{}
	if len(text) == 0 {
		return doc, nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, InvalidContent("it could not be read")
	}
	return doc, nil
}
