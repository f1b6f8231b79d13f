package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/requestinfo"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// errLost is answered with 502 and no Retry-After: the request may have had
// its effect, and a client must not repeat it blindly.
var errLost = errors.New("the connection to the cluster's agent was lost during the request")

// forward sends an admitted request through the tunnel and copies the answer
// back. Nothing in it can refuse.
func (g *Gateway) forward(ctx context.Context, w *recorder, r *http.Request, adm *admission, requestID string) {
	out, to := g.outgoing(ctx, r, adm, requestID), checked{g, adm, requestID}
	if adm.upgrade {
		g.forwardUpgrade(w, out, to)
		return
	}
	began, err := g.forwarder.Forward(w, out, to)
	if err == nil {
		return
	}
	if !began {
		g.forwardFailed(w, ctx, refusal{requestID, adm.path, err})
		return
	}
	g.cfg.Logger.Debug("answer cut short", "request", requestID, "error", err)
	panic(http.ErrAbortHandler) // it must not look whole
}

// outgoing is the request as the agent shall see it.
func (g *Gateway) outgoing(ctx context.Context, r *http.Request, adm *admission, requestID string) *http.Request {
	out := r.WithContext(ctx)
	// The bytes that were authorised, not a cleaned copy of them.
	out.URL = &url.URL{Scheme: "http", Host: "cluster", RawPath: adm.path, RawQuery: adm.query}
	out.URL.Path, _ = url.PathUnescape(adm.path)
	out.Host, out.RequestURI, out.Close = "cluster", "", false
	out.Trailer = nil
	out.Header = r.Header.Clone()
	g.headers.Request(out.Header, adm.kind())
	tunnel.StampClaim(out.Header, adm.grant, requestID)
	return out
}

// forwardUpgrade passes an exec, attach or port-forward through.
func (g *Gateway) forwardUpgrade(w *recorder, out *http.Request, to checked) {
	adm := to.admission
	status, up, down, err := tunnel.ServeUpgrade(w, out, to, func(h http.Header) {
		g.headers.Response(h, adm.kind())
		protect(h, adm)
	})
	if status == 0 {
		w.Header().Set("Connection", "close") // what came behind the request is not read (item 7)
		g.forwardFailed(w, out.Context(), refusal{to.requestID, adm.path, err})
		return
	}
	w.status, w.bytes, w.received = status, up+down, up
	if err != nil && status != http.StatusSwitchingProtocols {
		panic(http.ErrAbortHandler) // an answer cut short must not look whole
	}
}

// forwardFailed answers a request whose forwarding failed before an answer
// began.
func (g *Gateway) forwardFailed(w *recorder, ctx context.Context, r refusal) {
	err := r.err
	if cause := context.Cause(ctx); cause != nil && (errors.Is(cause, access.ErrForbidden) || errors.Is(cause, errTokenEnded)) {
		err = cause // cut by a revocation, or with its token
	}
	var refused *tunnel.RefusedError
	switch {
	case errors.As(err, &refused), errors.Is(err, access.ErrForbidden), errors.Is(err, errTokenEnded), errors.Is(err, errBadAnswer), errors.Is(err, tunnel.ErrNotSent):
	case ctx.Err() != nil:
		err = errLost // the client is gone; nobody reads this
	default:
		g.cfg.Logger.Warn("forwarding failed", "request", r.requestID, "error", err)
		err = errLost
	}
	r.err = err
	g.refuse(w, "forward", r)
}

// errBadAnswer marks an answer of the cluster that must not reach a client.
var errBadAnswer = errors.New("the cluster's answer was refused")

// checked is the way to a cluster's agent whose every answer is checked, to
// plain requests and to upgrades alike.
type checked struct {
	gateway   *Gateway
	admission *admission
	requestID string
}

// RoundTrip implements [http.RoundTripper].
func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.admission.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer := c.gateway.headers.Trailers(resp, c.admission.kind())
	if err := c.check(answer); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return answer, nil
}

