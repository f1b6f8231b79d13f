package main

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// socketPeer says for the audit log who is at the other end of a Unix socket,
// as the kernel knows it (SO_PEERCRED, unix(7)).
func socketPeer(conn net.Conn) string {
	const unknown = "local"
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return unknown
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return unknown
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return unknown
	}
	return fmt.Sprintf("local uid %d pid %d", cred.Uid, cred.Pid)
}
