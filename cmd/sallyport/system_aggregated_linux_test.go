package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
)

// apiService registers an aggregated API. The server's certificate is given.
const apiService = `{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.ext.sallyport.test"},
	"spec": {"group": "ext.sallyport.test", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
		"service": {"namespace": "default", "name": "ext", "port": 443}, "caBundle": %s}}`

// testAggregated uses the resource of an aggregated API through the gateway. Its
// server trusts the API server alone, and is told whom it serves. A hostile one
// redirects: nobody follows.
func (p *private) testAggregated(t *testing.T, ml source) {
	pem, dialled := p.serveExtension(t)
	p.route("ext", "https", 8443)
	quoted, err := json.Marshal(pem)
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, err := p.kube.kubectl(t, fmt.Sprintf(apiService, quoted), "apply", "-f", "-"); err != nil {
		t.Fatalf("register the API: %v\n%s%s", err, out, stderr)
	}
	s := p.streaming(ml)
	s.grant("ext", "aks:trustedaccess:ml", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"ext.sallyport.test"}, Resources: []string{"*"}})
	p.await("the API is available", func() bool {
		out, _, err := p.kube.kubectl(t, "", "get", "apiservice", "v1.ext.sallyport.test", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].status}`)
		return err == nil && out == "True"
	})

	out, stderr, err := kubectl(t, s.kubeconfig, "", "api-resources", "--api-group", "ext.sallyport.test")
	if err != nil || !strings.Contains(out, "callers") {
		t.Errorf("discovery: %q, %v\n%s", out, err, stderr)
	}
	out, stderr, err = kubectl(t, s.kubeconfig, "", "get", "callers.ext.sallyport.test", "-o", "json")
	if err != nil {
		t.Fatalf("kubectl get: %v\n%s%s", err, out, stderr)
	}
	checkCaller(t, []byte(out), ml)

	token := ml.token(idp.DataPlaneAudience)
	get := func(path string, header http.Header) (*http.Response, []byte) {
		resp, body := p.sendWith(t, path, token, header)
		return resp, []byte(body)
	}
	const callers = "/apis/ext.sallyport.test/v1/callers"
	resp, body := get(callers, http.Header{
		"X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-Sallyport": {"x"}, "X_remote_user": {"root"}, "X-Remote-Uid": {"0"},
	})
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	checkCaller(t, body, ml)

	resp, body = get("/apis/ext.sallyport.test/v1/elsewhere", nil)
	if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Location") != "" {
		t.Errorf("a redirect to another host: %d %q %s", resp.StatusCode, resp.Header.Get("Location"), body)
	}
	if n := dialled(); n != 0 {
		t.Errorf("the redirect was followed: %d connections", n)
	}
}

// checkCaller looks at whom the extension served: the binding's user, its group,
// and the extras that say for which source.
func checkCaller(t *testing.T, body []byte, ml source) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Header   map[string][]string
		}
	}
	if err := json.Unmarshal(body, &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("not from the extension: %v: %s", err, body)
	}
	header := list.Items[0].Header
	if user := header["X-Remote-User"]; !slices.Equal(user, []string{"aks:trustedaccess:ml"}) {
		t.Errorf("the extension serves %q", user)
	}
	if groups := header["X-Remote-Group"]; !slices.Equal(groups, []string{"aks:trustedaccess", "system:authenticated"}) {
		t.Errorf("the extension serves the groups %q", groups)
	}
	told := false
	for name, values := range header {
		told = told || strings.HasPrefix(name, "X-Remote-Extra-") && strings.Contains(strings.ToLower(strings.Join(values, "")), strings.ToLower(ml.id))
		if slices.Contains(values, "root") || slices.Contains(values, "system:masters") {
			t.Errorf("a caller's own %s: %q", name, values)
		}
		if strings.HasPrefix(name, "Authorization") || strings.HasPrefix(name, "Impersonate") {
			t.Errorf("the extension got %s", name)
		}
	}
	if !told {
		t.Errorf("the extension does not know the source: %v", header)
	}
}

// serveExtension is the server of an aggregated API. It serves the API server
// only, by its client certificate. dialled counts connections to the place to
// which it redirects.
func (p *private) serveExtension(t *testing.T) (ca []byte, dialled func() int64) {
	t.Helper()
	frontProxy, err := os.ReadFile(filepath.Join(p.kube.dir, "front-proxy-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(frontProxy)
	pair, ca := selfSigned(t, "ext.default.svc")

	trap := p.machine.listen(appIP + ":9443")
	var count atomic.Int64
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			conn.Close()
		}
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("/apis/ext.sallyport.test/v1", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "ext.sallyport.test/v1",
			APIResources: []metav1.APIResource{{Name: "callers", SingularName: "caller", Kind: "Caller", Verbs: metav1.Verbs{"list", "get"}}},
		})
	})
	mux.HandleFunc("/apis/ext.sallyport.test/v1/callers", func(w http.ResponseWriter, r *http.Request) {
		const version = "ext.sallyport.test/v1"
		answerJSON(w, map[string]any{"kind": "CallerList", "apiVersion": version, "metadata": map[string]any{}, "items": []any{
			map[string]any{"kind": "Caller", "apiVersion": version, "metadata": map[string]any{"name": "you"}, "header": r.Header},
		}})
	})
	mux.HandleFunc("/apis/ext.sallyport.test/v1/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+appIP+":9443/", http.StatusFound)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: soon, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	}}
	ln := p.machine.listen(net.JoinHostPort(appIP, "8443"))
	go server.ServeTLS(ln, "", "")
	p.t.Cleanup(func() { server.Close() }) // behind the API server, which keeps connections
	return ca, count.Load
}

func answerJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(body)
}

// selfSigned is a certificate for one name that is its own authority.
func selfSigned(t *testing.T, name string) (pair tls.Certificate, certPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// endpointSlice leads to one port of one pod.
func endpointSlice(service, port string, number int32, ref *corev1.ObjectReference) *discoveryv1.EndpointSlice {
	ready := true
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{appIP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: ref}},
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number}},
	}
}

// sendWith is a GET through the gateway with more headers.
func (p *private) sendWith(t *testing.T, path, token string, header http.Header) (*http.Response, string) {
	t.Helper()
	a := &application{private: p, token: token, through: &http.Client{Transport: p.transport()}}
	return a.do(t, a.through, exchange{method: http.MethodGet, absolute: path, header: header})
}

// dialTLS connects to the gateway for HTTP/1.1.
func (p *private) dialTLS(t *testing.T) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	conn, err := (&tls.Dialer{Config: p.transport().TLSClientConfig}).DialContext(ctx, "tcp4", strings.TrimPrefix(p.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(soon))
	return conn
}
