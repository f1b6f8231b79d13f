package arm

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Stamp sets the headers every ARM answer carries (spec/trusted-access.md 2.1,
// spec/identity.md 6.4). requestID is a GUID minted for this request; a
// client's own id is echoed when it asks, and never used for anything. The
// ratelimit figures are those of an idle real subscription: clients read
// them, and there is no limiter behind them.
func Stamp(w http.ResponseWriter, r *http.Request, requestID string, now time.Time) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "-1")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("x-ms-request-id", requestID)
	correlation := requestID
	if given := r.Header.Get("x-ms-correlation-request-id"); access.IsGUID(given) {
		correlation = given
	}
	h.Set("x-ms-correlation-request-id", correlation)
	h.Set("x-ms-routing-request-id", "SALLYPORT:"+now.UTC().Format("20060102T150405Z")+":"+requestID)
	kind, left, global := "reads", "249", "3749"
	switch r.Method {
	case http.MethodPut, http.MethodPost, http.MethodPatch:
		kind, left, global = "writes", "199", "2999"
	case http.MethodDelete:
		kind, left, global = "deletes", "199", "2999"
	}
	h.Set("x-ms-ratelimit-remaining-subscription-"+kind, left)
	h.Set("x-ms-ratelimit-remaining-subscription-global-"+kind, global)
	if id := r.Header.Get("x-ms-client-request-id"); strings.EqualFold(r.Header.Get("x-ms-return-client-request-id"), "true") && isVisible(id) {
		h.Set("x-ms-client-request-id", id)
	}
}

// isVisible admits what may be echoed in a header.
func isVisible(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Write answers with a JSON body, or with none when body is nil.
func Write(w http.ResponseWriter, status int, body any) error {
	if body == nil {
		w.WriteHeader(status)
		return nil
	}
	text, err := Marshal(body)
	if err != nil {
		WriteError(w, FromError(err))
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, err = w.Write(text)
	return err
}

// WriteError answers with an error.
func WriteError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	h.Set("x-ms-error-code", e.Code)
	_ = Write(w, e.Status, e) // the client is gone; there is nobody to tell
}

// Marshal writes JSON as the real service does, with one space per level and
// without HTML escapes, so that the shipped role list has the real reply's
// 8032 bytes.
func Marshal(v any) ([]byte, error) {
	text, err := marshal(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", " "); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
