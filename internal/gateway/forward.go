package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// errLost is answered with 502 and no Retry-After: the request may have had
// its effect, and a client must not repeat it blindly.
var errLost = errors.New("the connection to the cluster's agent was lost during the request")

// forward sends an admitted request through the tunnel and copies the answer
// back. Nothing in it can refuse.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, adm admission, requestID string) {
	rewrite := func(out *http.Request) {
		out.URL = &url.URL{Scheme: "http", Host: "cluster", RawQuery: adm.query}
		// The bytes that were authorised, not a cleaned copy of them.
		out.URL.Path, _ = url.PathUnescape(adm.path)
		out.URL.RawPath = adm.path
		out.Host = "cluster"
		g.headers.Request(out.Header, adm.upgrade)
		out.Trailer = nil
		tunnel.StampClaim(out.Header, adm.grant, requestID)
	}
	if adm.upgrade {
		g.forwardUpgrade(w, r, adm, requestID, rewrite)
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			rewrite(p.Out)
		},
		Transport:      adm.to,
		FlushInterval:  -1, // watch events must not wait
		BufferPool:     &g.buffers,
		ErrorLog:       g.debug,
		ModifyResponse: func(resp *http.Response) error { return g.checkResponse(resp, adm) },
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			g.forwardFailed(w, r.Context(), refusal{requestID, adm.path, err})
		},
	}
	proxy.ServeHTTP(w, r)
}

// forwardUpgrade passes an exec, attach or port-forward through.
func (g *Gateway) forwardUpgrade(w http.ResponseWriter, r *http.Request, adm admission, requestID string, rewrite func(*http.Request)) {
	out := r.Clone(r.Context())
	rewrite(out)
	out.RequestURI = ""
	answer, _ := w.(*recorder)
	status, up, down, err := tunnel.ServeUpgrade(w, out, adm.to, func(h http.Header) { g.headers.Response(h, true) })
	if status == 0 {
		g.forwardFailed(w, r.Context(), refusal{requestID, adm.path, err})
		return
	}
	if answer != nil {
		answer.status, answer.bytes = status, up+down
	}
	if err != nil && status != http.StatusSwitchingProtocols {
		panic(http.ErrAbortHandler) // an answer cut short must not look whole
	}
}

// forwardFailed answers a request whose forwarding failed before an answer
// began.
func (g *Gateway) forwardFailed(w http.ResponseWriter, ctx context.Context, r refusal) {
	err := r.err
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, access.ErrForbidden) {
		err = cause // cut by a revocation
	}
	var refused *tunnel.RefusedError
	switch {
	case errors.As(err, &refused), errors.Is(err, access.ErrForbidden), errors.Is(err, errBadAnswer):
	case ctx.Err() != nil:
		err = errLost // the client is gone; nobody reads this
	default:
		g.cfg.Logger.Warn("forwarding failed", "request", r.requestID, "error", err)
		err = errLost
	}
	r.err = err
	refuse(w, r)
}

// errBadAnswer marks an answer of the cluster that must not reach a client.
var errBadAnswer = errors.New("the cluster's answer was refused")

// checkResponse cuts a cluster's answer down to what a client may see.
func (g *Gateway) checkResponse(resp *http.Response, adm admission) error {
	if err := tunnel.Refused(resp.Header); err != nil {
		return err
	}
	g.headers.Response(resp.Header, false)
	resp.Trailer = nil
	if location := resp.Header.Get("Location"); location != "" {
		u, err := url.Parse(location)
		if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(location, "/") || strings.HasPrefix(location, `/\`) {
			return fmt.Errorf("%w: it redirects to another host", errBadAnswer)
		}
		resp.Header.Set("Location", PathPrefix+adm.cluster.String()+location)
	}
	resp.Header.Set("X-Content-Type-Options", "nosniff")
	if !plainType(resp.Header.Get("Content-Type")) && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		resp.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	return nil
}

// plainType reports whether no browser would run content of this type.
func plainType(contentType string) bool {
	for _, prefix := range []string{
		"application/json", "application/yaml", "application/vnd.kubernetes.", "application/apply-patch+",
		"application/com.github.proto-openapi.", "application/jwk-set+json", "application/octet-stream", "text/plain",
	} {
		if strings.HasPrefix(contentType, prefix) {
			return true
		}
	}
	return false
}

// recorder counts what was answered. Unwrap keeps flushing and hijacking
// possible through [http.ResponseController].
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap serves [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the first final status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes of the body.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

var _ io.Writer = (*recorder)(nil)

// bufferPool recycles the copy buffers of [httputil.ReverseProxy].
type bufferPool struct{ pool *sync.Pool }

func newBufferPool() bufferPool {
	return bufferPool{&sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
}

// Get implements [httputil.BufferPool].
func (p *bufferPool) Get() []byte { return *p.pool.Get().(*[]byte) }

// Put implements [httputil.BufferPool].
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
