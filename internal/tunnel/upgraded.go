package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// UpgradeFrom says, at the agent, whether a request from the tunnel is an
// upgrade, to which protocol, and with which method the client asked; proto is
// "" when it is none. The error wraps access.ErrInvalid.
func UpgradeFrom(r *http.Request) (proto, method string, err error) {
	asks := r.Header[HeaderUpgrade]
	if len(asks) == 0 {
		return "", "", nil
	}
	proto, method = knownProto(asks[0]), r.Header.Get(HeaderMethod)
	if len(asks) != 1 || proto == "" || r.Method != http.MethodPost ||
		method != http.MethodGet && method != http.MethodPost {
		return "", "", fmt.Errorf("upgrade from the tunnel: protocol or method not known: %w", access.ErrInvalid)
	}
	return proto, method, nil
}

// HandleUpgrade is the agent's end of an upgrade: it sends outgoing, with the
// method and protocol that r carries, over a connection from dial, and serves
// the outcome to the gateway behind w. outgoing has the URL and the identity;
// HandleUpgrade sets its method, Connection and Upgrade and drops every other
// hop-by-hop and private header. It returns when both directions have ended,
// either side aborts, or r's context ends; the connection is then closed.
//
// A status of 0 comes with an error and means that nothing was written: the
// caller answers. An error with another status means a response cut short: the
// caller panics with http.ErrAbortHandler when it is done.
func HandleUpgrade(w http.ResponseWriter, r *http.Request, dial func(context.Context) (net.Conn, error), outgoing *http.Request) (status int, err error) {
	proto, method, err := UpgradeFrom(r)
	if err == nil && proto == "" {
		err = fmt.Errorf("not an upgrade from the tunnel: %w", access.ErrInvalid)
	}
	if err != nil {
		return 0, err
	}
	ctx := r.Context()
	conn, err := dialAPI(ctx, dial)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			abort(conn)
			return
		}
		conn.Close()
	}()
	stop := context.AfterFunc(ctx, func() { abort(conn) })
	defer stop()

	req := outgoing.Clone(ctx)
	stripHop(req.Header)
	StripPrivate(req.Header)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	req.Method = method
	req.Body, req.ContentLength, req.TransferEncoding, req.Trailer, req.Close = nil, 0, nil, nil, false
	resp, br, err := ask(conn, req)
	if err != nil {
		return 0, fmt.Errorf("upgrade at the API server: %w: %w", access.ErrUnavailable, err)
	}
	answered := resp.Header.Get("Upgrade")
	stripHop(resp.Header)
	StripPrivate(resp.Header) // or the API server could claim an upgrade
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		status, _, err = relay(w, resp)
		return status, err
	}
	if !strings.EqualFold(answered, proto) {
		return 0, fmt.Errorf("asked the API server to upgrade to %s, got %q: %w", proto, answered, access.ErrUnavailable)
	}
	h := w.Header()
	h["Date"] = nil // unless the API server gave one
	for name, values := range resp.Header {
		h[name] = values
	}
	h.Set(HeaderUpgraded, proto)
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return http.StatusOK, err
	}
	return http.StatusOK, join(w, r.Body, conn, br)
}

func dialAPI(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial the API server: %w: %w", access.ErrUnavailable, err)
	}
	return conn, nil
}

// ask sends req and reads the answer's header, within the bounds. What came
// behind the header is in the reader.
func ask(conn net.Conn, req *http.Request) (*http.Response, *bufio.Reader, error) {
	conn.SetDeadline(time.Now().Add(answerTimeout))
	if err := req.Write(conn); err != nil {
		return nil, nil, err
	}
	bound := &io.LimitedReader{R: conn, N: maxAnswerHeader}
	br := bufio.NewReader(bound)
	for {
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			if bound.N <= 0 {
				err = fmt.Errorf("answer's header is longer than %d bytes", maxAnswerHeader)
			}
			return nil, nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			bound.N = math.MaxInt64
			conn.SetDeadline(time.Time{})
			return resp, br, nil
		}
	}
}

// join splices the stream (body up, w down) with the API server's connection.
// Whichever half fails aborts the connection, and so the other half; but an API
// server that takes no more input is no failure. It closes so when a command
// ends without having read all, and what it said before, such as the exit code,
// is still to be read; how that ends is the outcome.
func join(w http.ResponseWriter, body io.Reader, conn net.Conn, br *bufio.Reader) error {
	up := make(chan error, 1)
	go func() { // ended by the deadline below at the latest
		to := &taker{to: conn}
		_, err := io.Copy(to, body)
		switch {
		case to.refused:
			err = nil
		case err == nil:
			closeWrite(conn)
		default:
			abort(conn)
		}
		up <- err
	}()
	down := sendChunks(w, br)
	if down != nil {
		abort(conn)
		http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // unblocks body.Read
	}
	return errors.Join(<-up, down)
}

// taker notes that the writer took no more: io.Copy does not tell whose error
// it returns.
type taker struct {
	to      io.Writer
	refused bool
}

// Write serves [io.Writer].
func (t *taker) Write(p []byte) (int, error) {
	n, err := t.to.Write(p)
	t.refused = err != nil
	return n, err
}
