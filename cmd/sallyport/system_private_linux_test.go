package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport/sallyport/internal/idp"
)

// The addresses of the private network. The gateway's is the only one to which
// anybody outside the cluster has a route.
const (
	gatewayIP = "203.0.113.1"
	apiIP     = "10.10.0.1"
	appIP     = "10.10.0.20" // of an application in the cluster
	apiPort   = "6443"
)

// private is a system on a network of its own: the server on one machine, the
// API server and the agent on another, and the test, as an operator's or a
// source's machine, on a third.
//
//	here (kubectl) ───── gateway (server) ───── cluster (API server, agent)
//	   192.0.2.2     192.0.2.1   198.51.100.1     198.51.100.2
//
// The cluster's own addresses, 10.10.0.0/24, have no route from anywhere. The
// gateway was started before the API server was, and is told neither its
// address nor its authority.
type private struct {
	*system
	net              *network
	gateway, machine *namespace // machine is the cluster's
	direct           cable      // between those two
	id               string     // of the registered cluster
	agent            *installed
}

// newPrivate returns nil in the first of the two processes; see newNetwork.
func newPrivate(t *testing.T, roles string, flags ...string) *private {
	t.Helper()
	n := newNetwork(t)
	if n == nil {
		return nil
	}
	p := &private{net: n, gateway: n.machine("gateway", gatewayIP+"/32")}
	p.machine = n.machine("cluster", apiIP+"/32", appIP+"/32")
	n.connect(n.here, "192.0.2.2/30", p.gateway, "192.0.2.1/30")
	p.direct = n.connect(p.machine, "198.51.100.2/30", p.gateway, "198.51.100.1/30")
	n.here.route(gatewayIP, "192.0.2.1")
	p.machine.route(gatewayIP, "198.51.100.1")

	p.system = n.system(p.gateway)
	p.runAgent = p.machine.sallyport()
	p.id = p.register("private")
	p.kube = n.cluster(p.machine, append([]string{"--kubelet", "--bind-address", apiIP, "--port", apiPort}, flags...)...)
	p.agent = p.install("private", roles)
	p.agent.start()
	return p
}

// system starts a server on a machine. The command line runs there, too: the
// managed-identity endpoint is on that machine's loopback.
func (n *network) system(on *namespace) *system {
	n.t.Helper()
	s := &system{t: n.t, run: on.sallyport(), flags: []string{"--listen", gatewayIP + ":8443"}}
	s.begin()
	return s
}

// cluster starts a cluster on a machine, for the one test.
func (n *network) cluster(on *namespace, flags ...string) *kubeCluster {
	n.t.Helper()
	c := &kubeCluster{flags: flags, startChild: on.start, dial: on.dial}
	n.t.Cleanup(func() {
		if err := c.stop(); err != nil {
			n.t.Error(err)
		}
	})
	if err := c.start(); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// tokenKubeconfig writes the kubeconfig of a machine that has the source's token
// and nothing else.
func (w source) tokenKubeconfig(clusterID string) string {
	w.s.t.Helper()
	ca, err := os.ReadFile(filepath.Join(w.s.dir, "ca.crt"))
	if err != nil {
		w.s.t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: w.s.url + "/k8s" + clusterID, CertificateAuthorityData: ca}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: w.token(idp.DataPlaneAudience)}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	file := filepath.Join(w.s.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		w.s.t.Fatal(err)
	}
	return file
}

// streaming is this system for the tests of streams.
func (p *private) streaming(w source) *streaming {
	p.t.Helper()
	s := &streaming{&bound{system: p.system, clusterID: p.id, agent: p.agent, ml: w, kubeconfig: w.tokenKubeconfig(p.id)}}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		p.t.Fatal(err)
	}
	config.QPS, config.Timeout = -1, time.Minute
	s.config = config
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// adminConfig reaches the API server as its admin, from its own machine.
func (p *private) adminConfig() *rest.Config {
	p.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.kube.kubeconfig())
	if err != nil {
		p.t.Fatal(err)
	}
	config.Dial, config.QPS = p.kube.dial, -1
	return config
}

