package impersonate_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/impersonate"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// BenchmarkProxy compares the agent's handler with a bare reverse proxy, both
// in front of the same API server over HTTP/2 with TLS.
func BenchmarkProxy(b *testing.B) {
	answer := make([]byte, 1<<10)
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer)
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	defer api.Close()
	upstream, err := url.Parse(api.URL)
	check(b, err)
	config := &tls.Config{RootCAs: api.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"}
	id, err := access.ParseResourceID(source)
	check(b, err)

	run := func(b *testing.B, h http.Handler) {
		front := httptest.NewServer(h)
		defer front.Close()
		client := &http.Transport{MaxIdleConnsPerHost: 100}
		defer client.CloseIdleConnections()
		b.SetParallelism(8)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, front.URL+"/api/v1/pods?limit=500", nil)
				if err != nil {
					b.Error(err)
					return
				}
				tunnel.StampClaim(req.Header, access.Grant{Binding: "B1", BindingUID: bindingUID, Source: id}, requestID)
				resp, err := client.RoundTrip(req)
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Errorf("%v %v", resp, err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	b.Run("agent", func(b *testing.B) {
		p, err := impersonate.New(impersonate.Config{
			Upstream: upstream, TLS: config, Token: func() (string, error) { return "agent-token", nil },
			Known: func(tunnel.Claim) error { return nil }, Live: &tunnel.Live{}, Logger: slog.New(slog.DiscardHandler),
		})
		check(b, err)
		defer p.Close()
		run(b, p)
	})
	b.Run("bare reverse proxy", func(b *testing.B) {
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		run(b, &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(upstream) }, Transport: transport})
	})
}
