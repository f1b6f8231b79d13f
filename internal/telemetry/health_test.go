package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/telemetry"
)

func TestHealth(t *testing.T) {
	good := telemetry.Check{Name: "index", Run: func(context.Context) error { return nil }}
	bad := telemetry.Check{Name: "store", Run: func(context.Context) error { return errors.New("10.0.0.5 does not answer") }}
	for _, tc := range []struct {
		name, target string
		health       *telemetry.Health
		method       string
		status       int
		body         string
	}{
		{name: "alive", target: "/livez", health: &telemetry.Health{Checks: []telemetry.Check{bad}}, status: 200, body: "ok\n"},
		{name: "its older name", target: "/healthz", health: &telemetry.Health{}, status: 200, body: "ok\n"},
		{name: "alive, verbose", target: "/livez?verbose", health: &telemetry.Health{}, status: 200, body: "[+]ping ok\nlivez check passed\n"},
		{name: "ready", target: "/readyz", health: &telemetry.Health{Checks: []telemetry.Check{good}}, status: 200, body: "ok\n"},
		{name: "ready, verbose", target: "/readyz?verbose", health: &telemetry.Health{Checks: []telemetry.Check{good}}, status: 200, body: "[+]index ok\nreadyz check passed\n"},
		{name: "not ready", target: "/readyz", health: &telemetry.Health{Checks: []telemetry.Check{good, bad}}, status: 503,
			body: "[+]index ok\n[-]store failed: reason withheld\nreadyz check failed\n"},
		{name: "not ready, terse", target: "/readyz?verbose", health: &telemetry.Health{Checks: []telemetry.Check{good, bad}, Terse: true}, status: 503, body: "failed\n"},
		{name: "HEAD", method: http.MethodHead, target: "/readyz", health: &telemetry.Health{}, status: 200, body: "ok\n"}, // net/http drops it
		{name: "POST", method: http.MethodPost, target: "/readyz", health: &telemetry.Health{}, status: 405, body: "GET or HEAD\n"},
		{name: "profiles", target: "/debug/pprof/", health: &telemetry.Health{}, status: 404, body: "404 page not found\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method := tc.method
			if method == "" {
				method = http.MethodGet
			}
			w := httptest.NewRecorder()
			tc.health.ServeHTTP(w, httptest.NewRequest(method, tc.target, nil))
			if w.Code != tc.status || w.Body.String() != tc.body {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tc.status, tc.body)
			}
		})
	}
}

// Whoever asks often costs one run in a while, and each change is logged once,
// with its reason.
func TestHealthRunsChecksSeldom(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	runs, failure := 0, errors.New("disk is full")
	var log bytes.Buffer
	h := &telemetry.Health{
		Now:    func() time.Time { return now },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Checks: []telemetry.Check{{Name: "audit", Run: func(context.Context) error { runs++; return failure }}},
	}
	ask := func(times, status int) {
		t.Helper()
		for range times {
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil)); w.Code != status {
				t.Fatalf("status %d, want %d", w.Code, status)
			}
		}
	}
	ask(100, 503)
	now = now.Add(time.Second)
	ask(100, 503)
	now, failure = now.Add(time.Second), nil
	ask(100, 200)
	if runs != 3 {
		t.Errorf("the check ran %d times, want 3", runs)
	}
	if n := strings.Count(log.String(), "disk is full"); n != 1 {
		t.Errorf("the reason is logged %d times, want once:\n%s", n, &log)
	}
	if !strings.Contains(log.String(), "ready again") {
		t.Errorf("that it is ready again is not logged:\n%s", &log)
	}
}
