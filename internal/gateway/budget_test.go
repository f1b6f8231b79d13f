package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// TestCallersCannotFillTheAuditLog: nor can one with an identity, by what is
// refused to it; and its noise hides nobody else.
func TestCallersCannotFillTheAuditLog(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := newRigWith(t, func(cfg *gateway.Config) { cfg.Now = func() time.Time { return now } })
	r.authenticate = func(token string) (access.Principal, error) {
		return access.Principal{TenantID: "tenant", ObjectID: token, Resource: id(t, source), Expires: now.Add(time.Hour)}, nil
	}
	r.grant = func(access.Principal, access.ResourceID) (access.Grant, error) {
		return access.Grant{}, fmt.Errorf("no binding: %w", access.ErrForbidden)
	}
	ask := func(token string) {
		req := get("/api/v1/pods")
		req.Header.Set("Authorization", "Bearer "+token)
		if resp := r.do(req); resp.StatusCode != http.StatusForbidden {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	for range 1000 {
		ask("noisy")
	}
	ask("quiet")
	if n := len(r.audited()); n != gateway.RecordsPerSecond+1 {
		t.Errorf("%d records in a second", n)
	}
	now = now.Add(time.Hour)
	ask("quiet") // sweeps; the count that is owed stays
	ask("noisy")
	records := r.audited()
	if last := records[len(records)-1]; last.ObjectID != "noisy" || last.Skipped != 1000-gateway.RecordsPerSecond {
		t.Errorf("%d skipped of %s", last.Skipped, last.ObjectID)
	}
	if quiet := records[len(records)-2]; quiet.Skipped != 0 {
		t.Errorf("%d skipped of the quiet one", quiet.Skipped)
	}
}
