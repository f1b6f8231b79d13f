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

// The load of BenchmarkFairness. Each of three neighbours is four clients that
// ask, read the answer of 4 KiB, and think until their time is over: of which a
// gateway that is in nobody's way serves almost all.
const (
	neighboursN    = 3
	clientsOfEach  = 4
	fairFor        = 3 * time.Second // of each load, each round
	noisyBefore    = 2 * time.Second // its burst is over when the neighbours come
	noisyRequests  = 60              // a second, its limit; each is answered with 256 KiB
	noisyBytes     = 8 * mib         // a second, its limit
	noisyOffersMax = 10              // times its limit
	noisyAtOnce    = 100             // requests that it has under way at most
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
				var offered float64
				for range 3 {
					n, took := limited.measure(b, 0)
					alone = append(alone, n)
					p99[0] = append(p99[0], took)
					n, took = limited.measure(b, 1)
					once = append(once, n)
					p99[1] = append(p99[1], took)
					before := limited.sent.Load()
					n, took = limited.measure(b, noisyOffersMax)
					offered += float64(limited.sent.Load()-before) / (noisyBefore + fairFor).Seconds() / 3
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
				if kind == "requests" {
					b.ReportMetric(offered/noisyRequests, "times-offered")
				}
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
	think time.Duration
	s     *httptest.Server
	sent  atomic.Int64 // by the noisy one, in all
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
		if strings.HasSuffix(req.URL.Path, "/list") {
			io.Copy(w, endless(256<<10))
			return
		}
		io.WriteString(w, body)
	})
	agents := map[string]http.Handler{"noisy": agent}
	for i := range neighboursN {
		agents[fmt.Sprint("calm", i)] = agent
	}
	// The limit is everybody's, so neighbours keep below it.
	limits, think := gateway.Limits{Requests: noisyRequests}, 80*time.Millisecond
	if kind == "bytes" {
		limits, think = gateway.Limits{Bytes: noisyBytes}, 20*time.Millisecond
	}
	if !bounded {
		limits = gateway.Limits{}
	}
	r := clusters(b, gateway.Limits{}, limits, agents)
	log, err := audit.Open(audit.Config{Path: filepath.Join(b.TempDir(), "audit.log")})
	check(b, err)
	b.Cleanup(func() { check(b, log.Close()) })
	r.quiet, r.log = true, log.Log
	f := &fairness{kind: kind, think: think, s: r.serve(b, true), plain: map[string]*http.Client{}}
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
	before := time.Duration(0)
	if times > 0 {
		before = noisyBefore
	}
	ctx, cancel := context.WithTimeout(b.Context(), before+fairFor)
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
	<-time.After(before)
	var n atomic.Int64
	var mu sync.Mutex
	var durations []time.Duration
	for i := range neighboursN {
		for range clientsOfEach {
			all.Go(func() {
				tick := time.NewTicker(f.think)
				defer tick.Stop()
				for ctx.Err() == nil {
					began := time.Now()
					code, err := f.get(ctx, fmt.Sprint("calm", i), "/api/v1/pods")
					if ctx.Err() != nil {
						return
					}
					if err != nil && ctx.Err() == nil || code != http.StatusOK {
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
		b.Fatalf("the neighbours were not served at all beside %d times the limit", times)
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
	free := make(chan struct{}, noisyAtOnce)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(began).Seconds() * float64(perSecond)); sent < due; sent++ {
			select {
			case free <- struct{}{}:
				f.sent.Add(1)
				all.Go(func() { f.get(ctx, "noisy", "/api/v1/list"); <-free })
			default: // the machine gives no more
			}
		}
	}
}
