package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/tunnel"
)

const mib = 1 << 20

// endless is a body of n bytes.
func endless(n int64) io.ReadCloser { return io.NopCloser(io.LimitReader(zeros{}, n)) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestItem38BytesArePaced: bodies pass no faster than the limit, in either
// direction, of one stream or of many; the clock is the bubble's.
func TestItem38BytesArePaced(t *testing.T) {
	for name, tc := range map[string]struct {
		binding, cluster gateway.Limits
		streams          int
		up               bool
		most, least      time.Duration // for 10 MiB in all, of which the first second's worth is at once
	}{
		"no limit":              {gateway.Limits{}, gateway.Limits{}, 2, false, 0, 0},
		"binding, down":         {gateway.Limits{Bytes: mib}, gateway.Limits{}, 1, false, 9*time.Second + 100*time.Millisecond, 9 * time.Second},
		"binding, up":           {gateway.Limits{Bytes: mib}, gateway.Limits{}, 1, true, 9*time.Second + 100*time.Millisecond, 9 * time.Second},
		"binding, many streams": {gateway.Limits{Bytes: mib}, gateway.Limits{}, 10, false, 9*time.Second + 100*time.Millisecond, 9 * time.Second},
		"cluster":               {gateway.Limits{}, gateway.Limits{Bytes: 2 * mib}, 2, false, 4*time.Second + 100*time.Millisecond, 4 * time.Second},
		"both":                  {gateway.Limits{Bytes: mib}, gateway.Limits{Bytes: 5 * mib}, 2, true, 9*time.Second + 100*time.Millisecond, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := limited(t, tc.binding, tc.cluster, time.Now)
				each := int64(10 * mib / tc.streams)
				r.answer = func(req *http.Request) (*http.Response, error) {
					if tc.up {
						n, err := io.Copy(io.Discard, req.Body)
						if n != each {
							t.Errorf("%d bytes arrived, %v", n, err)
						}
						return answer(200, nil, "{}"), err
					}
					resp := answer(200, nil, "")
					resp.Body, resp.ContentLength = endless(each), each
					return resp, nil
				}
				began := time.Now()
				var all sync.WaitGroup
				for range tc.streams {
					all.Go(func() {
						req := as("b", "c1", "/api/v1/pods")
						if tc.up {
							req.Method, req.Body, req.ContentLength = "POST", endless(each), each
						}
						resp := r.do(req)
						if n, _ := io.Copy(io.Discard, resp.Body); !tc.up && n != each || resp.StatusCode != 200 {
							t.Errorf("%d, %d bytes", resp.StatusCode, n)
						}
					})
				}
				all.Wait()
				if took := time.Since(began); took > tc.most || took < tc.least {
					t.Errorf("took %s, want %s", took, tc.least)
				}
			})
		})
	}
}

// TestItem38NoStreamIsStarved: beside a binding that has a hundred downloads
// under way, another one's watch on the same cluster gets each event within one
// turn of the others, also where it is the cluster's limit that they share.
func TestItem38NoStreamIsStarved(t *testing.T) {
	const downloads, perSecond = 100, 8 * mib
	synctest.Test(t, func(t *testing.T) {
		r := limited(t, gateway.Limits{}, gateway.Limits{Bytes: perSecond}, time.Now)
		event := strings.Repeat("e", 1<<10)
		events := make(chan time.Time)
		source, watch := io.Pipe()
		r.answer = func(req *http.Request) (*http.Response, error) {
			resp := answer(200, nil, "")
			resp.Body, resp.ContentLength = endless(1<<40), -1
			if strings.Contains(req.URL.RawQuery, "watch") {
				resp.Body = source
			}
			go func() {
				<-req.Context().Done()
				resp.Body.Close()
			}()
			return resp, nil
		}
		var all sync.WaitGroup
		var stops []func()
		for range downloads {
			req := as("noisy", "c1", "/api/v1/pods")
			ctx, cancel := context.WithCancel(t.Context())
			stops = append(stops, cancel)
			all.Go(func() {
				defer func() { _ = recover() }() // http.ErrAbortHandler: it was stopped
				r.ServeHTTP(discard{http.Header{}}, req.WithContext(ctx))
			})
		}
		req := as("quiet", "c1", "/api/v1/pods?watch=1")
		ctx, cancel := context.WithCancel(t.Context())
		stops = append(stops, cancel)
		all.Go(func() {
			defer func() { _ = recover() }()
			r.ServeHTTP(told{http.Header{}, events}, req.WithContext(ctx))
		})
		time.Sleep(10 * time.Second) // of the bubble: the downloads are in full swing
		const turn = downloads * (32 << 10) * time.Second / perSecond
		for i := range 50 {
			sent := time.Now()
			io.WriteString(watch, event)
			if took := (<-events).Sub(sent); took > turn+10*time.Millisecond {
				t.Errorf("event %d took %s, more than a turn of all, %s", i, took, turn)
			}
		}
		for _, stop := range stops {
			stop()
		}
		all.Wait()
	})
}

