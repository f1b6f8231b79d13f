package tunnel

import (
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

// AllowList says which headers may pass. One is made for each proxy and used
// for all its requests.
type AllowList struct{ request, upgrade, response, upgraded allowed }

// NewAllowList returns the list both ends apply.
func NewAllowList() *AllowList {
	return &AllowList{requestHeaders(), upgradeHeaders(), responseHeaders(), upgradedHeaders()}
}

// Request deletes from h whatever may not travel to the API server.
func (l *AllowList) Request(h http.Header, upgrade bool) { keep(h, l.request, l.upgrade, upgrade) }

// Response deletes from h whatever may not travel to the client; upgraded is
// set for a 101 answer.
func (l *AllowList) Response(h http.Header, upgraded bool) { keep(h, l.response, l.upgraded, upgraded) }

func keep(h http.Header, always, upgrading allowed, upgrade bool) {
	for name := range h {
		// The names are canonical, so "impersonate_user" or a casing of its
		// own cannot match.
		if always[name] || upgrade && upgrading[name] {
			continue
		}
		delete(h, name)
	}
}

// SpoofsIdentity returns the first header by which a client tries to name
// another identity, whatever its casing or separators (item 1), or "".
func SpoofsIdentity(h http.Header) string {
	const prefix = "impersonate"
	for name := range h {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return name
		}
	}
	return ""
}
