package tunnel

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Claim is a grant as the gateway states it to the agent. It is only a claim:
// the agent checks it against the bindings it learned itself.
type Claim struct {
	Binding    string
	BindingUID string
	Source     access.ResourceID
	RequestID  string
}

// StampClaim writes a grant and the request's id, a GUID, into the private
// headers of a tunnelled request. Whatever stood there before is replaced.
func StampClaim(h http.Header, g access.Grant, requestID string) {
	h.Set(HeaderBinding, g.Binding)
	h.Set(HeaderBindingUID, g.BindingUID)
	h.Set(HeaderSource, g.Source.String())
	h.Set(HeaderRequestID, requestID)
}

// ReadClaim parses the private headers of a tunnelled request, each of which
// must be there exactly once and well formed. The error wraps
// [access.ErrForbidden].
func ReadClaim(h http.Header) (Claim, error) {
	var c Claim
	var source string
	for _, field := range []struct {
		name string
		to   *string
	}{
		{HeaderBinding, &c.Binding},
		{HeaderBindingUID, &c.BindingUID},
		{HeaderSource, &source},
		{HeaderRequestID, &c.RequestID},
	} {
		v := h.Values(field.name)
		if len(v) != 1 || v[0] == "" {
			return Claim{}, fmt.Errorf("header %s must be there once, not %d times: %w", field.name, len(v), access.ErrForbidden)
		}
		*field.to = v[0]
	}
	if err := access.CheckBindingName(c.Binding); err != nil {
		return Claim{}, fmt.Errorf("%v: %w", err, access.ErrForbidden)
	}
	if !access.IsGUID(c.BindingUID) || !access.IsGUID(c.RequestID) {
		return Claim{}, fmt.Errorf("binding uid %q and request id %q must be GUIDs: %w", c.BindingUID, c.RequestID, access.ErrForbidden)
	}
	var err error
	if c.Source, err = access.ParseResourceID(source); err != nil {
		return Claim{}, fmt.Errorf("%v: %w", err, access.ErrForbidden)
	}
	return c, nil
}

// headerRefused says that the agent itself refused a request, and why. The
// agent deletes it from what an API server answers, so a cluster cannot forge
// it.
const headerRefused = "Sallyport-Refused"

// RefusedError is a refusal by the agent, which the gateway words as a
// Kubernetes Status.
type RefusedError struct {
	Reason string
	kind   error
}

// Error gives the agent's reason.
func (e *RefusedError) Error() string {
	if errors.Is(e.kind, ErrNoAnswer) {
		return e.Reason
	}
	return "the cluster's agent refused: " + e.Reason
}

// Unwrap returns the kind of the refusal, one of access's six, [ErrNoAnswer] or
// nil.
func (e *RefusedError) Unwrap() error { return e.kind }

// ErrNoAnswer says that an API server may have had a request, and that no answer
// of it could be had. It is none of access's kinds, for nothing may invite a
// client to repeat what may have had its effect.
var ErrNoAnswer = errors.New("the API server gave no answer; the request may have had its effect")

// refusalKind gives a kind of refusal its word on the wire.
type refusalKind struct {
	word string
	kind error
}

// refusalKinds are looked through in this order.
func refusalKinds() []refusalKind {
	return []refusalKind{
		{"forbidden", access.ErrForbidden},
		{"invalid", access.ErrInvalid},
		{"unavailable", access.ErrUnavailable},
		{"unanswered", ErrNoAnswer},
	}
}

// Refuse answers a tunnelled request with the agent's own refusal.
func Refuse(w http.ResponseWriter, err error) {
	word, reason := "internal", "internal error"
	for _, k := range refusalKinds() {
		if errors.Is(err, k.kind) {
			word, reason = k.word, err.Error()
			break
		}
	}
	w.Header().Set(headerRefused, word+" "+strconv.QuoteToASCII(reason))
	w.WriteHeader(http.StatusForbidden)
}

// Refused returns the refusal that an agent's answer carries, or nil.
func Refused(h http.Header) error {
	value := h.Get(headerRefused)
	if value == "" {
		return nil
	}
	word, quoted, _ := strings.Cut(value, " ")
	reason, err := strconv.Unquote(quoted)
	if err != nil {
		reason = "unreadable reason"
	}
	refused := &RefusedError{Reason: reason}
	for _, k := range refusalKinds() {
		if k.word == word {
			refused.kind = k.kind
		}
	}
	return refused
}
