package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// conn is the agent's end of one connection: an HTTP/2 server on it.
type conn struct {
	d      *dialer
	meter  *meter
	server *http.Server
	leaf   *x509.Certificate // it was opened with; nil for none
	began  time.Time

	admitted chan struct{} // closed when the gateway gives it requests
	words    chan uint64   // to the heartbeat
	leave    sync.Once

	ended chan struct{}
	err   error // why; valid after ended
}

// open makes one connection, by the turn-th of the gateway's addresses, and
// waits until the gateway gives it requests. If it replaces old, it does so with
// a newer certificate or not at all.
func (d *dialer) open(ctx context.Context, turn int, old *conn) (*conn, error) {
	cfg, err := d.tls(ctx)
	if err != nil {
		return nil, err
	}
	leaf := leafOf(cfg)
	if old != nil && (leaf == nil || !leaf.NotAfter.After(old.leaf.NotAfter)) {
		return nil, errors.New("no newer certificate to be had")
	}
	secured, err := d.connect(ctx, cfg, turn)
	if err != nil {
		return nil, err
	}
	c := d.start(secured, leaf)
	select {
	case <-c.admitted:
		return c, nil
	case <-c.ended:
		return nil, c.err
	case <-ctx.Done():
		c.meter.Close()
		<-c.ended
		return nil, context.Cause(ctx)
	}
}

// leafOf is the client certificate of a configuration, or nil.
func leafOf(cfg *tls.Config) *x509.Certificate {
	if len(cfg.Certificates) == 0 {
		return nil
	}
	return cfg.Certificates[0].Leaf
}

// start serves on a connection until it ends or the dialer cuts everything.
func (d *dialer) start(secured net.Conn, leaf *x509.Certificate) *conn {
	c := &conn{
		d: d, meter: newMeter(secured), leaf: leaf, began: time.Now(),
		admitted: make(chan struct{}), words: make(chan uint64, 1), ended: make(chan struct{}),
	}
	released := make(chan struct{})
	c.server = &http.Server{
		Handler:   c.handler(),
		Protocols: http2Only(),
		ErrorLog:  slog.NewLogLogger(d.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: upConnWindow,
			MaxReceiveBufferPerStream:     upStreamWindow,
			MaxReadFrameSize:              frameSize,
			WriteByteTimeout:              writeTimeout,
		},
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: proveTimeout, // for the preface; streams have no part in it
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(released)
			}
		},
	}
	l := &oneConn{conn: c.meter, next: make(chan net.Conn, 1)}
	l.next <- c.meter
	d.serving.Go(func() {
		var accepting sync.WaitGroup
		accepting.Go(func() { c.server.Serve(l) }) // returns with the connection; watch says why it ended
		c.err = c.watch()
		c.meter.Close()
		accepting.Wait()
		<-released // handlers may still be returning
		close(c.ended)
	})
	return c
}

// watch waits for the end of the connection, and ends it when it is silent.
func (c *conn) watch() (err error) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	silent := silence{m: c.meter}
	limit := int(proveTimeout / beatEvery)
	admitted := c.admitted
	for waiting := 0; ; {
		select {
		case <-c.d.cut:
			return errCut
		case <-c.meter.closed:
			return errors.New("connection closed")
		case <-admitted:
			admitted, limit = nil, silentTicks
			c.d.cfg.Logger.Info("connected to the gateway", "gateway", c.d.cfg.Address, "remote", c.meter.RemoteAddr())
			if c.d.cfg.OnConnect != nil {
				c.d.cfg.OnConnect()
			}
			if c.d.cfg.OnDisconnect != nil {
				defer func() { c.d.cfg.OnDisconnect(err) }()
			}
		case <-tick.C:
			waiting++
			if silent.tick(limit) || admitted != nil && waiting >= limit {
				return errSilent
			}
		}
	}
}

var errCut = errors.New("cut: the agent is stopping")

// drain asks the gateway to send nothing new here. It closes the connection
// when the last request has ended; drain does not wait for that.
func (c *conn) drain() { c.leave.Do(func() { c.words <- wordLeaving }) }

// goAway sends GOAWAY (RFC 9113, 6.8). It follows the gateway's own word that no
// new stream will come, so that none can cross it and be lost.
func (c *conn) goAway() {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	c.server.Shutdown(done) // starts it, and does not wait
}

// handler answers heartbeats itself and counts the calls of the real handler.
func (c *conn) handler() http.Handler {
	admit := sync.OnceFunc(func() { close(c.admitted) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.d.handlers.enter() {
			return
		}
		defer c.d.handlers.leave()
		if r.RequestURI != heartbeatPath {
			c.d.cfg.Handler.ServeHTTP(w, r)
			return
		}
		answerBeats(w, r, c.words, func(word uint64) {
			switch word {
			case wordServing:
				admit()
			case wordLast:
				c.goAway()
			}
		})
	})
}

// done is closed when the connection has ended; of no connection it is nil.
func (c *conn) done() <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.ended
}

// oneConn is a listener that accepts one connection, and ends when that does.
type oneConn struct {
	conn *meter
	next chan net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.next:
		return c, nil
	default:
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

// Close leaves the connection open: [http.Server.Shutdown] begins with it.
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// tls asks the caller for the next connection's configuration.
func (d *dialer) tls(ctx context.Context) (*tls.Config, error) {
	cfg, err := d.cfg.TLS(ctx)
	if err != nil {
		return nil, fmt.Errorf("TLS configuration: %w", err)
	}
	cfg = cfg.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = d.host
	}
	return cfg, nil
}
