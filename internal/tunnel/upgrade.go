package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/access"
)

// The protocols a request may upgrade to; there are no others (checklist 9).
const (
	protoSPDY      = "SPDY/3.1"
	protoWebSocket = "websocket"
)

// knownProto returns the one spelling of a known protocol, else "".
func knownProto(s string) string {
	for _, p := range [...]string{protoSPDY, protoWebSocket} {
		if strings.EqualFold(s, p) {
			return p
		}
	}
	return ""
}

// UpgradeRequest says to which protocol a client's request asks to upgrade; ""
// when it does not ask. What is neither a plain request nor one clear upgrade
// of a known protocol, by GET or POST over HTTP/1.1 and without a body, is an
// error that wraps access.ErrInvalid: two hops that read it differently would
// disagree on where the request ends.
func UpgradeRequest(r *http.Request) (string, error) {
	asks := r.Header["Upgrade"]
	var tokens int
	for _, v := range r.Header["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				tokens++
			}
		}
	}
	if len(asks) == 0 && tokens == 0 {
		return "", nil
	}
	invalid := func(why string) (string, error) {
		return "", fmt.Errorf("upgrade request: %s: %w", why, access.ErrInvalid)
	}
	if len(asks) != 1 || tokens != 1 {
		return invalid("needs one Upgrade header and upgrade in Connection, once each")
	}
	proto := knownProto(asks[0])
	if proto == "" {
		return invalid("only SPDY/3.1 and websocket are known")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return invalid("method is neither GET nor POST")
	}
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 {
		return invalid("not over HTTP/1.1")
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return invalid("has a body")
	}
	return proto, nil
}

// ServeUpgrade forwards the upgrade request r by rt and serves its outcome to
// the client behind w, until both directions have ended, either side aborts,
// or r's context ends. r is the outgoing request: URL and headers as the agent
// shall see them, with the client's Connection and Upgrade. filter, if not nil,
// edits the answer's headers before the client gets them.
//
// After a 101 the client's connection is taken over and spliced; any other
// answer is relayed and the connection closed behind it (checklist 7).
//
// status is what the client was answered, and up and down are the bytes it sent
// and got. A status of 0 comes with an error and means that nothing was
// written: the caller answers. An error with another status than 101 means an
// answer cut short: the caller panics with http.ErrAbortHandler when it is
// done, or the client takes it for whole.
func ServeUpgrade(w http.ResponseWriter, r *http.Request, rt http.RoundTripper, filter func(http.Header)) (status int, up, down int64, err error) {
	proto, err := UpgradeRequest(r)
	if err == nil && proto == "" {
		err = fmt.Errorf("not an upgrade request: %w", access.ErrInvalid)
	}
	if err != nil {
		return 0, 0, 0, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()

	body := newClientBody()
	defer body.Close()
	resp, err := rt.RoundTrip(streamed(ctx, r, proto, body))
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() {
		cancel() // first: Close alone would wait for the body to be sent
		resp.Body.Close()
	}()

	if err := Refused(resp.Header); err != nil {
		return 0, 0, 0, err
	}
	upgraded := resp.Header.Get(HeaderUpgraded)
	stripHop(resp.Header)
	StripPrivate(resp.Header)
	if filter != nil {
		filter(resp.Header)
	}
	if upgraded == "" || resp.StatusCode != http.StatusOK {
		body.end(io.EOF) // an error would have net/http reset the stream, and cut the answer
		w.Header().Set("Connection", "close")
		status, down, err = relay(w, resp)
		return status, 0, down, err
	}
	if upgraded != proto {
		return 0, 0, 0, fmt.Errorf("asked the agent to upgrade to %s, got %q: %w", proto, upgraded, access.ErrUnavailable)
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("take over the client's connection: %w", err)
	}
	down, err = splice(ctx, client{Conn: conn, buffered: buf.Reader}, resp, proto, body)
	return http.StatusSwitchingProtocols, body.n.Load(), down, err
}

// streamed is r as it goes over the tunnel.
func streamed(ctx context.Context, r *http.Request, proto string, body io.ReadCloser) *http.Request {
	out := r.Clone(ctx)
	stripHop(out.Header)
	out.Header.Set(HeaderUpgrade, proto)
	out.Header.Set(HeaderMethod, r.Method)
	out.Method = http.MethodPost
	out.RequestURI = ""
	out.Body, out.GetBody, out.ContentLength = body, nil, -1
	out.TransferEncoding, out.Trailer, out.Close = nil, nil, false
	return out
}

// relay answers with a response that is not an upgrade. It leaves Connection to
// the caller: at the agent, "close" would end the tunnel's whole connection.
func relay(w http.ResponseWriter, resp *http.Response) (int, int64, error) {
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		// No upgrade is answered by a redirect; to follow or to pass one on would
		// send the client's token elsewhere (checklist 8).
		return 0, 0, fmt.Errorf("an upgrade was answered with %d: %w", resp.StatusCode, access.ErrUnavailable)
	}
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	n, err := io.Copy(w, resp.Body)
	return resp.StatusCode, n, err
}

