package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
)

// The load of BenchmarkFairness. Each neighbour is four clients that ask, read
// the answer, and think for 20 ms: at most 200 requests a second, of which a
// gateway that is in nobody's way serves almost all.
const (
	neighboursN    = 3
	clientsOfEach  = 4
	thinkTime      = 20 * time.Millisecond
	fairFor        = 3 * time.Second // of each load, each round
	noisyRequests  = 200             // a second, its limit
	noisyBytes     = 8 * mib         // a second, its limit
	noisyOffersMax = 10              // times its limit
)

// BenchmarkFairness measures what neighbours keep when one cluster is offered
// ten times its limit, against what they have beside the same cluster at its
// limit. The rounds of the loads alternate, and the medians are compared:
//
//	go test -run '^$' -bench Fairness ./internal/gateway
//
// Clients, gateway, agents and clusters share the machine, so the noisy clients
// are an open loop of a fixed rate: what is measured is the gateway, not who
// gets to the processors first. The audit log is a real file.
func BenchmarkFairness(b *testing.B) {
	for _, kind := range []string{"requests", "bytes"} {
		b.Run(kind, func(b *testing.B) {
			limited, free := newFairness(b, kind, true), newFairness(b, kind, false)
			for b.Loop() {
				var alone, once, ten, unlimited []float64
				var p99 [3][]time.Duration
				for range 3 {
					n, took := limited.measure(b, 0)
					alone = append(alone, n)
					p99[0] = append(p99[0], took)
					n, took = limited.measure(b, 1)
					once = append(once, n)
					p99[1] = append(p99[1], took)
					n, took = limited.measure(b, noisyOffersMax)
					ten = append(ten, n)
					p99[2] = append(p99[2], took)
					n, _ = free.measure(b, noisyOffersMax)
					unlimited = append(unlimited, n)
				}
				b.ReportMetric(median(alone), "alone/s")
				b.ReportMetric(median(once), "beside-1x/s")
				b.ReportMetric(median(ten), "beside-10x/s")
				b.ReportMetric(100*median(ten)/median(once), "%kept-of-1x")
				b.ReportMetric(100*median(ten)/median(alone), "%kept-of-alone")
				b.ReportMetric(100*median(unlimited)/median(alone), "%kept-without-limits")
				b.ReportMetric(float64(median(p99[0]).Microseconds())/1000, "p99-alone-ms")
				b.ReportMetric(float64(median(p99[1]).Microseconds())/1000, "p99-1x-ms")
				b.ReportMetric(float64(median(p99[2]).Microseconds())/1000, "p99-10x-ms")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

func median[T float64 | time.Duration](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// fairness is a gateway, its clusters, and a client of each.
type fairness struct {
	kind  string
	s     *httptest.Server
	plain map[string]*http.Client
}

func newFairness(b *testing.B, kind string, bounded bool) *fairness {
	body := strings.Repeat("x", 4<<10)
	agent := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(req.URL.Path, "/big") {
			io.Copy(w, endless(1<<40)) // until somebody ends it
			return
		}
		io.WriteString(w, body)
	})
	agents := map[string]http.Handler{"noisy": agent}
	for i := range neighboursN {
		agents[fmt.Sprint("calm", i)] = agent
	}
	var limits gateway.Limits
	if bounded {
		limits = gateway.Limits{Requests: noisyRequests, Streams: 100, Bytes: noisyBytes}
	}
	r := clusters(b, gateway.Limits{}, limits, agents)
	log, err := audit.Open(audit.Config{Path: filepath.Join(b.TempDir(), "audit.log")})
	check(b, err)
	b.Cleanup(func() { check(b, log.Close()) })
	r.quiet, r.log = true, log.Log
	f := &fairness{kind: kind, s: r.serve(b, true), plain: map[string]*http.Client{}}
	for name := range agents {
		transport := f.s.Client().Transport.(*http.Transport).Clone()
		b.Cleanup(transport.CloseIdleConnections)
		f.plain[name] = &http.Client{Transport: transport}
	}
	return f
}

// get is one request to a cluster, its answer read.
func (f *fairness) get(ctx context.Context, clusterName, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", f.s.URL+strings.TrimSuffix(base, "c1")+clusterName+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer b")
	resp, err := f.plain[clusterName].Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// measure returns how many requests a second the neighbours had together, and
// their 99th percentile, while the noisy cluster was offered so many times its
// limit.
func (f *fairness) measure(b *testing.B, times int) (perSecond float64, p99 time.Duration) {
	ctx, cancel := context.WithTimeout(b.Context(), fairFor)
	defer cancel()
	var all sync.WaitGroup
	switch {
	case times == 0:
	case f.kind == "requests":
		all.Go(func() { f.offer(ctx, &all, times*noisyRequests) })
	default:
		for range times * 2 { // downloads, each of which takes what it can get
			all.Go(func() { f.get(ctx, "noisy", "/big") })
		}
	}
	var n atomic.Int64
	var mu sync.Mutex
	var durations []time.Duration
	for i := range neighboursN {
		for range clientsOfEach {
			all.Go(func() {
				tick := time.NewTicker(thinkTime)
				defer tick.Stop()
				for ctx.Err() == nil {
					began := time.Now()
					code, err := f.get(ctx, fmt.Sprint("calm", i), "/api/v1/pods")
					if ctx.Err() != nil {
						return
					}
					if err != nil || code != http.StatusOK {
						b.Errorf("a neighbour: %d %v", code, err)
						return
					}
					n.Add(1)
					mu.Lock()
					durations = append(durations, time.Since(began))
					mu.Unlock()
					<-tick.C
				}
			})
		}
	}
	all.Wait()
	if len(durations) == 0 {
		b.Fatal("the neighbours were not served at all")
	}
	slices.Sort(durations)
	return float64(n.Load()) / fairFor.Seconds(), durations[len(durations)*99/100]
}

// offer sends requests to the noisy cluster at a fixed rate, whatever becomes of
// them.
func (f *fairness) offer(ctx context.Context, all *sync.WaitGroup, perSecond int) {
	const every = 5 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(began).Seconds() * float64(perSecond)); sent < due; sent++ {
			all.Go(func() { f.get(ctx, "noisy", "/api/v1/pods") })
		}
	}
}
