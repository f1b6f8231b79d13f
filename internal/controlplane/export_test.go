package controlplane

import (
	"net/http"
	"net/http/httptest"
)

// Remembered returns how many clusters' agents are known here.
func (c *ControlPlane) Remembered() int {
	c.feeds.mu.Lock()
	defer c.feeds.mu.Unlock()
	return max(len(c.feeds.seen), len(c.feeds.keys))
}

// Route is a row of the table, for tests that walk it.
type Route struct {
	Method, Pattern, Who string
}

// Routes returns the whole table.
func (c *ControlPlane) Routes() []Route {
	names := map[who]string{owner: "owner", listed: "listed", signedIn: "signedIn", open: "open"}
	routes := make([]Route, len(c.routes))
	for i, rt := range c.routes {
		routes[i] = Route{rt.method, rt.pattern.String(), names[rt.who]}
	}
	return routes
}

// Admit asks what every request is asked before its handler runs, and returns
// the pattern of the route that would serve it.
func (c *ControlPlane) Admit(r *http.Request) (pattern string, err error) {
	q := &request{c: c, http: r, w: httptest.NewRecorder()}
	_, err = c.admit(r.Context(), q)
	return q.route, err
}
