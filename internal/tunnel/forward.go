package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// Forwarder sends a plain request to the next hop and copies its answer back, at
// either end of a tunnel; [ServeUpgrade] and [HandleUpgrade] do so with the
// others. The zero value is ready and safe for concurrent use.
//
// It is a reverse proxy that knows nothing of headers: which of them pass is
// settled before, of a request, and in the RoundTripper, of an answer. Interim
// answers (1xx) do not pass; since nobody looks at them, net/http itself bounds
// how many there may be, by their size.
type Forwarder struct{ buffers sync.Pool }

// copyBuffer is how many bytes of an answer are copied at once.
const copyBuffer = 32 << 10

// Forward sends out by rt and answers w. out is the request as the next hop
// shall see it, and is Forward's from now on; what still reads its body when
// Forward returns finds it ended.
//
// began says whether w was answered. If not, there is an error, and the caller
// answers. With an error as well, the answer was cut short: the caller panics
// with [http.ErrAbortHandler], or the client takes it for whole.
func (f *Forwarder) Forward(w http.ResponseWriter, out *http.Request, rt http.RoundTripper) (began bool, err error) {
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or net/http would give its own
	}
	out, release := lend(out)
	defer release()
	resp, err := rt.RoundTrip(out)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	defer release() // first: Close would wait for a body that the client does not end
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return false, errors.New("the protocol was switched, which nobody had asked for")
	}
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	announced := len(resp.Trailer)
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
	if err := f.copy(w, resp); err != nil {
		return true, err
	}
	if len(resp.Trailer) == 0 {
		return true, nil
	}
	// Without it net/http would give a short answer a length, and no trailers.
	if err := http.NewResponseController(w).Flush(); err != nil {
		return true, err
	}
	prefix := ""
	if len(resp.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range resp.Trailer {
		h[prefix+name] = values
	}
	return true, nil
}

// copy copies an answer's body. One of unknown length may be a watch or a log:
// its head and each part of it go on as they come.
func (f *Forwarder) copy(w http.ResponseWriter, resp *http.Response) error {
	flush := func() error { return nil }
	if resp.ContentLength == -1 {
		flush = http.NewResponseController(w).Flush
	}
	buffer, ok := f.buffers.Get().(*[copyBuffer]byte)
	if !ok {
		buffer = new([copyBuffer]byte)
	}
	defer f.buffers.Put(buffer)
	for {
		if err := flush(); err != nil {
			return fmt.Errorf("towards the client: %w", err)
		}
		n, err := resp.Body.Read(buffer[:])
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return fmt.Errorf("towards the client: %w", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("from the other end: %w", err)
		}
	}
}

// lend gives a request a body, if it has one, that net/http's server keeps:
// whoever sends it can neither close it nor read it after release, for the
// server's handler may have returned by then. release also ends the request,
// because net/http does not end one over HTTP/2 before its body was read or its
// read has failed; and a client may stop in the middle.
func lend(out *http.Request) (_ *http.Request, release func()) {
	if out.Body == nil || out.ContentLength == 0 {
		out.Body = nil
		return out, func() {}
	}
	body := &lentBody{Reader: out.Body}
	ctx, cancel := context.WithCancel(out.Context())
	out = out.WithContext(ctx)
	out.Body = body
	return out, func() {
		body.Close()
		cancel()
	}
}

// lentBody is a request's body that its reader does not own.
type lentBody struct {
	io.Reader
	ended atomic.Bool
}

// Read implements [io.Reader].
func (b *lentBody) Read(p []byte) (int, error) {
	if b.ended.Load() {
		return 0, errBodyClosed
	}
	return b.Reader.Read(p)
}

// Close ends the reading alone.
func (b *lentBody) Close() error {
	b.ended.Store(true)
	return nil
}
