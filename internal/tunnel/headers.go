package tunnel

import (
	"net/http"
	"slices"
	"strings"
)

// Headers that only the two ends of a tunnel exchange. They start empty at
// every hop: what a client or an API server sends under these names is
// dropped, never passed on (see [IsPrivate]).
const (
	// HeaderBinding and HeaderBindingUID name the binding a request was granted
	// by; HeaderSource is the source's resource id, HeaderRequestID the id under
	// which gateway, agent and kube-apiserver log the request.
	HeaderBinding    = "Sallyport-Binding"
	HeaderBindingUID = "Sallyport-Binding-Uid"
	HeaderSource     = "Sallyport-Source"
	HeaderRequestID  = "Sallyport-Request-Id"

	// HeaderUpgrade is the protocol an upgrade asks for and HeaderMethod the
	// method it asked with, since on the stream it is always a POST.
	// HeaderUpgraded, in the answer, says that the API server answered 101.
	HeaderUpgrade  = "Sallyport-Upgrade"
	HeaderMethod   = "Sallyport-Method"
	HeaderUpgraded = "Sallyport-Upgraded"

	// HeaderTrace is the gateway's span, as a traceparent (W3C Trace Context).
	HeaderTrace = "Sallyport-Trace"
)

const privatePrefix = "sallyport"

// IsPrivate reports whether a header of this name belongs to the tunnel. The
// comparison ignores case and takes an underscore for the dash, as some servers
// behind us do.
func IsPrivate(name string) bool {
	n := len(privatePrefix)
	return len(name) > n && strings.EqualFold(name[:n], privatePrefix) && (name[n] == '-' || name[n] == '_')
}

// StripPrivate removes the tunnel's headers from h.
func StripPrivate(h http.Header) {
	for name := range h {
		if IsPrivate(name) {
			delete(h, name)
		}
	}
}

// DropListed deletes from h what its Connection lists, which is of one
// connection (RFC 9110, 7.6.1). Whoever sets a header of his own does so
// afterwards, or it could be named, and lost (checklist 3).
func DropListed(h http.Header) {
	for _, list := range slices.Clone(h["Connection"]) {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
}

// stripHop removes the headers that describe one connection. It does not act on
// the names that Connection lists: a client could name the headers that were
// set for it, and so lose its identity on the way (checklist 3).
func stripHop(h http.Header) {
	for _, name := range hopHeaders() {
		h.Del(name)
	}
}

func hopHeaders() [10]string {
	return [...]string{
		"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	}
}
