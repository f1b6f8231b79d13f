package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// Bounds of the wait between attempts.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// retry calls f until it returns nil or ctx ends. An attempt that lasted
// starts the back-off afresh.
func retry(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	backoff := tunnel.Backoff{Min: minBackoff, Max: maxBackoff}
	for {
		began := time.Now()
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		backoff.Lasted(time.Since(began))
		wait := backoff.Next()
		log.Warn(what+" failed; trying again", "in", wait.Round(time.Millisecond), "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mailbox holds the newest value put and not yet taken.
type mailbox[T any] struct {
	mu    sync.Mutex
	value *T
	full  chan struct{} // has one element while value is set
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{full: make(chan struct{}, 1)} }

func (m *mailbox[T]) put(v T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.value = &v
	select {
	case m.full <- struct{}{}:
	default:
	}
}

// take waits for a value.
func (m *mailbox[T]) take(ctx context.Context) (T, error) {
	for {
		select {
		case <-m.full:
			if v, ok := m.poll(); ok {
				return v, nil
			}
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		}
	}
}

// poll takes a value if there is one.
func (m *mailbox[T]) poll() (v T, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.value == nil {
		return v, false
	}
	v, m.value = *m.value, nil
	return v, true
}

// tokenCache spares a file read for each request; kubelets renew projected
// tokens long before they end.
type tokenCache struct {
	dir string

	mu    sync.Mutex
	value string
	read  time.Time
}

func newTokenCache(dir string) *tokenCache { return &tokenCache{dir: dir} }

func (c *tokenCache) token() (string, error) {
	const fresh = 10 * time.Second
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.value != "" && time.Since(c.read) < fresh {
		return c.value, nil
	}
	token, err := readToken(c.dir, apiTokenFile)
	if err != nil {
		return "", err
	}
	c.value, c.read = token, time.Now()
	return token, nil
}

// issuerOf reads the issuer from a discovery document (OpenID Connect
// Discovery 1.0, section 3).
func issuerOf(document []byte) (string, error) {
	var doc struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(document, &doc); err != nil || doc.Issuer == "" {
		return "", fmt.Errorf("the API server's discovery document names no issuer: %w", access.ErrInvalid)
	}
	return doc.Issuer, nil
}
