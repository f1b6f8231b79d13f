package gateway_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// connect puts a real tunnel, with agent at its far end, behind the rig.
func (r *rig) connect(t testing.TB, agent http.Handler) (stop func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)

	const alpn = "sallyport-agent/1"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	changes := make(chan int, 100)
	hub := tunnel.NewHub(tunnel.HubConfig{OnChange: func(_ string, n int) { changes <- n }})
	var all sync.WaitGroup
	all.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{alpn}})
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return
		}
		hub.Serve(context.Background(), secured, tunnel.Peer{ClusterUID: clusterUID, Generation: 1, Agent: "test"}) // its end is seen in changes
	})
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		err := tunnel.Dial(ctx, tunnel.DialConfig{
			Address: l.Addr().String(), Handler: agent,
			TLS: func(context.Context) (*tls.Config, error) {
				return &tls.Config{RootCAs: pool, NextProtos: []string{alpn}}, nil
			},
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		l.Close()
		cancel()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := hub.Close(ctx); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	t.Cleanup(stop)
	for receive(t, changes, "the agent to connect") != 1 {
	}
	r.to = hub.To
	return stop
}

func TestThroughATunnel(t *testing.T) {
	r := newRig(t)
	seen := make(chan *http.Request, 1)
	r.connect(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		seen <- req.Clone(context.Background())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "a=b")
		fmt.Fprintf(w, "%s %s %s", req.Method, req.RequestURI, body)
	}))
	s := r.serve(t, true)
	for _, path := range []string{"/api/v1/pods?limit=5&x=%2F", "/api/v1/namespaces/d/services/s/proxy/a%20b%25c;d:e@f", "/"} {
		req, _ := http.NewRequestWithContext(t.Context(), "PATCH", s.URL+base+path, strings.NewReader("body"))
		req.Header.Set("Authorization", "Bearer good")
		resp, err := s.Client().Do(req)
		check(t, err)
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "PATCH " + path + " body"; resp.StatusCode != 200 || string(body) != want || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("%d %q, want %q", resp.StatusCode, body, want)
		}
		if claim, err := tunnel.ReadClaim(receive(t, seen, "the request").Header); err != nil || claim.BindingUID != bindingUID {
			t.Errorf("claim %+v, %v", claim, err)
		}
	}
}

// The agent goes while it serves: 502 and no invitation to repeat. Then nobody
// is there: 503, and when to ask again.
func TestAgentGoes(t *testing.T) {
	r := newRig(t)
	arrived := make(chan struct{}, 1)
	stop := r.connect(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		<-req.Context().Done()
	}))
	s := r.serve(t, false)
	ask := func() *http.Response {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+base+"/x", nil)
		req.Header.Set("Authorization", "Bearer good")
		resp, err := s.Client().Do(req)
		check(t, err)
		return resp
	}
	answers := make(chan *http.Response, 1)
	go func() { answers <- ask() }()
	receive(t, arrived, "the request at the agent")
	stop()
	lost := receive(t, answers, "the answer")
	if err := status(t, lost); lost.StatusCode != 502 || lost.Header.Get("Retry-After") != "" || !apierrors.IsInternalError(err) {
		t.Errorf("lost: %d %v", lost.StatusCode, err)
	}
	none := ask()
	if err := status(t, none); none.StatusCode != 503 || none.Header.Get("Retry-After") != "1" || !apierrors.IsServiceUnavailable(err) {
		t.Errorf("no agent: %d %v", none.StatusCode, err)
	}
}

// What an API server never answered is 502, in words that blame nobody else, and
// no invitation to repeat it.
func TestAPIServerGivesNoAnswer(t *testing.T) {
	r := newRig(t)
	r.connect(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tunnel.Refuse(w, tunnel.ErrNoAnswer) }))
	resp := r.do(request("POST", "/x", nil))
	err := status(t, resp)
	if resp.StatusCode != 502 || resp.Header.Get("Retry-After") != "" || !strings.HasPrefix(err.ErrStatus.Message, tunnel.ErrNoAnswer.Error()) {
		t.Errorf("%d %v %v", resp.StatusCode, resp.Header, err)
	}
}

// An agent's refusal of an upgrade is a Status like any other, and the bytes
// behind the request reach nobody (checklist, item 7).
func TestItem07AgentRefusesUpgrade(t *testing.T) {
	r := newRig(t)
	r.connect(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tunnel.Refuse(w, fmt.Errorf("not heard of the control plane: %w", access.ErrUnavailable))
	}))
	s := r.serve(t, false)
	got := exchange(t, s, "POST "+base+execPath+" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"+
		"GET "+base+"/second HTTP/1.1\r\nHost: gateway\r\n\r\n", false)
	if strings.Count(got, "HTTP/1.1 ") != 1 {
		t.Errorf("the connection went on: %s", got)
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	check(t, err)
	if err := status(t, resp); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(err.Error(), "not heard") {
		t.Errorf("%d %v", resp.StatusCode, err)
	}
}
