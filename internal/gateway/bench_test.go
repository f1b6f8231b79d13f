package gateway_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
)

// BenchmarkGateway compares the way of a request through gateway and tunnel
// with one through a bare reverse proxy, to the same backend. In production the
// way is bounded and recorded: limits, of which these are never reached, and
// two records in a file.
func BenchmarkGateway(b *testing.B) {
	compare(b, 1<<10, func(b *testing.B, client *http.Client, url string) {
		b.SetParallelism(8)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				fetch(b, client, url)
			}
		})
	})
}

// BenchmarkList does the same with one client and an answer of 32 MiB.
func BenchmarkList(b *testing.B) {
	compare(b, 32*mib, func(b *testing.B, client *http.Client, url string) {
		b.ReportAllocs()
		for b.Loop() {
			fetch(b, client, url)
		}
	})
}

func fetch(b *testing.B, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer good")
	resp, err := client.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%v %v", resp, err)
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// processorTime is what this process has had of the processors, which tells more
// than the clock on a machine that others use as well.
func processorTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// compare runs the same requests on each way to a backend that answers with
// size bytes. Client and backend are in the same process, and count as well.
func compare(b *testing.B, size int, run func(*testing.B, *http.Client, string)) {
	body := bytes.Repeat([]byte("x"), size)
	backend := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	})
	on := func(b *testing.B, s *httptest.Server, path string) {
		transport := s.Client().Transport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost, transport.ForceAttemptHTTP2, transport.TLSNextProto = 100, false, map[string]func(string, *tls.Conn) http.RoundTripper{}
		transport.TLSClientConfig.NextProtos = nil
		defer transport.CloseIdleConnections()
		b.SetBytes(int64(size))
		before := processorTime()
		run(b, &http.Client{Transport: transport}, s.URL+path)
		b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
	}
	b.Run("gateway+tunnel", func(b *testing.B) {
		r := newRig(b)
		r.quiet = true
		r.connect(b, backend)
		on(b, r.serve(b, true), base+"/api/v1/pods")
	})
	b.Run("gateway+tunnel, bounded and recorded", func(b *testing.B) {
		enough := gateway.Limits{Streams: 1 << 20, Requests: 1 << 30, Bytes: math.MaxInt32}
		r := newRigWith(b, func(c *gateway.Config) { c.BindingLimits, c.ClusterLimits = enough, enough })
		file, err := audit.Open(audit.Config{Path: filepath.Join(b.TempDir(), "audit.log")})
		check(b, err)
		defer file.Close()
		r.quiet, r.log = true, file.Log
		r.connect(b, backend)
		on(b, r.serve(b, true), base+"/api/v1/pods")
	})
	b.Run("bare reverse proxy", func(b *testing.B) {
		upstream := httptest.NewServer(backend)
		defer upstream.Close()
		to, err := url.Parse(upstream.URL)
		check(b, err)
		transport := &http.Transport{MaxIdleConnsPerHost: 100}
		defer transport.CloseIdleConnections()
		proxy := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }, Transport: transport})
		defer proxy.Close()
		on(b, proxy, "/api/v1/pods")
	})
}