// discard is a client that reads everything.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) FlushError() error           { return nil }

// told is a client that says when it got something.
type told struct {
	h  http.Header
	at chan<- time.Time
}

func (w told) Header() http.Header { return w.h }
func (w told) WriteHeader(int)     {}
func (w told) FlushError() error   { return nil }
func (w told) Write(p []byte) (int, error) {
	w.at <- time.Now()
	return len(p), nil
}

// TestItem38UpgradedStreamsArePaced: an exec's two directions are within the
// limit together.
func TestItem38UpgradedStreamsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limited(t, gateway.Limits{Bytes: mib}, gateway.Limits{}, time.Now)
		const each = 5 * mib
		r.answer = func(req *http.Request) (*http.Response, error) {
			resp := answer(200, http.Header{tunnel.HeaderUpgraded: {"SPDY/3.1"}}, "")
			down, w := io.Pipe()
			go func() { // the agent's end
				go func() { // the client closes when it has sent all
					if n, _ := io.Copy(io.Discard, req.Body); n != each {
						t.Errorf("%d bytes arrived", n)
					}
				}()
				var size [4]byte
				piece := make([]byte, 32<<10)
				binary.BigEndian.PutUint32(size[:], uint32(len(piece)))
				for range each / len(piece) {
					w.Write(size[:])
					w.Write(piece)
				}
				w.Write(make([]byte, 4)) // the end
				w.Close()
			}()
			resp.Body, resp.ContentLength = down, -1
			return resp, nil
		}
		// RoundTrip of the rig closes the body: an upgrade's lives on.
		r.to = func(string) (http.RoundTripper, error) { return upgraded(r.answer), nil }
		near, far := net.Pipe()
		req := as("b", "c1", execPath)
		upgrade("SPDY/3.1")(r, req)
		served := make(chan struct{})
		began := time.Now()
		go func() {
			defer close(served)
			r.ServeHTTP(&hijacked{httptest.NewRecorder(), far}, req)
		}()
		var both sync.WaitGroup
		both.Go(func() { io.Copy(near, endless(each)) })
		both.Go(func() { io.CopyN(io.Discard, near, each) })
		both.Wait()
		if took := time.Since(began); took < 8*time.Second || took > 10*time.Second {
			t.Errorf("10 MiB at 1 MiB a second took %s", took)
		}
		near.Close()
		<-served
	})
}

type upgraded func(*http.Request) (*http.Response, error)

func (u upgraded) RoundTrip(r *http.Request) (*http.Response, error) { return u(r) }

// hijacked gives its connection away.
type hijacked struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(bytes.NewReader(nil)), bufio.NewWriter(io.Discard)), nil
}

// TestItem38PacedStreamsEnd: a stream that waits for its turn ends with its
// client, and with its binding, and not when its turn comes.
func TestItem38PacedStreamsEnd(t *testing.T) {
	for name, end := range map[string]func(r *rig, cancel func()){
		"client gone": func(_ *rig, cancel func()) { cancel() },
		"revoked":     func(r *rig, _ func()) { r.Revoke("c1/b", "binding deleted") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := limited(t, gateway.Limits{Bytes: gateway.MinBytes}, gateway.Limits{}, time.Now)
				r.answer = func(*http.Request) (*http.Response, error) {
					resp := answer(200, nil, "")
					resp.Body, resp.ContentLength = endless(1<<40), -1
					return resp, nil
				}
				var all sync.WaitGroup
				var stop []func()
				for range 100 { // a turn of all takes 50 s
					req := as("b", "c1", "/api/v1/pods")
					ctx, cancel := context.WithCancel(t.Context())
					stop = append(stop, cancel)
					all.Go(func() {
						defer func() { _ = recover() }()
						r.ServeHTTP(discard{http.Header{}}, req.WithContext(ctx))
					})
				}
				time.Sleep(2 * time.Minute)
				began := time.Now()
				for _, cancel := range stop {
					end(r, cancel)
				}
				all.Wait()
				if took := time.Since(began); took > time.Second {
					t.Errorf("ended after %s", took)
				}
			})
		})
	}
}
