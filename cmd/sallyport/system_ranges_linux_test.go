package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestSystemAuthorizedRanges uses a cluster whose API server is on a public
// address and admits one source address only, which is the node's. The gateway
// and the source's machine reach the address, and are turned away.
//
//	here ── gateway ── node          front: the API server's public address,
//	  └──────── front ───┘           which leads to the API server from its list
func TestSystemAuthorizedRanges(t *testing.T) {
	n := newNetwork(t)
	if n == nil {
		return
	}
	const publicIP, nodeIP = "203.0.113.10", "198.51.100.10"
	gateway, node := n.machine("gateway", gatewayIP+"/32"), n.machine("node")
	front, inner := n.machine("front", publicIP+"/32"), n.machine("control plane", publicIP+"/32")
	n.connect(n.here, "192.0.2.2/30", gateway, "192.0.2.1/30")
	n.connect(n.here, "192.0.2.6/30", front, "192.0.2.5/30")
	n.connect(gateway, "192.0.2.10/30", front, "192.0.2.9/30")
	n.connect(gateway, "198.51.100.5/30", node, "198.51.100.6/30")
	n.connect(front, "198.51.100.9/30", node, nodeIP+"/30")
	n.here.route(gatewayIP, "192.0.2.1")
	node.route(gatewayIP, "198.51.100.5")
	for machine, via := range map[*namespace]string{n.here: "192.0.2.5", gateway: "192.0.2.9", node: "198.51.100.9"} {
		machine.route(publicIP, via)
	}

	s := n.system(gateway)
	s.runAgent = node.sallyport()
	cluster := s.register("private")
	s.kube = n.cluster(inner, "--bind-address", publicIP, "--port", apiPort)
	public := net.JoinHostPort(publicIP, apiPort)
	turnedAway := admitOnly(t, front, public, netip.MustParseAddr(nodeIP), func(ctx context.Context) (net.Conn, error) { return inner.dial(ctx, "tcp4", public) })

	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	out, stderr, err := kubectl(t, ml.tokenKubeconfig(cluster), "", "get", "services")
	if err != nil || !strings.Contains(out, "kubernetes") {
		t.Errorf("kubectl get services: %q, %v\n%s", out, err, stderr)
	}
	if away := turnedAway(); len(away) > 0 {
		t.Errorf("somebody who is not on the list tried: %v", away)
	}
	for _, machine := range []*namespace{n.here, gateway} {
		if err := handshake(t.Context(), machine, public); err == nil {
			t.Errorf("%s reaches the API server", machine.name)
		}
	}
	if err := handshake(t.Context(), node, public); err != nil {
		t.Errorf("the node does not reach the API server: %v", err)
	}
	if away := turnedAway(); !slices.Equal(away, []string{"192.0.2.6", "192.0.2.10"}) {
		t.Errorf("turned away: %v", away)
	}
}

// handshake ends when the API server has shown its certificate.
func handshake(ctx context.Context, from *namespace, address string) error {
	conn, err := from.dial(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) // it is only to be reached
}

// admitOnly stands for a cloud's authorized IP ranges: it passes connections of
// one source address on, closes all others, and tells whose they were.
func admitOnly(t *testing.T, on *namespace, address string, allowed netip.Addr, to func(context.Context) (net.Conn, error)) (turnedAway func() []string) {
	t.Helper()
	ln := on.listen(address)
	ctx, cut := context.WithCancel(context.Background())
	var mu sync.Mutex
	var away []string
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			if from != allowed {
				mu.Lock()
				away = append(away, from.String())
				mu.Unlock()
				conn.Close()
				continue
			}
			all.Go(func() {
				up, err := to(ctx)
				if err != nil {
					conn.Close()
					return
				}
				splice(ctx, conn, up)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cut()
		all.Wait()
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(away)
	}
}
