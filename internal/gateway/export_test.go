package gateway

import (
	"io"
	"net/http"
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

// NewUpload returns the body of a request that is answered on w, and what is
// called with the head of the answer and behind its end.
func NewUpload(body io.ReadCloser, size int64, first bool, w http.ResponseWriter) (_ io.ReadCloser, answered func(http.Header), end func()) {
	u := &upload{ReadCloser: body, size: size, first: first, conn: http.NewResponseController(w)}
	return u, u.answered, u.end
}
