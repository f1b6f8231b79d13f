package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// MaxBody bounds a request's body in bytes. ARM takes 8 MB; a document is kept
// as one value of the store, which takes less.
const MaxBody = 1 << 20

// BodyTimeout is how long a client may take to send a request's body.
const BodyTimeout = 30 * time.Second

// maxDepth bounds the nesting of a body.
const maxDepth = 64

// LimitBody sets [BodyTimeout] for the body of r, which nobody has read yet.
// It comes before anything that can refuse r: net/http reads the rest of an
// unread body before it answers.
func LimitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 { // no body; -1 is one of unknown length
		return
	}
	// What cannot set deadlines is no connection of net/http's server.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(BodyTimeout))
}

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
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &Error{Status: http.StatusRequestTimeout, Code: "RequestTimeout",
			Message: "The request content did not arrive within " + BodyTimeout.String() + "."}
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
	err := strictjson.Check(text, strictjson.Rules{MaxDepth: maxDepth, FoldCase: true})
	var fault *strictjson.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fault) && fault.Twice != "": // ARM's way to quote
		return InvalidContent("member '%s' occurs twice in one object", access.Clip(fault.Twice, maxQuoted))
	}
	return InvalidContent("%v", err)
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

// writeOnly reports whether a member is taken for a secret of the client's:
// adminPassword, servicePrincipalProfile.secret, kubeconfigs and their like, by
// the ending of its name, in the singular or plural and in any spelling
// (access_key, Access-Key). An ending, because azureKeyvaultSecretsProvider,
// enableSecretRotation and azureKeyVaultKms.keyId are not secrets, and nor is
// true or false, as in automountServiceAccountToken.
func writeOnly(name string, value any) bool {
	if _, isBool := value.(bool); isBool {
		return false
	}
	name = strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace(strictjson.Fold(name))
	name = strings.TrimSuffix(name, "s")
	for _, end := range []string{
		"password", "passwd", "pwd", "passphrase", "passcode", "secret", "secretvalue", "credential", "token",
		"secretkey", "privatekey", "sharedkey", "accountkey", "accesskey", "apikey", "storagekey", "signingkey",
		"symmetrickey", "masterkey", "primarykey", "secondarykey", "subscriptionkey", "functionkey",
		"connectionstring", "sharedaccesssignature", "sasuri", "sasurl",
		"kubeconfig", "protectedsetting",
	} {
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
		if !writeOnly(name, value) {
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
