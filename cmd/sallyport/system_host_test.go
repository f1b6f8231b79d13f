package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/internal/idp"
)

// names is a proxy by which clients reach the server under whatever name they
// ask for, as DNS would have it.
func names(t *testing.T, server string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &http.Server{ReadHeaderTimeout: soon, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		out, err := net.Dial("tcp", server)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer out.Close()
		w.WriteHeader(http.StatusOK)
		in, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		go func() {
			defer in.Close()
			io.Copy(in, out)
		}()
		io.Copy(out, buffered)
	})}
	go proxy.Serve(ln)
	t.Cleanup(func() { proxy.Close() })
	return "http://" + ln.Addr().String()
}

// TestSystemHostNames uses a cluster by its own host name, with kubectl and over
// both protocols. A connection that was made for one name is not used for
// another.
func TestSystemHostNames(t *testing.T) {
	const domain = "clusters.sallyport.test"
	s := newBound(t, "--cluster-domain", domain)
	s.pod("idle", false)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	s.must("kubeconfig", "--cluster-name", "private", "--host-name", "--resource", s.ml.id, "--identity-file", s.ml.identity, "--command", "sallyport", "-f", file)
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(s.url, "https://")
	var server string
	for _, cluster := range config.Clusters {
		server, cluster.ProxyURL = cluster.Server, names(t, address)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil || !strings.HasPrefix(server, "https://") || !strings.HasSuffix(server, "."+domain+":"+port) {
		t.Fatalf("the kubeconfig's server is %q, %v", server, err)
	}
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	for what, args := range map[string][]string{
		"node/devnode": {"get", "nodes", "-o", "name"}, "works\n": {"exec", "idle", "--", "echo", "works"}, "is running at": {"cluster-info"},
	} {
		stdout, stderr, err := kubectl(t, file, "", args...)
		if err != nil || !strings.Contains(stdout, what) {
			t.Errorf("kubectl %s: %s%s %v", strings.Join(args, " "), stdout, stderr, err)
		}
	}

	// kubectl is told to say the one name in the handshake, and says the other in
	// its requests.
	for _, cluster := range config.Clusters {
		cluster.TLSServerName, cluster.ProxyURL = strings.TrimSuffix(strings.TrimPrefix(server, "https://"), ":"+port), ""
		cluster.Server = s.url + "/k8s" + s.clusterID
	}
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := kubectl(t, file, "", "get", "nodes", "-v=8")
	if err == nil {
		t.Error("kubectl used a connection to one host for another")
	}
	contains(t, "kubectl", stderr, "421", "the TLS handshake named")
	s.misdirected(t, strings.TrimPrefix(server, "https://"))
}

// misdirected sends requests for several hosts over connections to the
// cluster's own, by both protocols.
func (s *bound) misdirected(t *testing.T, host string) {
	t.Helper()
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	token := s.ml.token(idp.DataPlaneAudience)
	for _, second := range []bool{false, true} {
		transport := s.transport()
		transport.ForceAttemptHTTP2 = second
		transport.TLSClientConfig.ServerName = name
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(s.url, "https://"))
		}
		for to, want := range map[string]int{host: http.StatusOK, name: http.StatusOK, strings.TrimPrefix(s.url, "https://"): http.StatusMisdirectedRequest,
			"eeeeeeee-2222-3333-4444-aaaaaaaaaaaa." + strings.SplitN(host, ".", 2)[1]: http.StatusMisdirectedRequest} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/api/v1/nodes", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = to
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != want || (resp.ProtoMajor == 2) != second {
				t.Errorf("%s for %s on a connection for %s: %d %.300s, %v; want %d", resp.Proto, to, name, resp.StatusCode, text, err, want)
			}
		}
	}
}
