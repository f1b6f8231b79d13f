package clock_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/sallyport/sallyport/internal/clock"
)

// stepped is a clock that passes as told and that somebody sets: then its wall time
// moves, and its monotonic time does not.
type stepped struct {
	mu         sync.Mutex
	begin      time.Time // with its monotonic part
	passed, by time.Duration
}

func newStepped() *stepped { return &stepped{begin: time.Now()} }

// now has the wall clock's seconds moved. Add would move both clocks, so the field
// is written to: in a time with a monotonic part, the seconds stand above 30 bits
// of nanoseconds.
func (s *stepped) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.begin.Add(s.passed)
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(int64(s.by/time.Second)) << 30
	return t
}

func (s *stepped) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed += d
}

func (s *stepped) set(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by = by
}

// TestSetClock sets the clock back and forth under a running process, and over a
// restart. Times are since the beginning, by a clock that was right then.
func TestSetClock(t *testing.T) {
	set := newStepped()
	c := clock.New(set.now)
	for _, step := range []struct {
		what     string
		pass, by time.Duration
		want     time.Duration
	}{
		{"as it is", time.Minute, 0, time.Minute},
		{"set back an hour", 0, -time.Hour, time.Minute},
		{"time goes on", time.Minute, -time.Hour, 2 * time.Minute},
		{"put right", 0, 0, 2 * time.Minute},
		{"set an hour ahead", 0, time.Hour, time.Hour + 2*time.Minute},
		{"and back, which leaves nothing behind", time.Minute, 0, 3 * time.Minute},
	} {
		set.pass(step.pass)
		set.set(step.by)
		is(t, step.what, set, c, step.want)
	}
}

// is holds the time against what is wanted after the beginning.
func is(t *testing.T, what string, set *stepped, c *clock.Clock, want time.Duration) {
	t.Helper()
	if got := c.Now().Sub(set.begin.Round(0)); got != want {
		t.Errorf("%s: %s after the beginning, want %s", what, got, want)
	}
}

// TestRestart sets the clock back while no process runs.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	set := newStepped()
	var said bytes.Buffer
	run := func(f func(c *clock.Clock)) {
		t.Helper()
		c, err := clock.Open(path, set.now, slog.New(slog.NewTextHandler(&said, nil)))
		if err != nil {
			t.Fatal(err)
		}
		f(c)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it writes at its end
		if err := c.Run(ctx, func(err error) { t.Error(err) }); err != nil {
			t.Error(err)
		}
	}
	run(func(c *clock.Clock) {
		set.pass(2 * time.Hour)
		set.set(time.Hour) // ahead, and put right while it runs
		is(t, "ahead", set, c, 3*time.Hour)
		set.pass(time.Hour)
		set.set(0)
	})
	if said.Len() > 0 {
		t.Errorf("the log says %s", &said)
	}
	set.set(-2 * time.Hour)
	run(func(c *clock.Clock) {
		is(t, "set back before a start", set, c, 3*time.Hour)
		set.pass(time.Hour)
		is(t, "its own clock catches up", set, c, 3*time.Hour)
	})
	if !strings.Contains(said.String(), "the clock is behind") || !strings.Contains(said.String(), "delete "+path) {
		t.Errorf("the log says %s", &said)
	}
	run(func(c *clock.Clock) {
		is(t, "started once more", set, c, 3*time.Hour)
		set.set(0)
		is(t, "put right", set, c, 4*time.Hour)
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	if err := os.WriteFile(path, []byte("yesterday\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := clock.Open(path, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "delete "+path) {
		t.Errorf("a file without a time: %v", err)
	}
	// A disk that takes nothing is told of once, and stops nobody.
	c, err := clock.Open(filepath.Join(t.TempDir(), "gone", "clock"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var told []error
	err = c.Run(ctx, func(err error) { told = append(told, err); cancel() })
	if err != nil || len(told) != 1 || !errors.Is(told[0], os.ErrNotExist) {
		t.Errorf("told %v, ended with %v", told, err)
	}
}
