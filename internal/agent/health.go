package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// The agent's halves, as metrics and messages name them.
const (
	halfProxy      = "proxy"
	halfReconciler = "reconciler"
)

// Health is how the halves of an agent fare. Its zero value is one that has not
// started. It is safe for concurrent use.
type Health struct {
	mu          sync.Mutex
	heard       map[string]time.Time // by half that runs: when its feed last said something
	connections int                  // to the gateway, proven by its heartbeats
}

// begin enters a half that runs and has heard nothing yet.
func (h *Health) begin(half string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.heard == nil {
		h.heard = map[string]time.Time{}
	}
	h.heard[half] = time.Time{}
}

// hear notes that a half's feed said something.
func (h *Health) hear(half string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard[half] = time.Now()
}

// connected notes connections that came (1) or went (-1). The tunnel ends one
// that is wedged within its own limit, 2.5 s.
func (h *Health) connected(change int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connections += change
}

func (h *Health) tunnels() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connections
}

// age is how long a half's feed has been silent; very long before its first word.
func (h *Health) age(half string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.heard[half])
}

// Ready reports whether every half that runs can do its work: its feed is
// fresh, and the proxy has a connection that the gateway uses. The error wraps
// [access.ErrUnavailable].
func (h *Health) Ready(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.heard) == 0 {
		return fmt.Errorf("the agent has not started: %w", access.ErrUnavailable)
	}
	for half, heard := range h.heard {
		switch silence := time.Since(heard); {
		case heard.IsZero():
			return fmt.Errorf("the %s has not heard from the control plane yet: %w", half, access.ErrUnavailable)
		case silence > maxSilence:
			return fmt.Errorf("the %s has not heard from the control plane for %s: %w", half, silence.Round(time.Second), access.ErrUnavailable)
		}
	}
	if _, serves := h.heard[halfProxy]; serves && h.connections == 0 {
		return fmt.Errorf("no connection to the gateway is alive: %w", access.ErrUnavailable)
	}
	return nil
}
