package tunnel

import (
	"io"
	"net/http"
	"strings"
)

// allowed is a set of canonical header names.
type allowed map[string]bool

// requestHeaders are the client's headers that may travel to an API server.
// It is an allow-list (security checklist, item 2): identity, forwarding and
// private headers are absent, so they stop at both ends.
func requestHeaders() allowed {
	return allowed{
		"Accept":              true,
		"Accept-Encoding":     true,
		"Content-Encoding":    true,
		"Content-Length":      true,
		"Content-Type":        true,
		"If-Match":            true,
		"If-Modified-Since":   true,
		"If-None-Match":       true,
		"If-Unmodified-Since": true,
		"Kubectl-Command":     true,
		"Kubectl-Session":     true,
		"Range":               true,
		"User-Agent":          true,
	}
}

// upgradeHeaders may travel as well when a request asks for an upgrade.
func upgradeHeaders() allowed {
	return allowed{
		"Connection":                true, // rewritten to "Upgrade" by whoever sends
		"Upgrade":                   true,
		"Sec-Websocket-Extensions":  true,
		"Sec-Websocket-Key":         true,
		"Sec-Websocket-Protocol":    true,
		"Sec-Websocket-Version":     true,
		"X-Stream-Protocol-Version": true,
	}
}

// responseHeaders are a cluster's headers that may reach a client. A cluster's
// answers are hostile input (item 28): no cookies, no reporting, no policies.
func responseHeaders() allowed {
	return allowed{
		"Accept-Patch":                      true,
		"Accept-Ranges":                     true,
		"Allow":                             true,
		"Audit-Id":                          true,
		"Cache-Control":                     true,
		"Content-Encoding":                  true,
		"Content-Length":                    true,
		"Content-Range":                     true,
		"Content-Type":                      true,
		"Date":                              true,
		"Etag":                              true,
		"Last-Modified":                     true,
		"Location":                          true, // checked by the gateway: same cluster only
		"Retry-After":                       true,
		"Vary":                              true,
		"Warning":                           true,
		"X-Kubernetes-Pf-Flowschema-Uid":    true,
		"X-Kubernetes-Pf-Prioritylevel-Uid": true,
	}
}

// upgradedHeaders may reach a client as well with status 101.
func upgradedHeaders() allowed {
	return allowed{
		"Connection":                true,
		"Upgrade":                   true,
		"Sec-Websocket-Accept":      true,
		"Sec-Websocket-Extensions":  true,
		"Sec-Websocket-Protocol":    true,
		"X-Stream-Protocol-Version": true,
	}
}

// Kind says whose headers a request and its answer carry.
type Kind struct {
	// Upgrade is set for a request that asks for an upgrade, and for an answer
	// of 101.
	Upgrade bool
	// Application is set when an application is on the other side of the API
	// server's proxy of pods and services: see application.go.
	Application bool
}

// AllowList says which headers may pass. One is made for each proxy and used
// for all its requests.
type AllowList struct{ request, upgrade, response, upgraded allowed }

// NewAllowList returns the list both ends apply.
func NewAllowList() *AllowList {
	return &AllowList{requestHeaders(), upgradeHeaders(), responseHeaders(), upgradedHeaders()}
}

// Request deletes from h whatever may not travel to the API server.
func (l *AllowList) Request(h http.Header, k Kind) {
	if !k.Upgrade {
		DropListed(h)
	}
	for name := range h {
		// The names are canonical, so "impersonate_user" or a casing of its
		// own cannot match.
		if l.request[name] || k.Upgrade && l.upgrade[name] || k.Application && !l.upgrade[name] && toApplication(name) {
			continue
		}
		delete(h, name)
	}
}

// Response deletes from h whatever may not travel to the client.
func (l *AllowList) Response(h http.Header, k Kind) {
	for name := range h {
		if l.response[name] || k.Upgrade && l.upgraded[name] || k.Application && !l.upgraded[name] && fromApplication(name) {
			continue
		}
		delete(h, name)
	}
}

// Trailers returns a copy of an API server's answer whose trailers are those
// that may travel to the client: an application's, and none of the API server's
// own, which uses none. net/http fills in trailers when the body has ended, so
// the original must not be passed on.
func (l *AllowList) Trailers(resp *http.Response, k Kind) *http.Response {
	answer := *resp
	answer.Trailer = nil
	if !k.Application {
		return &answer
	}
	answer.Trailer = l.trailers(resp.Trailer)
	answer.Body = &trailing{ReadCloser: resp.Body, ended: func() { answer.Trailer = l.trailers(resp.Trailer) }}
	return &answer
}

// trailers returns those of t that may pass. What has a meaning as a header of
// the answer has none behind its body.
func (l *AllowList) trailers(t http.Header) http.Header {
	if len(t) == 0 {
		return nil
	}
	kept := t.Clone()
	for name := range kept {
		if l.response[name] || l.upgraded[name] || !fromApplication(name) {
			delete(kept, name)
		}
	}
	return kept
}

// trailing tells when a body has been read to its end.
type trailing struct {
	io.ReadCloser
	ended func()
}

// Read serves [io.Reader].
func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended()
	}
	return n, err
}

// SpoofsIdentity returns the first header by which a client tries to name
// another identity, whatever its casing or separators (item 1), or "". A
// WebSocket's subprotocols can do so too: an API server takes a bearer token
// there that it would fall back to if it did not know the agent's.
func SpoofsIdentity(h http.Header) string {
	const prefix = "impersonate"
	for name, values := range h {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return name
		}
		if strings.EqualFold(name, "Sec-Websocket-Protocol") && strings.Contains(strings.ToLower(strings.Join(values, ",")), "bearer.authorization.k8s.io") {
			return name
		}
	}
	return ""
}
