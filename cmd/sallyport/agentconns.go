package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
	"github.com/sallyport/sallyport/internal/enroll"
)

// agentConns are the agents' open connections, by the CA of their certificate:
// a CA may go when nobody depends on it. The zero value works.
type agentConns struct {
	mu    sync.Mutex
	conns map[net.Conn]enroll.Identity
}

// enter adds a connection, and returns what takes it out again.
func (c *agentConns) enter(conn net.Conn, id enroll.Identity) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = map[net.Conn]enroll.Identity{}
	}
	c.conns[conn] = id
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.conns, conn)
	}
}

// moved reports whether a cluster's two halves are connected by certificates of
// this CA, whatever else they have. What is left under another then only ends.
func (c *agentConns) moved(clusterUID, caHash string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := map[enroll.Role]bool{}
	for _, id := range c.conns {
		if id.ClusterUID == clusterUID && id.CAHash == caHash {
			have[id.Role] = true
		}
	}
	return have[enroll.RoleServe] && have[enroll.RoleReport]
}

// count says how many connections there are by certificates of this CA.
func (c *agentConns) count(caHash string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.conns {
		if id.CAHash == caHash {
			n++
		}
	}
	return n
}

// cut ends the connections by certificates of this CA.
func (c *agentConns) cut(caHash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn, id := range c.conns {
		if id.CAHash == caHash {
			conn.Close()
		}
	}
}

// feedConn is a connection of a feed that is counted until it is closed.
type feedConn struct {
	plainHTTP
	leave func()
}

// Close implements [net.Conn].
func (c feedConn) Close() error {
	c.leave()
	return c.plainHTTP.Close()
}

// giveFeed hands an agent's connection to the feed's server.
func (s *server) giveFeed(feed *handOver, conn *tls.Conn) {
	id, err := s.authority.Peer(conn.ConnectionState())
	if err != nil {
		s.log.Warn("feed refused", "remote", conn.RemoteAddr(), "error", err)
		conn.Close()
		return
	}
	feed.give(feedConn{plainHTTP{conn}, s.agents.enter(conn, id)})
}

// writeCA writes the certificates that clients of the TLS port are to trust.
func (s *server) writeCA() error {
	return durable.Replace(filepath.Join(s.cfg.DataDir, "ca.crt"), s.authority.CACertPEM())
}

// introduceCA makes the CA that is to follow, and tells agents of it.
func (s *server) introduceCA() (hash string, err error) {
	if hash, err = s.authority.Introduce(); err != nil {
		return "", err
	}
	s.control.Announce()
	return hash, s.writeCA()
}

// retireCA drops the older CA, if no enrolled cluster's agent depends on it or
// force says not to mind.
func (s *server) retireCA(left []string, force bool) (hash string, err error) {
	hashes := s.authority.CAHashes()
	if len(hashes) == 2 && len(left) > 0 && !force {
		const most = 5
		names := left[:min(len(left), most)]
		if len(left) > most {
			names = append(slices.Clone(names), fmt.Sprintf("and %d more", len(left)-most))
		}
		return "", withHint(fmt.Errorf("%d agents have not connected under the new CA: %s: %w", len(left), strings.Join(names, ", "), access.ErrConflict),
			"wait until they are connected, or lose them with --force: each then needs a new manifest")
	}
	if err := s.authority.Retire(); err != nil {
		return "", err
	}
	s.control.Announce()
	if force {
		s.agents.cut(hashes[0])
	}
	return hashes[0], s.writeCA()
}
