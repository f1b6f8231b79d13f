package forwardproxy

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/access"
)

// metadataHandler answers at the metadata address. The identity's header is set
// last, in the place of anything that the child wrote there.
func metadataHandler(identity *Identity) (http.Handler, error) {
	if identity == nil {
		return http.HandlerFunc(nobody), nil
	}
	endpoint, err := url.Parse(identity.Endpoint)
	if err != nil || endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.Host == "" || identity.Header == "" {
		return nil, fmt.Errorf("proxy: identity needs an http or https endpoint (have %q) and a header: %w", identity.Endpoint, access.ErrInvalid)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = endpoint.Scheme, endpoint.Host, ""
			for _, name := range []string{"Authorization", "Secret", "X-Identity-Header"} {
				r.Out.Header.Del(name)
			}
			// A request that another proxy forwarded is refused there, as in Azure
			// (spec/identity.md 2.1), so what the child wrote must arrive.
			if forwarded := r.In.Header.Values("X-Forwarded-For"); len(forwarded) > 0 {
				r.Out.Header["X-Forwarded-For"] = forwarded
			}
			r.Out.Header.Set("X-Identity-Header", identity.Header)
		},
		Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			// As of an endpoint that is being updated: clients try again.
			metadataError(w, http.StatusServiceUnavailable, "unknown", "sallyport run: the server's managed-identity endpoint does not answer.")
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}, nil
}

// nobody answers as the real endpoint does on a machine that has no identity
// (spec/identity.md 2.1), which clients take for "try another credential".
func nobody(w http.ResponseWriter, r *http.Request) {
	if len(r.Header.Values("Metadata")) == 0 {
		metadataError(w, http.StatusBadRequest, "bad_request_102", "Required metadata header not specified")
		return
	}
	metadataError(w, http.StatusBadRequest, "invalid_request", "Identity not found")
}

func metadataError(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q,"error_description":%q}`, code, text)
}
