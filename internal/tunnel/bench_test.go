package tunnel_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
)

// The same request to the same API server (a stub, plain HTTP), once through
// one bare reverse proxy and once through gateway, tunnel (TLS) and agent:
//
//	go test -run '^$' -bench . -cpu 2 ./internal/tunnel
func BenchmarkGet(b *testing.B) {
	hops(b, func(b *testing.B, url string) {
		b.SetParallelism(8) // 16 clients on two cores
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
		defer client.CloseIdleConnections()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := fetch(client, url+"/small"); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkGetOneClient(b *testing.B) {
	hops(b, func(b *testing.B, url string) {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for b.Loop() {
			if _, err := fetch(client, url+"/small"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

const bulk = 64 << 20

func BenchmarkBulkDownload(b *testing.B) {
	hops(b, func(b *testing.B, url string) {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		b.SetBytes(bulk)
		for b.Loop() {
			if n, err := fetch(client, url+"/bulk"); err != nil || n != bulk {
				b.Fatal(n, err)
			}
		}
	})
}

func fetch(client *http.Client, url string) (int64, error) {
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

func hops(b *testing.B, run func(*testing.B, string)) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/small" {
			w.Write(make([]byte, 1<<10))
			return
		}
		chunk := make([]byte, 64<<10)
		for range bulk / len(chunk) {
			w.Write(chunk)
		}
	}))
	b.Cleanup(api.Close)
	target, err := url.Parse(api.URL)
	check(b, err)
	upstream := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(upstream.CloseIdleConnections)
	rewrite := func(p *httputil.ProxyRequest) { p.SetURL(target) }
	bare := &httputil.ReverseProxy{Rewrite: rewrite, Transport: upstream, FlushInterval: -1}

	b.Run("bare proxy", func(b *testing.B) {
		front := httptest.NewServer(bare)
		defer front.Close()
		run(b, front.URL)
	})
	b.Run("tunnel", func(b *testing.B) {
		g := connected(b, bare.ServeHTTP)
		front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: rewrite, Transport: g.to(b), FlushInterval: -1})
		defer front.Close()
		run(b, front.URL)
	})
}
