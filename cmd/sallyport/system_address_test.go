package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

const listServices = "/api/v1/namespaces/default/services"

// visitor asks the data plane from an address of this machine's.
type visitor struct {
	s       *system
	from    string // all of 127.0.0.0/8 is this machine
	url     string // of the server or of what is in front of it
	cluster string
	token   string
}

// asks sends one request, with these headers, and holds the answer to its
// status and words.
func (v visitor) asks(code int, says string, headers ...string) {
	v.s.t.Helper()
	if got, body := v.get(headers...); got != code || !strings.Contains(body, says) {
		v.s.t.Errorf("from %s through %s with %q: %d %s; want %d and %q", v.from, v.url, headers, got, body, code, says)
	}
}

func (v visitor) get(headers ...string) (int, string) {
	v.s.t.Helper()
	req, err := http.NewRequestWithContext(v.s.t.Context(), http.MethodGet, v.url+"/k8s"+v.cluster+listServices, nil)
	if err != nil {
		v.s.t.Fatal(err)
	}
	if v.token != "" {
		req.Header.Set("Authorization", "Bearer "+v.token)
	}
	for _, value := range headers {
		req.Header.Add("X-Forwarded-For", value)
	}
	transport := v.s.transport()
	defer transport.CloseIdleConnections()
	transport.DialContext = dialerFrom(v.from).DialContext
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		v.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.s.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func dialerFrom(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
}

// decisions are the gateway's records of requests from one address.
func (s *system) decisions(remote string) (allowed, refused int) {
	s.t.Helper()
	for _, rec := range s.records() {
		switch {
		case rec.Stage != audit.Decision || rec.Remote != remote:
		case *rec.Allowed:
			allowed++
		default:
			refused++
		}
	}
	return allowed, refused
}

func writeTags(t *testing.T, path, prefixes string) {
	t.Helper()
	text := `{"changeNumber":1,"cloud":"Public","values":[{"name":"AzureMachineLearning.WestEurope","id":"AzureMachineLearning.WestEurope","properties":{"changeNumber":1,"region":"westeurope","regionId":18,"platform":"Azure","systemService":"AzureMachineLearning","addressPrefixes":[` + prefixes + `],"networkFeatures":["API"]}}]}`
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestSystemAddressRules: only some addresses reach the cluster, a service tag
// follows its file, and nobody's header changes where he comes from.
func TestSystemAddressRules(t *testing.T) {
	tags := filepath.Join(t.TempDir(), "tags.json")
	writeTags(t, tags, `"192.0.2.0/24"`)
	s := newSystem(t, "--allow-from", "127.0.0.2,azuremachinelearning.westeurope", "--service-tags", tags)
	cluster := s.register("private") // from 127.0.0.1: the rule is the data plane's alone
	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	token := ml.token(idp.DataPlaneAudience)

	inside := visitor{s, "127.0.0.2", s.url, cluster, token}
	outside := visitor{s, "127.0.0.1", s.url, cluster, token}
	stranger := visitor{s, "127.0.0.1", s.url, cluster, ""}
	inside.asks(200, `"ServiceList"`)
	inside.asks(200, `"ServiceList"`, "127.0.0.1", "garbage")
	const refusal = "the source address 127.0.0.1 is not among those that this gateway serves"
	outside.asks(403, refusal)
	outside.asks(403, refusal, "127.0.0.2")
	stranger.asks(403, refusal)
	if allowed, _ := s.decisions("127.0.0.2"); allowed != 2 {
		t.Errorf("%d requests from 127.0.0.2 are recorded as allowed, not 2", allowed)
	}
	if allowed, refused := s.decisions("127.0.0.1"); allowed != 0 || refused != 3 {
		t.Errorf("of 127.0.0.1, %d are recorded as allowed and %d as refused, not 0 and 3", allowed, refused)
	}

	kubeconfig := ml.kubeconfig("private")
	for name, args := range map[string][]string{"discovery": {"get", "services"}, "raw": {"get", "--raw", listServices}} {
		stdout, stderr, err := kubectl(t, kubeconfig, "", args...)
		if err == nil {
			t.Errorf("kubectl worked: %s", stdout)
		}
		contains(t, "kubectl, "+name, stderr, refusal)
	}

	writeTags(t, tags, `"192.0.2.0/24","127.0.0.3"`)
	tagged := visitor{s, "127.0.0.3", s.url, cluster, token}
	s.await("the tag's new address is served", func() bool { code, _ := tagged.get(); return code == 200 })
	writeTags(t, tags, "")
	s.await("the tag's address is no longer served", func() bool { code, _ := tagged.get(); return code == 403 })
}

// TestSystemAddressIPv6: the loopback address of IPv6 is no IPv4 address.
func TestSystemAddressIPv6(t *testing.T) {
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	} else {
		ln.Close()
	}
	for rule, code := range map[string]int{"127.0.0.0/8": 403, "::1/128": 401} {
		s := newSystem(t, "--listen", "[::1]:0", "--allow-from", rule)
		says := "source address ::1 "
		if code == 401 {
			says = "'Authorization' header is missing"
		}
		visitor{s, "::1", s.url, s.register("private"), ""}.asks(code, says)
	}
}

// TestSystemReverseProxy: what a trusted proxy says of its clients is believed,
// and what those say of themselves is not.
func TestSystemReverseProxy(t *testing.T) {
	s := newSystem(t, "--allow-from", "127.0.0.3", "--trusted-proxies", "127.0.0.2")
	cluster := s.register("private")
	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	token := ml.token(idp.DataPlaneAudience)

	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	transport := s.transport()
	transport.DialContext = dialerFrom("127.0.0.2").DialContext
	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: transport, Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"] // it appends, as many do
		p.SetXForwarded()
	}})
	t.Cleanup(proxy.Close)

	visitor{s, "127.0.0.3", proxy.URL, cluster, token}.asks(200, `"ServiceList"`)
	visitor{s, "127.0.0.3", proxy.URL, cluster, token}.asks(200, `"ServiceList"`, "garbage", "127.0.0.1")
	visitor{s, "127.0.0.1", proxy.URL, cluster, token}.asks(403, "source address 127.0.0.1 ")
	visitor{s, "127.0.0.1", proxy.URL, cluster, token}.asks(403, "source address 127.0.0.1 ", "127.0.0.3")
	visitor{s, "127.0.0.1", s.url, cluster, token}.asks(403, "source address 127.0.0.1 ", "127.0.0.3")
	// The proxy itself, as a visitor whose header is read.
	visitor{s, "127.0.0.2", s.url, cluster, token}.asks(200, `"ServiceList"`, "127.0.0.1,127.0.0.3")
	visitor{s, "127.0.0.2", s.url, cluster, token}.asks(403, "source address 127.0.0.2 ")
	visitor{s, "127.0.0.2", s.url, cluster, token}.asks(400, `holds \"unknown\", which is not an IP address`, "127.0.0.3, unknown")
	if allowed, refused := s.decisions("127.0.0.3"); allowed != 3 || refused != 0 {
		t.Errorf("of 127.0.0.3, %d are recorded as allowed and %d as refused, not 3 and 0", allowed, refused)
	}
}

