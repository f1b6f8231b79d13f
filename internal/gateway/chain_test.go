package gateway_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/impersonate"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// proxyTo is the agent's proxy, to an API server at an address.
func proxyTo(t testing.TB, address string, config *tls.Config) http.Handler {
	t.Helper()
	upstream, err := url.Parse("https://" + address)
	check(t, err)
	p, err := impersonate.New(impersonate.Config{
		Upstream: upstream, TLS: config,
		Token:  func() (string, error) { return "agent-token", nil },
		Known:  func(tunnel.Claim) error { return nil },
		Live:   &tunnel.Live{},
		Logger: slog.New(slog.DiscardHandler),
	})
	check(t, err)
	t.Cleanup(p.Close)
	return p
}

// trusting is how an agent verifies a server of httptest.
func trusting(s *httptest.Server) *tls.Config {
	return &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"}
}

// clusters puts an agent for each of several clusters behind a rig, whose
// callers are named by their tokens.
func clusters(t testing.TB, binding, cluster gateway.Limits, agents map[string]http.Handler) *rig {
	t.Helper()
	r := limited(t, binding, cluster, time.Now)
	grant := r.grant
	r.grant = func(p access.Principal, c access.ResourceID) (access.Grant, error) {
		g, err := grant(p, c)
		// The agent's proxy takes a GUID only.
		g.BindingUID = uuid.NewSHA1(uuid.NameSpaceURL, []byte(g.BindingUID)).String()
		return g, err
	}
	ways := map[string]func(string) (http.RoundTripper, error){}
	for name, agent := range agents {
		r.connect(t, agent)
		ways[name] = r.to
	}
	r.to = func(uid string) (http.RoundTripper, error) { return ways[uid](clusterUID) }
	return r
}

// neighbour asks for a path of a cluster, one request after the other, until it
// is stopped. Each has to be answered 200.
func neighbour(t testing.TB, s *httptest.Server, clusterName, path string) (stop func() int64) {
	t.Helper()
	var n atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan struct{})
	began := sync.OnceFunc(func() { close(first) })
	transport := s.Client().Transport.(*http.Transport).Clone() // connections of its own
	var asking sync.WaitGroup
	asking.Go(func() {
		defer began()
		client := http.Client{Transport: transport, Timeout: limit}
		for ctx.Err() == nil {
			req, _ := http.NewRequestWithContext(context.Background(), "GET", s.URL+strings.TrimSuffix(base, "c1")+clusterName+path, nil)
			req.Header.Set("Authorization", "Bearer calm")
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("the neighbour: %v", err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the neighbour was answered %d", resp.StatusCode)
				return
			}
			n.Add(1)
			began()
		}
	})
	<-first
	return func() int64 {
		cancel()
		asking.Wait()
		transport.CloseIdleConnections()
		return n.Load()
	}
}

// heap is what is in use on the heap, in bytes, after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
