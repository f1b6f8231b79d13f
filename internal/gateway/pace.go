package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// paceAtOnce is the most bytes that a stream passes in its turn. Turns of one
// limit go round in the order in which they were asked for, so however many
// streams a binding has, nobody waits for more than one turn of each.
const paceAtOnce = 32 << 10

// paced is the way to a cluster's agent on which bodies, and upgraded streams,
// pass no faster than the limits of bytes allow. What waits is not read, so it
// is held up at its sender, by HTTP/2's or TCP's own flow control, and a stream
// that waits holds no more than its window.
type paced struct {
	next  http.RoundTripper
	lease lease
}

// RoundTrip implements [http.RoundTripper].
func (p paced) RoundTrip(r *http.Request) (*http.Response, error) {
	if !p.lease.paces() {
		return p.next.RoundTrip(r)
	}
	ctx := r.Context()
	if r.Body != nil && r.Body != http.NoBody {
		out := *r
		out.Body, r = newPacedBody(ctx, r.Body, p.lease), &out
	}
	resp, err := p.next.RoundTrip(r)
	if err == nil {
		resp.Body = newPacedBody(ctx, resp.Body, p.lease)
	}
	return resp, err
}

// paces reports whether there is a limit of bytes.
func (l lease) paces() bool {
	for _, s := range l.of {
		if s.bytes != nil {
			return true
		}
	}
	return false
}

// pacedBody waits after each read until what it has read may pass.
type pacedBody struct {
	io.ReadCloser
	ctx   context.Context
	lease lease
	once  sync.Once
	done  chan struct{} // closed with the body
}

func newPacedBody(ctx context.Context, b io.ReadCloser, l lease) *pacedBody {
	return &pacedBody{ReadCloser: b, ctx: ctx, lease: l, done: make(chan struct{})}
}

// Read implements [io.Reader].
func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), paceAtOnce)])
	if waitErr := b.wait(n); waitErr != nil {
		err = waitErr
	}
	return n, err
}

// Close ends a wait as well.
func (b *pacedBody) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.ReadCloser.Close()
}

var errBodyClosed = errors.New("the body was closed")

// wait takes n bytes of the binding's limit and then of the cluster's: what
// waits for the one takes nothing yet of the other.
func (b *pacedBody) wait(n int) error {
	for _, s := range b.lease.of {
		if s.bytes == nil || n <= 0 {
			continue
		}
		now := time.Now()
		turn := s.bytes.ReserveN(now, n)
		delay := turn.DelayFrom(now)
		if delay <= 0 {
			continue
		}
		b.lease.throttle.metrics.paced.WithLabelValues(string(s.level) + "_bytes").Add(delay.Seconds())
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
			continue
		case <-b.ctx.Done():
			timer.Stop()
			turn.Cancel()
			return context.Cause(b.ctx)
		case <-b.done:
			timer.Stop()
			turn.Cancel()
			return errBodyClosed
		}
	}
	return nil
}
