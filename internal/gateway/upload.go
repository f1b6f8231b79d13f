package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// unreadLimit is how long a connection of HTTP/1.1 waits for the rest of a
// request's body that nobody needs any more.
const unreadLimit = 5 * time.Second

// upload is a request's body. It counts what is read, by the transport, which
// may outlive the answer. Over HTTP/1.1 it also sees to it that an answer does not
// wait for a body that does not come; HTTP/2 answers beside the body.
type upload struct {
	io.ReadCloser
	size  int64 // as announced, -1 for unknown
	first bool  // HTTP/1.1
	conn  *http.ResponseController

	n       atomic.Int64
	whole   atomic.Bool
	reading sync.Mutex // held while the body is read

	mu           sync.Mutex
	taken, ended bool // somebody has begun to read it; nobody may any more
}

var errAnswered = errors.New("the request was answered before its body had ended")

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	u.reading.Lock()
	defer u.reading.Unlock()
	if !u.take() {
		return 0, errAnswered
	}
	n, err := u.ReadCloser.Read(p)
	if total := u.n.Add(int64(n)); err == io.EOF || u.size >= 0 && total >= u.size {
		u.whole.Store(true)
	}
	return n, err
}

func (u *upload) take() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken = u.taken || !u.ended
	return !u.ended
}

func (u *upload) received() int64 {
	if u == nil {
		return 0
	}
	return u.n.Load()
}

// answered is called with the head of the answer, before it is written. Over
// HTTP/1.1 net/http would first read the body to its end, unless the connection
// ends with the answer. So it does, if the body is being read and is not
// whole. One that nobody began to read net/http may look for, but not for long:
// mostly it is there, and the connection can go on.
func (u *upload) answered(h http.Header) {
	if u == nil || !u.first || u.whole.Load() {
		return
	}
	u.mu.Lock()
	u.ended = !u.taken
	taken := u.taken
	u.mu.Unlock()
	if taken {
		h.Set("Connection", "close")
		return
	}
	u.limit()
}

// end is called behind the answer. net/http would break off a read under way
// and take its limit along; then it looks for the body's end.
func (u *upload) end() {
	if u == nil || !u.first || u.whole.Load() {
		return
	}
	u.mu.Lock()
	u.ended = true
	taken := u.taken
	u.mu.Unlock()
	if !taken || u.conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return
	}
	u.reading.Lock() // the read under way has ended
	defer u.reading.Unlock()
	u.limit()
}

// limit bounds what net/http itself reads; with the body's end it is void.
func (u *upload) limit() {
	// An error means that there is no connection any more, or one of a test.
	_ = u.conn.SetReadDeadline(time.Now().Add(unreadLimit))
}