// TestSystemPrivate: kubectl works, exec and logs included, although neither the
// gateway nor kubectl's machine has a route to the API server, and the agent
// listens nowhere. Then the only way out of the cluster is an HTTP proxy.
func TestSystemPrivate(t *testing.T) {
	p := newPrivate(t, "mlworkload,inference-v1")
	if p == nil {
		return
	}
	t.Run("no route", p.testNoRoute)
	t.Run("no listener", func(t *testing.T) {
		if sockets := p.gateway.listening(); len(sockets) < 2 {
			t.Errorf("the server listens on %v: what looks for sockets does not find them", sockets)
		}
		if sockets := p.machine.listening(); len(sockets) > 0 {
			t.Errorf("the agent listens on %v", sockets)
		}
	})

	ml := p.source("ml")
	p.bind("private", "ml", ml.id, inference)
	s := p.streaming(ml)
	s.pod("idle", false)
	t.Run("kubectl", func(t *testing.T) {
		out, stderr, err := kubectl(t, s.kubeconfig, "", "get", "pods")
		if err != nil || !strings.Contains(out, "idle") {
			t.Errorf("kubectl get pods: %q, %v\n%s", out, err, stderr)
		}
	})
	for _, protocol := range streamProtocols() {
		t.Run("exec "+protocol.name, func(t *testing.T) { s.testKubectlExec(t, protocol) })
	}
	t.Run("logs", s.testLogs)
	t.Run("through a proxy", func(t *testing.T) { p.testThroughProxy(t, s) })
}

func (p *private) testNoRoute(t *testing.T) {
	for _, from := range []*namespace{p.gateway, p.net.here} {
		if _, err := from.dial(t.Context(), "tcp4", net.JoinHostPort(apiIP, apiPort)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("from %s to the API server: %v, want no route", from.name, err)
		}
	}
	// Where the gateway could reach, nothing answers.
	if _, err := p.gateway.dial(t.Context(), "tcp4", "198.51.100.2:"+apiPort); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from the gateway to the cluster's way out: %v, want refused", err)
	}
	conn, err := p.machine.dial(t.Context(), "tcp4", net.JoinHostPort(apiIP, apiPort))
	if err != nil {
		t.Fatalf("from the cluster's own machine: %v: what dials does not work", err)
	}
	conn.Close()
}

// testThroughProxy takes the cluster's cable away. What is left leads to an
// HTTP proxy, which connects to the gateway and to nothing else.
func (p *private) testThroughProxy(t *testing.T, s *streaming) {
	const proxyIP = "172.31.0.1"
	machine := p.net.machine("proxy")
	p.net.connect(machine, proxyIP+"/30", p.machine, "172.31.0.2/30")
	p.net.connect(machine, "172.31.1.1/30", p.gateway, "172.31.1.2/30")
	machine.route(gatewayIP, "172.31.1.2")
	asked := serveConnect(t, machine, proxyIP+":3128", gatewayIP+":8443")

	p.direct.cut()
	if _, err := p.machine.dial(t.Context(), "tcp4", gatewayIP+":8443"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Fatalf("the cluster still reaches the gateway: %v", err)
	}
	for _, half := range p.agent.halves {
		p.stop(half)
	}
	p.await("the server has noticed, though nothing could tell it", func() bool { return !p.connected("private") })
	p.runAgent = p.machine.sallyport("HTTPS_PROXY=http://" + proxyIP + ":3128")
	p.agent.start()

	if out, stderr, err := kubectl(t, s.kubeconfig, "", "get", "pods"); err != nil || !strings.Contains(out, "idle") {
		t.Errorf("kubectl get pods: %q, %v\n%s", out, err, stderr)
	}
	s.testKubectlExec(t, streamProtocols()[0])
	p.bind("private", "second", p.source("second").id, mlworkload) // done by the reconciler
	for _, address := range asked() {
		if address != gatewayIP+":8443" {
			t.Errorf("the agent asked the proxy for %s: only the gateway is outside the cluster", address)
		}
	}
	if len(asked()) == 0 {
		t.Error("nobody asked the proxy for anything")
	}
}

// serveConnect serves CONNECT to one address, and returns what it was asked for.
func serveConnect(t *testing.T, on *namespace, listen, only string) (asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var addresses []string
	var tunnels sync.WaitGroup
	ctx, cut := context.WithCancel(context.Background())
	server := &http.Server{ReadHeaderTimeout: soon, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		addresses = append(addresses, r.Host)
		mu.Unlock()
		if r.Method != http.MethodConnect || r.Host != only {
			http.Error(w, "only CONNECT to "+only, http.StatusForbidden)
			return
		}
		up, err := on.dial(ctx, "tcp4", only)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		down, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(down, "HTTP/1.1 200 Connection established\r\n\r\n")
		tunnels.Go(func() { splice(ctx, pair{buffered, down}, up) })
	})}
	ln := on.listen(listen)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	t.Cleanup(func() {
		cut()
		server.Close()
		serving.Wait()
		tunnels.Wait()
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(addresses)
	}
}

// pair is a connection with what was read of it already.
type pair struct {
	io.Reader
	net.Conn
}

// Read serves [io.Reader].
func (p pair) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// splice copies both ways until either ends or ctx does.
func splice(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		a.Close()
		b.Close()
	})
	defer stop()
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		copying.Go(func() {
			io.Copy(way[1], way[0]) // an error is the end of either
			a.Close()
			b.Close()
		})
	}
	copying.Wait()
}
