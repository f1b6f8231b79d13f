package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/access"
)

// link is the gateway's end of one connection.
type link struct {
	peer  Peer
	conn  *meter
	http  *http.ClientConn
	began time.Time
	rtt   atomic.Int64 // of the last beat, in nanoseconds
	cut   context.CancelCauseFunc

	leaving  chan struct{} // closed when the agent says so
	resting  atomic.Bool   // out of service
	doubtful atomic.Bool   // silent for longer than a live one is
	starting atomic.Int64  // streams reserved and not yet on the wire
	beat     func()        // told of each echo
}

// expired reports whether the peer's certificate has ended.
func (l *link) expired(now time.Time) bool {
	return !l.peer.NotAfter.IsZero() && !now.Before(l.peer.NotAfter)
}

// newLink starts HTTP/2 on conn, as its client.
func newLink(ctx context.Context, conn *meter, peer Peer) (*link, error) {
	t := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:              http2Only(),
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // bodies pass as they are; the gateway inflates none (checklist 37)
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: downConnWindow,
			MaxReceiveBufferPerStream:     downStreamWindow,
			MaxReadFrameSize:              frameSize,
			WriteByteTimeout:              writeTimeout,
		},
	}
	cc, err := t.NewClientConn(ctx, "http", "agent:80") // a name for messages; DialContext ignores it
	if err != nil {
		return nil, fmt.Errorf("tunnel: start HTTP/2 to agent %s of cluster %s: %w: %w", peer.Agent, peer.ClusterUID, access.ErrUnavailable, err)
	}
	return &link{peer: peer, conn: conn, http: cc, began: time.Now(), leaving: make(chan struct{})}, nil
}

// close ends the connection and every stream on it.
func (l *link) close() {
	l.conn.Close()
	l.http.Close()
}

// run keeps the connection's heartbeat until it dies, is drained or ctx ends,
// and says why it ended. It calls proved once, with the first echo, and rest
// when no request may begin here any more: the agent leaves, or its certificate
// has ended.
func (l *link) run(ctx context.Context, proved func() error, rest func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := newBeats()
	defer body.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+heartbeatPath, body)
	if err != nil {
		return err
	}

	echoed := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { cancel(l.listen(req, sync.OnceFunc(func() { close(echoed) }))) })
	defer listening.Wait()
	defer l.close() // before the wait: it ends the listener

	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	silent := silence{m: l.conn}
	limit := int(proveTimeout / beatEvery)
	leaving, expired, last := l.leaving, false, false
	for waiting := 0; ; {
		body.push(uint64(time.Since(l.began)))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-echoed:
			if err := proved(); err != nil {
				return err
			}
			body.say(wordServing)
			echoed, limit = nil, silentTicks
		case <-leaving:
			leaving = nil
			rest()
		case <-tick.C:
			waiting++
			if silent.tick(limit) || echoed != nil && waiting >= limit {
				return errSilent
			}
			l.doubtful.Store(silent.n >= doubtTicks)
		}
		if !expired && l.expired(time.Now()) {
			if expired = true; echoed != nil {
				return errExpired
			}
			rest()
		}
		if l.resting.Load() && l.starting.Load() == 0 {
			if l.http.InFlight() <= 1 { // the heartbeat
				return errDrained
			}
			if !last {
				last = true
				body.say(wordLast)
			}
		}
	}
}

var (
	errSilent  = errors.New("the other end is silent")
	errDrained = errors.New("drained: its last request has ended")
)

// listen opens the heartbeat stream and reads echoes until it ends.
func (l *link) listen(req *http.Request, heard func()) error {
	resp, err := l.http.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answered the heartbeat with %s", resp.Status)
	}
	leave := sync.OnceFunc(func() { close(l.leaving) })
	return readBeats(resp.Body, func(v uint64) {
		switch {
		case v == 0:
			return // the agent's own beat: life, but no proof that it hears us
		case v == wordLeaving:
			leave()
			return
		case v&wordBit != 0:
			return // of a later version
		}
		l.beat()
		l.rtt.Store(int64(time.Since(l.began) - time.Duration(v)))
		heard()
	})
}
