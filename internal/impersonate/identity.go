package impersonate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// identity is what a request becomes in the cluster.
type identity struct {
	user, group, bindingUID, source, requestID string
	kind                                       tunnel.Kind // whose headers the request has
}

type identityKey struct{}

// withIdentity is the one use of a context value here: the RoundTripper
// interface leaves no other way to hand the identity to the last step.
func withIdentity(ctx context.Context, id identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// set replaces every trace of an identity in h by this one.
func (id identity) set(h http.Header, token string) {
	for name := tunnel.SpoofsIdentity(h); name != ""; name = tunnel.SpoofsIdentity(h) {
		delete(h, name)
	}
	h.Set("Authorization", "Bearer "+token)
	h.Set("Impersonate-User", id.user)
	h.Set("Impersonate-Group", id.group)
	h.Set(extraHeader(access.ExtraBindingUID), id.bindingUID)
	h.Set(extraHeader(access.ExtraSource), id.source)
	// kube-apiserver takes the id over, which joins its audit log and ours.
	h.Set("Audit-ID", id.requestID)
}

// extraHeader is the header of an extra. kube-apiserver undoes the escape, which
// the key's slash needs in a header's name (RFC 9110, 5.6.2).
func extraHeader(key string) string {
	return "Impersonate-Extra-" + strings.ReplaceAll(key, "/", "%2f")
}

// roundTripper sets the identity last, on a copy of the request.
type roundTripper struct {
	next    http.RoundTripper
	token   func() (string, error)
	headers *tunnel.AllowList
}

// RoundTrip implements [http.RoundTripper]. Without an identity in the context
// it makes no call.
func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	out, err := identify(r, t.token)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := t.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	answer := t.headers.Trailers(resp, kindOf(r))
	tunnel.DropListed(answer.Header)
	t.headers.Response(answer.Header, kindOf(r))
	return answer, nil
}

// kindOf says whose headers a request has that was given an identity.
func kindOf(r *http.Request) tunnel.Kind {
	id, _ := r.Context().Value(identityKey{}).(identity)
	return id.kind
}

// errNoToken means that nothing was sent.
var errNoToken = errors.New("the proxy account's token cannot be read")

// identify returns a copy of r that carries the identity in its context and
// the account's token, or an error and nothing to send.
func identify(r *http.Request, token func() (string, error)) (*http.Request, error) {
	id, ok := r.Context().Value(identityKey{}).(identity)
	if !ok || id == (identity{}) {
		return nil, fmt.Errorf("request without a binding: %w", access.ErrForbidden)
	}
	bearer, err := token()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoToken, err)
	}
	out := r.Clone(r.Context())
	id.set(out.Header, bearer)
	return out, nil
}
