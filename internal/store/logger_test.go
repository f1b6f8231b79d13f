package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

// TestQuietStart: a server that is as it should be starts without a warning, for
// the first time and again.
func TestQuietStart(t *testing.T) {
	dir := t.TempDir()
	ring, err := keyring.Open(filepath.Join(dir, "encryption.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []string{"first", "second"} {
		var said bytes.Buffer
		s, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(dir, "etcd"), Keys: ring, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(said.String()) {
			// That a busy machine's disk took long is a real warning.
			if !strings.Contains(line, "level=INFO") && !strings.Contains(line, " took=") {
				t.Errorf("%s start: %s", start, line)
			}
		}
	}
}

// TestWarnings: what else etcd warns of, in the same words too, is heard.
func TestWarnings(t *testing.T) {
	var said bytes.Buffer
	log := store.ZapTo(slog.New(slog.NewTextHandler(&said, nil)))
	log.Warn("Failed to detect schema version", zap.Error(errors.New("missing term information")))
	if said.Len() > 0 {
		t.Errorf("of a new folder: %s", &said)
	}
	log.Warn("Failed to detect schema version", zap.Error(errors.New("page is torn")))
	log.Error("failed to update storage version", zap.Error(fmt.Errorf("page is torn")))
	log.Warn("slow fdatasync")
	if n := strings.Count(said.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, &said)
	}
}
