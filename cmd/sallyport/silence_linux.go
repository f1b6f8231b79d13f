package main

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// boundSilence has Linux end a connection whose peer has acknowledged nothing
// of what was sent for that long (TCP_USER_TIMEOUT, RFC 5482). Without it, an
// agent that was cut off counts as connected for a quarter of an hour: small
// writes, such as a feed's heartbeats, go into the socket's buffer and succeed.
//
// It is not for clients' connections: one whose reader pauses, kubectl's behind
// a pager for example, is silent in this sense and must stay.
func boundSilence(conn *tls.Conn, limit time.Duration) error {
	tcp, ok := tunnel.Underlying(conn).(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	}); err != nil {
		return err
	}
	return failed
}
