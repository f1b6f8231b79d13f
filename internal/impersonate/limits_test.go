package impersonate_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/impersonate"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// An answer whose headers would not fit the tunnel ends here, as a refusal that
// invites no repetition.
func TestItem30AnswerWithHugeHeaders(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		r := newRig(t, http2)
		r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Huge", strings.Repeat("x", 2*tunnel.HeaderLimit))
		})
		if err := tunnel.Refused(r.do(t, nil).Header); !errors.Is(err, tunnel.ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An API server that falls silent before its answer, or in the middle of it, is
// asked whether it is there. What waits for it ends, and does not look whole.
func TestSilentAPIServer(t *testing.T) {
	for name, begun := range map[string]bool{"before the answer": false, "in the middle": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, true, func(cfg *impersonate.Config) { cfg.Silence = time.Second })
			r.setAnswer(func(w http.ResponseWriter, req *http.Request) {
				if begun {
					io.WriteString(w, "the beginning")
					http.NewResponseController(w).Flush()
				}
				r.dials.silent.Store(true)
				<-req.Context().Done()
			})
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", r.front.URL+"/api/v1/pods?watch=1", nil)
			check(t, err)
			for line := range strings.SplitSeq(strings.TrimSpace(claim()), "\r\n") {
				name, value, _ := strings.Cut(line, ": ")
				req.Header.Set(name, value)
			}
			var front http.Transport
			defer front.CloseIdleConnections()
			resp, err := front.RoundTrip(req)
			check(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			switch {
			case begun && (err == nil || string(body) != "the beginning"):
				t.Errorf("the answer looks whole: %q, %v", body, err)
			case !begun && (err != nil || !errors.Is(tunnel.Refused(resp.Header), tunnel.ErrNoAnswer)):
				t.Errorf("%v, %v", tunnel.Refused(resp.Header), err)
			}
		})
	}
}
