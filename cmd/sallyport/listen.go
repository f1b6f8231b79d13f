package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// frontDoor accepts connections on the one TLS port, completes the handshake
// and hands each to the server of the protocol (ALPN) it asked for. Whether a
// client certificate is demanded was decided in the handshake.
type frontDoor struct {
	// origin returns a connection as its client opened it, if that can differ:
	// behind a balancer it waits for what that says of the client.
	origin func(net.Conn) (net.Conn, error)
	tls    *tls.Config
	// isAgent says whose handshake is an agent's, which only decides whom it waits
	// for; nil is nobody's.
	isAgent func(*tls.ClientHelloInfo) bool
	// maxHalfOpen is how many connections may be waited for to say something; 0 is
	// the constant of that name.
	maxHalfOpen int
	// byProtocol takes over connections of the agents' protocols. Any other
	// protocol goes to web.
	byProtocol map[string]func(context.Context, *tls.Conn)
	web        *http.Server
	log        *slog.Logger
}

// serve accepts until ctx ends, and returns when every connection is gone.
// Requests under way get a moment, and the tunnels they run through outlive
// them.
func (d *frontDoor) serve(ctx context.Context, ln net.Listener) error {
	web := newHandOver(ln.Addr())
	conns, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	var all sync.WaitGroup
	all.Go(func() { d.web.Serve(web) })
	config, pending := inTurn(d.tls, d.isAgent), newHandshakes(cmp.Or(d.maxHalfOpen, maxHalfOpen))
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			// Out of file descriptors, say: others may end meanwhile.
			d.log.Warn("accept failed", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			break
		}
		all.Go(func() {
			if secured := d.handshake(conns, conn, config, pending); secured != nil {
				d.dispatch(conns, secured, web)
			}
		})
	}
	web.Close()
	shutdown(d.web)
	cut(context.Cause(ctx))
	all.Wait()
	return context.Cause(ctx)
}

func (d *frontDoor) handshake(ctx context.Context, conn net.Conn, config *tls.Config, pending *handshakes) *tls.Conn {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	// The header comes out of the time and the place of the handshake: silence
	// before it holds neither longer than silence after it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	leave := pending.silent.enter(conn)
	from, err := d.origin(conn)
	leave()
	stop()
	if err != nil {
		d.log.Info("connection refused", "remote", conn.RemoteAddr(), "error", err)
		conn.Close()
		return nil
	}
	current := &handshaking{Conn: from, all: pending}
	defer current.end()
	secured := tls.Server(current, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		d.log.Debug("handshake failed", "remote", from.RemoteAddr(), "error", err)
		from.Close()
		return nil
	}
	return secured
}

func (d *frontDoor) dispatch(ctx context.Context, conn *tls.Conn, web *handOver) {
	if serve := d.byProtocol[conn.ConnectionState().NegotiatedProtocol]; serve != nil {
		serve(ctx, conn)
		return
	}
	web.give(conn)
}

// shutdown gives a server's requests a moment and then closes it.
func shutdown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.Close()
	}
}

// handOver is a [net.Listener] of connections that somebody else accepted.
type handOver struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandOver(addr net.Addr) *handOver {
	return &handOver{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give passes a connection on, or closes it when nobody accepts any more.
func (h *handOver) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

// Accept implements [net.Listener].
func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handOver) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements [net.Listener].
func (h *handOver) Addr() net.Addr { return h.addr }

// plainHTTP is a TLS connection that [http.Server] serves HTTP/1.1 on: of a
// bare *tls.Conn it would first look up the protocol, which is ours. Requests
// still have their TLS field, by the ConnectionState method.
type plainHTTP struct{ *tls.Conn }