// client is the taken-over connection; its first bytes may already be in the
// server's buffer.
type client struct {
	net.Conn
	buffered *bufio.Reader
}

func (c client) Read(p []byte) (int, error) {
	if n := c.buffered.Buffered(); n > 0 {
		return c.buffered.Read(p[:min(n, len(p))])
	}
	return c.Conn.Read(p)
}

func (c client) NetConn() net.Conn { return c.Conn }

func (c client) CloseWrite() error { closeWrite(c.Conn); return nil }

// splice answers 101 and joins the client with the stream.
func splice(ctx context.Context, c client, resp *http.Response, proto string, body *clientBody) (down int64, err error) {
	defer func() {
		if err != nil {
			abort(c)
			return
		}
		c.Close()
	}()
	stop := context.AfterFunc(ctx, func() { abort(c) })
	defer stop()
	c.SetDeadline(time.Time{}) // the server's were for requests

	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + proto + "\r\n")
	resp.Header.Del("Content-Length")
	if err := resp.Header.Write(&head); err != nil {
		return 0, err
	}
	head.WriteString("\r\n")
	if _, err := c.Write(head.Bytes()); err != nil {
		return 0, fmt.Errorf("to the client: %w", err)
	}
	body.attach(c)
	down, err = receiveChunks(c, resp.Body)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		body.Close() // now, or net/http's call would end the wait
		linger(c)
	}
	return down, err
}

// linger waits for the client to take its leave, dropping what it still sends,
// until it is silent for lingerTimeout or ctx aborts the connection. To close
// while the client sends is to reset, which destroys what was sent but not yet
// read (RFC 9112, 9.6): the end of a command's output, or its exit code. However
// slowly a client of client-go reads, it pings every five seconds.
func linger(c net.Conn) {
	c = Underlying(c)
	closeWrite(c)
	buf := make([]byte, 4<<10)
	for {
		c.SetReadDeadline(time.Now().Add(lingerTimeout))
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// clientBody is the streamed request's body: empty-handed until a client is
// attached, then what the client sends. net/http reads it and closes it when
// the stream has ended, which unblocks the read.
type clientBody struct {
	n        atomic.Int64
	attached chan struct{}
	closed   chan struct{}

	mu   sync.Mutex
	conn net.Conn
	gone bool
	why  error // of the end before there was a client; set before closed
}

func newClientBody() *clientBody {
	return &clientBody{attached: make(chan struct{}), closed: make(chan struct{})}
}

func (b *clientBody) attach(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone {
		b.conn = c
		close(b.attached)
	}
}

var errBodyClosed = errors.New("the stream has ended")

func (b *clientBody) Read(p []byte) (int, error) {
	select {
	case <-b.attached:
	case <-b.closed:
		return 0, b.why
	}
	n, err := b.conn.Read(p)
	b.n.Add(int64(n))
	return n, err
}

func (b *clientBody) Close() error {
	b.end(errBodyClosed)
	return nil
}

// end ends the body, with why if no client was attached.
func (b *clientBody) end(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return
	}
	b.gone, b.why = true, why
	close(b.closed)
	if b.conn != nil {
		b.conn.SetReadDeadline(time.Unix(1, 0))
	}
}
