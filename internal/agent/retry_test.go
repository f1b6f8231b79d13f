package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/agent"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestRetryBacksOffWithinItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 40
		last, bound, n := time.Now(), time.Duration(0), 0
		err := agent.Retry(t.Context(), quiet(), "test", func(context.Context) error {
			if waited := time.Since(last); waited > bound {
				t.Errorf("attempt %d came after %s, more than %s", n, waited, bound)
			}
			last = time.Now()
			if n++; n == attempts {
				return nil
			}
			if bound = min(2*bound, agent.MaxBackoff); bound == 0 {
				bound = agent.MinBackoff
			}
			return errors.New("no")
		})
		if err != nil || n != attempts {
			t.Errorf("%d attempts, %v", n, err)
		}
	})
}

func TestRetryStartsAfreshAfterALongAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := 0, time.Time{}
		err := agent.Retry(t.Context(), quiet(), "test", func(context.Context) error {
			switch n++; {
			case n < 20:
				return errors.New("no")
			case n == 20:
				time.Sleep(agent.MaxBackoff + 1) // of synctest's clock
				ended = time.Now()
				return errors.New("lasted, then lost")
			default:
				if waited := time.Since(ended); waited > agent.MinBackoff {
					t.Errorf("waited %s", waited)
				}
				return nil
			}
		})
		if err != nil || n != 21 {
			t.Errorf("%d attempts, %v", n, err)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	stop := errors.New("stop")
	for name, during := range map[string]bool{"in the attempt": true, "in the wait": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				err := agent.Retry(ctx, quiet(), "test", func(ctx context.Context) error {
					if during {
						cancel(stop)
					} else {
						time.AfterFunc(0, func() { cancel(stop) })
					}
					return errors.New("no")
				})
				if !errors.Is(err, stop) {
					t.Error(err)
				}
			})
		})
	}
}

func TestMailboxHoldsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := agent.NewMailbox()
		if v, ok := m.Poll(); ok {
			t.Errorf("empty, but gave %d", v)
		}
		for i := range 3 {
			m.Put(i)
		}
		if v, err := m.Take(t.Context()); v != 2 || err != nil {
			t.Errorf("took %d, %v", v, err)
		}
		m.Put(3)
		if v, ok := m.Poll(); v != 3 || !ok {
			t.Errorf("polled %d, %v", v, ok)
		}
		// What was polled is not taken again: take waits for the next.
		took := make(chan int)
		go func() {
			v, _ := m.Take(t.Context())
			took <- v
		}()
		synctest.Wait()
		select {
		case v := <-took:
			t.Fatalf("took %d twice", v)
		default:
		}
		m.Put(4)
		if v := <-took; v != 4 {
			t.Errorf("took %d", v)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestMailboxLosesNoLastValue(t *testing.T) {
	m := agent.NewMailbox()
	const values = 1000
	var all sync.WaitGroup
	all.Go(func() {
		for i := range values {
			m.Put(i)
		}
	})
	for last := -1; last != values-1; {
		v, err := m.Take(t.Context())
		if err != nil || v <= last {
			t.Fatalf("took %d after %d, %v", v, last, err)
		}
		last = v
	}
	all.Wait()
}

func TestIssuerOf(t *testing.T) {
	for document, want := range map[string]string{
		`{"issuer":"https://kubernetes.default.svc"}`: "https://kubernetes.default.svc",
		`{"issuer":""}`: "", `{}`: "", ``: "", `[]`: "", `{"issuer":7}`: "", `{"issuer":"x"`: "",
	} {
		got, err := agent.IssuerOf([]byte(document))
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %q, %v", document, got, err)
		}
	}
}

func TestTokenIsReadAgainAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		write := func(s string) {
			if err := os.WriteFile(filepath.Join(dir, "token"), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		token := agent.TokenOf(dir)
		if _, err := token(); err == nil {
			t.Error("read a token that is not there")
		}
		write("one\n")
		if got, err := token(); got != "one" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		write("two")
		if got, _ := token(); got != "one" {
			t.Errorf("at once: %q", got)
		}
		time.Sleep(11 * time.Second) // of synctest's clock
		if got, _ := token(); got != "two" {
			t.Errorf("later: %q", got)
		}
		if err := os.Remove(filepath.Join(dir, "token")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		if got, err := token(); err == nil {
			t.Errorf("removed, but still %q", got)
		}
	})
}

func TestRetired(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"TLS alert", fmt.Errorf("feed: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}), true},
		{"forbidden", fmt.Errorf("x: %w", access.ErrForbidden), true},
		{"unauthenticated", fmt.Errorf("x: %w", access.ErrUnauthenticated), true},
		{"cluster gone", fmt.Errorf("x: %w", access.ErrNotFound), true},
		{"dial", &net.OpError{Op: "dial", Err: errors.New("refused")}, false},
		{"unavailable", fmt.Errorf("x: %w", access.ErrUnavailable), false},
		{"end", io.ErrUnexpectedEOF, false},
		{"none", nil, false},
	} {
		if got := agent.Retired(tc.err); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
