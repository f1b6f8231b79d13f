package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
)

// A request outlives its token by the grace, and no longer. Without an answer it
// is told so; an answer under way breaks off; and the record says why.
func TestTokenEnds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		grace time.Duration
		begun bool
	}{
		{"no answer yet", 0, false},
		{"no answer yet, with a grace", 100 * time.Millisecond, false},
		{"answer begun", 0, true},
	} {
		r := newRigWithGrace(t, tc.grace)
		r.tokenLife = 100 * time.Millisecond
		r.answer = func(req *http.Request) (*http.Response, error) {
			if !tc.begun {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			resp := answer(200, nil, "")
			body, end := io.Pipe()
			go func() {
				io.WriteString(end, "begun")
				<-req.Context().Done()
				end.CloseWithError(req.Context().Err())
			}()
			resp.Body, resp.ContentLength = body, -1
			return resp, nil
		}
		s := r.serve(t, true)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+"/api/v1/pods?watch=1", nil)
		req.Header.Set("Authorization", "Bearer good")
		sent := time.Now()
		resp, err := s.Client().Do(req)
		check(t, err)
		if tc.begun {
			if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "begun" || resp.StatusCode != 200 {
				t.Errorf("%s: %d %q, %v", tc.name, resp.StatusCode, body, err)
			}
		} else if err := status(t, resp); resp.StatusCode != 401 || !strings.Contains(err.Error(), "token has expired") || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v", tc.name, resp.StatusCode, err)
		}
		resp.Body.Close()
		if lived := time.Since(sent); lived < tc.grace+r.tokenLife-50*time.Millisecond {
			t.Errorf("%s: cut after %s", tc.name, lived)
		}
		complete := awaitComplete(t, r)
		if !strings.Contains(complete.Reason, "token has expired") {
			t.Errorf("%s: recorded %+v", tc.name, complete)
		}
	}
}

// awaitComplete returns the completion record, which is written after the
// client has its answer.
func awaitComplete(t *testing.T, r *rig) audit.Record {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		for _, rec := range r.audited() {
			if rec.Stage == audit.Complete {
				return rec
			}
		}
	}
	t.Fatal("no completion record")
	return audit.Record{}
}
