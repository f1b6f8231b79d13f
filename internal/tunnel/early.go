package tunnel

import (
	"context"
	"io"
	"net/http"
)

// Early returns a way to the other end whose answers end without their
// requests: closing an answer's body does not wait for the request's body. Over
// HTTP/2 net/http does wait, until the body was read or its read has failed; and
// a reverse proxy lets nobody close the body that it sends. So an answer to a
// client that stopped in the middle of its body would never end.
//
// What still reads the request's body ends with the server's handler.
func Early(next http.RoundTripper) http.RoundTripper { return early{next} }

type early struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (e early) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	resp, err := e.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = earlyBody{resp.Body, cancel}
	return resp, nil
}

// earlyBody is the body of an answer.
type earlyBody struct {
	io.ReadCloser
	leave context.CancelFunc
}

// Close implements [io.Closer].
func (b earlyBody) Close() error {
	b.leave()
	return b.ReadCloser.Close()
}