// balancer passes connections on with a PROXY protocol header, and TLS as it is.
type balancer struct {
	ln     net.Listener
	target string
	header func(client, server *net.TCPAddr) string
	all    sync.WaitGroup
}

func (b *balancer) serve() {
	b.all.Go(func() {
		for {
			client, err := b.ln.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() { b.pass(client) })
		}
	})
}

func (b *balancer) pass(client net.Conn) {
	defer client.Close()
	server, err := dialerFrom("127.0.0.2").DialContext(context.Background(), "tcp", b.target)
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := io.WriteString(server, b.header(client.RemoteAddr().(*net.TCPAddr), server.RemoteAddr().(*net.TCPAddr))); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(client, server)
		client.Close()
		server.Close()
	})
	io.Copy(server, client)
	client.Close()
	server.Close()
	back.Wait()
}

// TestSystemProxyProtocol: behind a balancer that passes TLS on, agents keep
// their certificates and rules see the clients.
func TestSystemProxyProtocol(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := ln.Addr().String()
	_, port, _ := net.SplitHostPort(front)
	target := net.JoinHostPort("127.0.0.5", port)
	header := func(client, server *net.TCPAddr) string {
		return fmt.Sprintf("PROXY TCP4 %s %s %d %d\r\n", client.IP, server.IP, client.Port, server.Port)
	}
	b := &balancer{ln: ln, target: target, header: header}
	b.serve()
	t.Cleanup(func() { // after the server, whose end ends the connections
		ln.Close()
		b.all.Wait()
	})
	s := newSystem(t, "--listen", target, "--advertise", front,
		"--proxy-protocol", "--trusted-proxies", "127.0.0.2", "--allow-from", "127.0.0.3")
	cluster := s.register("private") // the CLI and the agent come through the balancer too
	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	token := ml.token(idp.DataPlaneAudience)

	visitor{s, "127.0.0.3", s.url, cluster, token}.asks(200, `"ServiceList"`)
	visitor{s, "127.0.0.1", s.url, cluster, token}.asks(403, "source address 127.0.0.1 ")
	visitor{s, "127.0.0.1", s.url, cluster, token}.asks(403, "source address 127.0.0.1 ", "127.0.0.3")
	if allowed, _ := s.decisions("127.0.0.3"); allowed != 1 {
		t.Errorf("%d requests from 127.0.0.3 are recorded as allowed, not 1", allowed)
	}
	if !slices.ContainsFunc(s.records(), func(r audit.Record) bool {
		return strings.HasPrefix(r.Action, "agents/") && r.Remote == "127.0.0.1"
	}) {
		t.Error("no enrolment is recorded under the agent's own address")
	}

	// Past the balancer, a header is not believed, and its absence is no fault.
	named := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3), Port: 4711}
	for _, c := range []struct {
		name, from, header string
		served             bool
	}{
		{"direct", "127.0.0.1", "", true},
		{"a forged header", "127.0.0.1", header(named, named), false},
		{"the balancer without a header", "127.0.0.2", "", false},
		{"the balancer for itself", "127.0.0.2", "PROXY UNKNOWN\r\n", true},
	} {
		transport := s.transport()
		transport.TLSClientConfig.ServerName = "127.0.0.1"
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := dialerFrom(c.from).DialContext(ctx, network, target)
			if err == nil {
				_, err = io.WriteString(conn, c.header)
			}
			return conn, err
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != c.served {
			t.Errorf("%s: %v", c.name, err)
		}
		transport.CloseIdleConnections()
	}
}
