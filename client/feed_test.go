package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// streamed answers with what the test writes into the pipe.
type streamed struct {
	t    *testing.T
	body io.ReadCloser
}

func (s streamed) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method+" "+r.URL.String() != "GET https://gateway.sallyport.internal/v1/desired" {
		s.t.Errorf("%s %s", r.Method, r.URL)
	}
	context.AfterFunc(r.Context(), func() { s.body.Close() }) // as net/http does
	return &http.Response{StatusCode: 200, Body: s.body, Header: http.Header{}}, nil
}

const state = `{"clusterUid":"u","cluster":"` + clusterID + `","generation":1,"revision":7,"bindings":[]}` + "\n"

func TestFeedDesired(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(*io.PipeWriter)
		heard int
		took  time.Duration
		want  string
	}{
		{"silence", func(w *io.PipeWriter) { io.WriteString(w, state) }, 1, 5 * time.Second, "nothing heard from the gateway for 5s"},
		{"heartbeats", func(w *io.PipeWriter) {
			for range 10 {
				io.WriteString(w, state)
				time.Sleep(time.Second) // fake time
			}
			w.Close()
		}, 10, 10 * time.Second, "stream ended"},
		{"slow line is not silence", func(w *io.PipeWriter) {
			for part := range strings.SplitAfterSeq(state, ",") {
				time.Sleep(4 * time.Second)
				io.WriteString(w, part)
			}
			w.Close()
		}, 1, 20 * time.Second, "stream ended"},
		{"blank lines", func(w *io.PipeWriter) { io.WriteString(w, "\n\n"+state+"\n"); w.Close() }, 1, 0, "stream ended"},
		{"cut line", func(w *io.PipeWriter) { io.WriteString(w, state+state[:20]); w.Close() }, 1, 0, "unexpected end of JSON"},
		{"bad id", func(w *io.PipeWriter) { io.WriteString(w, `{"cluster":"/x"}`+"\n") }, 0, 0, "resource id"},
		{"long line", func(w *io.PipeWriter) { w.Write(bytes.Repeat([]byte("x"), 9<<20)) }, 0, 0, "more than 8388608 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				go tt.write(w)
				heard, start := 0, time.Now()
				err := client.NewFeed(streamed{t, r}).Desired(t.Context(), func(d access.Desired) {
					heard++
					if d.Revision != 7 || d.Cluster.String() != clusterID {
						t.Errorf("%+v", d)
					}
				})
				if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, access.ErrUnavailable) {
					t.Errorf("err = %v, want %q", err, tt.want)
				}
				if heard != tt.heard || time.Since(start) != tt.took {
					t.Errorf("heard %d in %s, want %d in %s", heard, time.Since(start), tt.heard, tt.took)
				}
				r.Close()
			})
		})
	}
}

func TestFeedDesiredWaitsForASlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			io.WriteString(w, state)
			io.WriteString(w, state)
		}()
		ctx, cancel := context.WithCancel(t.Context())
		heard := 0
		err := client.NewFeed(streamed{t, r}).Desired(ctx, func(access.Desired) {
			if heard++; heard == 2 {
				cancel()
			}
			time.Sleep(time.Minute) // fake time
		})
		if heard != 2 || !errors.Is(err, context.Canceled) {
			t.Errorf("heard %d, err %v", heard, err)
		}
	})
}

func TestFeedRefused(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"error":{"code":"OldGeneration","message":"enrolled again elsewhere"}}`)
	})
	f := client.NewFeed(direct{h})
	err := f.Desired(t.Context(), func(access.Desired) { t.Error("called") })
	if !errors.Is(err, access.ErrForbidden) {
		t.Errorf("err = %v", err)
	}
	if err := f.Report(t.Context(), access.Report{}); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("err = %v", err)
	}
}

func TestFeedReport(t *testing.T) {
	want := access.Report{Bindings: []access.BindingReport{{UID: "u", Generation: 2, InForce: true}}, Removed: []string{"x"}}
	f := client.NewFeed(direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got access.Report
		err := json.NewDecoder(r.Body).Decode(&got)
		if err != nil || r.Method+" "+r.URL.Path != "POST /v1/report" || len(got.Bindings) != 1 || got.Bindings[0] != want.Bindings[0] || got.Removed[0] != "x" {
			t.Errorf("%s %s: %+v, %v", r.Method, r.URL.Path, got, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})})
	if err := f.Report(t.Context(), want); err != nil {
		t.Error(err)
	}
}
