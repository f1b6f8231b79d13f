package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// checkEvery is the least time between two runs of the checks.
	checkEvery = time.Second
	// checkLimit bounds one run of one check.
	checkLimit = 2 * time.Second
)

// Check is one condition of readiness.
type Check struct {
	Name string
	// Run returns nil when the condition holds. It heeds ctx.
	Run func(ctx context.Context) error
}

// Health answers /livez and /readyz. Its zero value is ready as soon as it is
// alive.
type Health struct {
	Checks []Check
	// Terse leaves out the names of checks, for a network that anybody is on.
	Terse bool
	// Logger is told when a check fails for the first time, and when it holds
	// again. Nil tells nobody.
	Logger *slog.Logger
	Now    func() time.Time // default [time.Now]

	mu     sync.Mutex
	ran    time.Time
	failed map[string]bool
}

// ServeHTTP answers GET and HEAD of /livez, /healthz (its older name) and
// /readyz, with ?verbose as kube-apiserver does, and 404 for anything else.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	_, verbose := r.URL.Query()["verbose"]
	switch r.URL.Path {
	case "/livez", "/healthz":
		// It answers, so it lives.
		h.answer(w, strings.TrimPrefix(r.URL.Path, "/"), verbose, nil, nil)
	case "/readyz":
		names, failed := h.run(r.Context())
		h.answer(w, "readyz", verbose, names, failed)
	default:
		http.NotFound(w, r)
	}
}

// run runs the checks, or returns what they said a moment ago. Callers wait
// for each other: a slow check is not run twice at once.
func (h *Health) run(ctx context.Context) (names []string, failed map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now
	if h.Now != nil {
		now = h.Now
	}
	for _, check := range h.Checks {
		names = append(names, check.Name)
	}
	if !h.ran.IsZero() && now().Sub(h.ran) < checkEvery {
		return names, h.failed
	}
	before := h.failed
	h.failed = map[string]bool{}
	for _, check := range h.Checks {
		// One caller's going away must not make the next one's answer.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkLimit)
		err := check.Run(limited)
		cancel()
		if err != nil {
			h.failed[check.Name] = true
		}
		if h.Logger == nil || (err != nil) == before[check.Name] {
			continue
		}
		if err != nil {
			h.Logger.Warn("not ready", "check", check.Name, "reason", err)
			continue
		}
		h.Logger.Info("ready again", "check", check.Name)
	}
	h.ran = now()
	return names, h.failed
}

// answer writes one line, or with verbose one for each check.
func (h *Health) answer(w http.ResponseWriter, endpoint string, verbose bool, names []string, failed map[string]bool) {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	verdict := "ok"
	if len(failed) > 0 {
		verdict = "failed"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	switch {
	case h.Terse:
		fmt.Fprintln(w, verdict)
		return
	case len(failed) == 0 && !verbose:
		fmt.Fprintln(w, verdict)
		return
	}
	if endpoint == "livez" || endpoint == "healthz" {
		names = []string{"ping"}
	}
	for _, name := range names {
		if failed[name] {
			fmt.Fprintf(w, "[-]%s failed: reason withheld\n", name)
			continue
		}
		fmt.Fprintf(w, "[+]%s ok\n", name)
	}
	if verdict == "ok" {
		verdict = "passed"
	}
	fmt.Fprintf(w, "%s check %s\n", endpoint, verdict)
}
