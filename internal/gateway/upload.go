package gateway

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// unreadLimit is how long an answer waits for the rest of a request's body.
const unreadLimit = 5 * time.Second

// upload is a request's body. It counts what is read, by the transport, which
// may outlive the answer.
type upload struct {
	io.ReadCloser
	size  int64 // as announced, -1 for unknown
	first bool  // HTTP/1.1
	conn  *http.ResponseController

	n       atomic.Int64
	whole   atomic.Bool
	hurried atomic.Bool
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if total := u.n.Add(int64(n)); err == io.EOF || u.size >= 0 && total >= u.size {
		u.whole.Store(true)
		u.relax()
	}
	return n, err
}

func (u *upload) received() int64 {
	if u == nil {
		return 0
	}
	return u.n.Load()
}

// hurry is called when there is an answer, or will be none. Over HTTP/1.1
// net/http sends none before the body's end has come; a client that does not send
// it would neither be told nor ever leave. HTTP/2 answers beside the body.
func (u *upload) hurry() {
	if u == nil || !u.first || u.whole.Load() {
		return
	}
	u.hurried.Store(true)
	// An error means that there is no connection any more, or one of a test.
	_ = u.conn.SetReadDeadline(time.Now().Add(unreadLimit))
	if u.whole.Load() { // meanwhile
		u.relax()
	}
}

// relax takes the limit back: behind the body's end the same deadline would cut
// the answer, since net/http then reads on to notice a client that leaves.
func (u *upload) relax() {
	if u.hurried.Load() {
		_ = u.conn.SetReadDeadline(time.Time{})
	}
}