// check cuts a cluster's answer down to what a client may see.
func (c checked) check(resp *http.Response) error {
	adm := c.admission
	if err := tunnel.Refused(resp.Header); err != nil {
		return err
	}
	if adm.upgrade && resp.StatusCode == http.StatusOK && resp.Header.Get(tunnel.HeaderUpgraded) != "" {
		return nil // an accepted upgrade; tunnel.ServeUpgrade has its headers filtered
	}
	c.gateway.headers.Response(resp.Header, tunnel.Kind{Application: adm.info.Application()})
	if err := redirect(resp, adm); err != nil {
		return err
	}
	resp.Header.Set("Audit-Id", c.requestID) // as the cluster was told; it does not say otherwise
	protect(resp.Header, adm)
	contentType(resp, adm)
	return nil
}

// redirect makes the Location of an answer one in the form by which the client
// came, or refuses the answer. One that is not to be followed and names another
// place is dropped: an application's 201 had its effect.
func redirect(resp *http.Response, adm *admission) error {
	locations := resp.Header["Location"]
	if len(locations) == 1 && adm.info.Application() {
		locations = []string{resolve(adm.path, locations[0])}
	}
	switch {
	case len(locations) == 0:
	case len(locations) == 1 && insideCluster(locations[0]):
		resp.Header.Set("Location", adm.prefix+locations[0])
	case adm.info.Application() && (resp.StatusCode < 300 || resp.StatusCode >= 400):
		resp.Header.Del("Location")
	default:
		return fmt.Errorf("%w: it redirects to another host or out of the cluster", errBadAnswer)
	}
	return nil
}

// resolve returns a relative redirect, which an API server passes on as the
// application wrote it, in the form that begins with a slash: what a client
// makes of it at the path that it asked for (RFC 3986 5.2). Any other is
// returned as it is, for the caller to judge.
func resolve(path, location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "" || u.Host != "" || location == "" || location[0] == '/' {
		return location
	}
	base, err := url.Parse(path)
	if err != nil {
		return location
	}
	return base.ResolveReference(u).String()
}

// protect keeps browsers from acting on an answer, if one ever gets it. An
// application's may be of any type, and is true to its bytes; so it is rendered,
// if at all, in an origin of its own, with no script and nothing loaded.
func protect(h http.Header, adm *admission) {
	h.Set("X-Content-Type-Options", "nosniff")
	if adm.info.Application() {
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
	}
}

// contentType holds an answer to one type: Kubernetes' own to the few it has,
// an application's to any single one.
func contentType(resp *http.Response, adm *admission) {
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return
	}
	types := resp.Header["Content-Type"]
	one := len(types) == 1 && !strings.Contains(types[0], ",") // of several a browser takes the last
	switch {
	case adm.info.Application() && !one:
		resp.Header.Set("Content-Type", "application/octet-stream")
	case !adm.info.Application() && (!one || !plainType(types[0])):
		resp.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
}

// insideCluster reports whether a redirect stays below the cluster's own
// address. Dot segments would lead a client, with its token, to another
// cluster's.
func insideCluster(location string) bool {
	u, err := url.Parse(location)
	if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(location, "/") {
		return false
	}
	path := location[1:]
	if end := strings.IndexAny(path, "?#"); end >= 0 {
		path = path[:end]
	}
	return requestinfo.CheckPath(path) == nil
}

// plainType reports whether no browser would run content of this type.
func plainType(contentType string) bool {
	name, _, _ := strings.Cut(contentType, ";")
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "application/json", "application/yaml", "application/jwk-set+json", "application/octet-stream", "text/plain":
		return true
	}
	for _, family := range []string{"application/vnd.kubernetes.", "application/apply-patch+", "application/com.github.proto-openapi."} {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return false
}

// recorder counts what was answered. Unwrap keeps flushing and hijacking
// possible through [http.ResponseController].
type recorder struct {
	http.ResponseWriter
	status   int
	bytes    int64
	received int64   // of bytes, those that an upgraded stream brought from the client
	refused  error   // why the answer is ours and not the cluster's; nil if it is not
	body     *upload // the request's; nil for one without
}

// Unwrap serves [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

// begin notes the first status that is written.
func (r *recorder) begin(status int) {
	if r.status == 0 {
		r.status = status
		r.body.answered(r.Header())
	}
}

// Write counts the bytes of the body.
func (r *recorder) Write(p []byte) (int, error) {
	r.begin(http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}
