package tunnel

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/access"
)

// To returns the way to a cluster: a RoundTripper that sends each request over
// the live connection with the fewest streams, and over another one when the
// first is known not to have taken it. The error, now or from RoundTrip, wraps
// access.ErrUnavailable when no connection is live or all their streams are
// taken, and when the connection dies before the answer.
func (h *Hub) To(clusterUID string) (http.RoundTripper, error) {
	if h.Connected(clusterUID) == 0 {
		return nil, fmt.Errorf("tunnel: reach cluster %s: no agent is connected: %w", clusterUID, access.ErrUnavailable)
	}
	return route{hub: h, uid: clusterUID}, nil
}

// ErrNotSent says that nothing of a request was sent, so that it may be sent
// again whatever it does.
var ErrNotSent = fmt.Errorf("not sent: %w", access.ErrUnavailable)

var errNoStream = fmt.Errorf("no free stream: %w", ErrNotSent)

// route chooses the connection for each request, not once, so that it survives
// the replacement of a connection.
type route struct {
	hub *Hub
	uid string
}

func (t route) RoundTrip(r *http.Request) (*http.Response, error) {
	r, err := addressed(r)
	if err != nil {
		closeBody(r)
		return nil, fmt.Errorf("tunnel: reach cluster %s: %w", t.uid, err)
	}
	body := keepBody(r)
	if body != nil {
		defer body.settle()
		r = r.WithContext(r.Context()) // a copy: the caller's keeps its body
		r.Body = body
	}
	outcome := errNoStream
	var tried []*link
	for l := t.reserve(tried); l != nil; l = t.reserve(tried) {
		tried = append(tried, l)
		resp, sent, err := l.send(r)
		if err == nil {
			return resp, nil
		}
		if r.Context().Err() != nil {
			return nil, err // the caller's doing, not the tunnel's
		}
		if sent && !unprocessed(err) || !body.unread() {
			return nil, fmt.Errorf("tunnel: reach cluster %s: %w: %w", t.uid, access.ErrUnavailable, err)
		}
		outcome = fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if body != nil {
		body.Close()
	}
	return nil, fmt.Errorf("tunnel: reach cluster %s: %w", t.uid, outcome)
}

// reserve takes a stream on the least loaded connection that has one and was not
// tried, a doubtful one only if there is no other. Reserving makes a full connection refuse;
// without it net/http would queue the request.
func (t route) reserve(tried []*link) *link {
	links := t.hub.links(t.uid)
	if len(links) > 1 {
		load := func(l *link) int {
			if l.doubtful.Load() {
				return l.http.InFlight() + 2*maxStreams
			}
			return l.http.InFlight()
		}
		slices.SortStableFunc(links, func(a, b *link) int { return cmp.Compare(load(a), load(b)) })
	}
	now := time.Now()
	for _, l := range links {
		if !slices.Contains(tried, l) && l.reserve(now) {
			return l
		}
	}
	return nil
}

// reserve takes a stream for send, or reports that there is none to be had: the
// connection is full, closed, leaving, or older than its certificate.
func (l *link) reserve(now time.Time) bool {
	// Counted first and looked at then: the link says its last word when it is
	// resting and nothing is counted, so nothing can begin behind that.
	l.starting.Add(1)
	if !l.resting.Load() && !l.expired(now) && l.http.Reserve() == nil {
		return true
	}
	l.starting.Add(-1)
	return false
}

// send sends a request on the stream that was reserved. sent is false if
// nothing of it was written.
func (l *link) send(r *http.Request) (_ *http.Response, sent bool, _ error) {
	var written atomic.Bool
	began := func() bool {
		first := written.CompareAndSwap(false, true)
		if first {
			l.starting.Add(-1)
		}
		return first
	}
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { began() }})
	resp, err := l.http.RoundTrip(r.WithContext(ctx))
	return resp, !began(), err
}

// streamError is net/http's error of a stream that was reset, which is not
// exported but lets itself be read as any struct of these fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string {
	return fmt.Sprintf("stream %d: error code %d", e.StreamID, e.Code)
}

// unprocessed reports whether the agent's end is known not to have looked at a
// request: its stream was refused, or was opened behind a GOAWAY (RFC 9113, 8.7).
func unprocessed(err error) bool {
	const (
		refusedStream = 7
		// net/http exports no value for this; TestGoAway fails should it change.
		behindGoAway = "http2: Transport received Server's graceful shutdown GOAWAY"
	)
	var reset streamError
	return errors.As(err, &reset) && reset.Code == refusedStream || err.Error() == behindGoAway
}

// keptBody is a request's body that stays open until it was read from, so that
// a request that went nowhere can be sent again: net/http closes the body of
// each one that fails.
type keptBody struct {
	io.ReadCloser

	mu      sync.Mutex
	read    bool
	closed  bool // and nobody told the real one yet
	settled bool // there will be no other attempt
}

// keepBody returns nil for a request without a body.
func keepBody(r *http.Request) *keptBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	return &keptBody{ReadCloser: r.Body}
}

func (b *keptBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

func (b *keptBody) Close() error {
	b.mu.Lock()
	keep := !b.read && !b.settled
	b.closed = keep
	b.mu.Unlock()
	if keep {
		return nil
	}
	return b.ReadCloser.Close()
}

// settle ends the attempts, and closes what an attempt has closed.
func (b *keptBody) settle() {
	b.mu.Lock()
	b.settled = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		b.ReadCloser.Close()
	}
}

// unread reports whether the request can be sent again, being whole.
func (b *keptBody) unread() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = false
	return !b.read
}

var errHeartbeat = errors.New("that path belongs to the tunnel")

// addressed gives r the scheme and host that net/http insists on, and refuses
// what could reach the agent's end of the tunnel and not its handler.
func addressed(r *http.Request) (*http.Request, error) {
	if r.URL == nil || r.URL.Opaque != "" {
		return r, fmt.Errorf("request without a path: %w", access.ErrInvalid)
	}
	if r.URL.RequestURI() == heartbeatPath {
		return r, fmt.Errorf("%w: %w", errHeartbeat, access.ErrForbidden)
	}
	if r.URL.Host != "" && r.URL.Scheme != "" {
		return r, nil
	}
	out := *r
	out.URL = new(url.URL)
	*out.URL = *r.URL
	out.URL.Scheme = cmp.Or(r.URL.Scheme, "http")
	out.URL.Host = cmp.Or(r.URL.Host, "agent")
	return &out, nil
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}
