package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
)

// TestStrangersCannotFillTheAuditLog: refusals without an identity are
// recorded up to a rate, and the rest is counted.
func TestStrangersCannotFillTheAuditLog(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var records []audit.Record
	r := newRig(t)
	g, err := gateway.New(gateway.Config{
		Authenticate: func(_ context.Context, token string) (access.Principal, error) { return r.authenticate(token) },
		Authorizer:   r,
		To:           r.to,
		Live:         r.live,
		Logger:       slog.New(slog.DiscardHandler),
		Now:          func() time.Time { return now },
		Audit:        func(r audit.Record) error { records = append(records, r); return nil },
	})
	check(t, err)
	ask := func() {
		r := httptest.NewRequest(strings.Repeat("M&", 500), "/k8s/nothing", nil)
		w := httptest.NewRecorder()
		if g.ServeHTTP(w, r); w.Code != http.StatusNotFound {
			t.Fatalf("status %d", w.Code)
		}
	}
	for range 1000 {
		ask()
	}
	if len(records) != gateway.RecordsPerSecond {
		t.Errorf("%d records in a second", len(records))
	}
	now = now.Add(time.Second)
	ask()
	last := records[len(records)-1]
	if last.Skipped != 1000-gateway.RecordsPerSecond {
		t.Errorf("%d skipped", last.Skipped)
	}
	if line, err := json.Marshal(last); err != nil || len(line) > 600 {
		t.Errorf("a record of %d bytes, err %v", len(line), err)
	}
}
