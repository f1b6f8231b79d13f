package gateway

import (
	"net/url"

	"github.com/sallyport/sallyport/access"
)

// ParseTarget is parseTarget, its result in parts.
func ParseTarget(u *url.URL, requestURI string) (cluster access.ResourceID, path, query string, err error) {
	t, err := parseTarget(u, requestURI)
	return t.cluster, t.path, t.query, err
}

// RecordsPerSecond is recordsPerSecond.
const RecordsPerSecond = recordsPerSecond

// Shares is how many clusters and bindings the limits are kept for.
func (g *Gateway) Shares() int {
	g.throttle.mu.Lock()
	defer g.throttle.mu.Unlock()
	return len(g.throttle.shares)
}
