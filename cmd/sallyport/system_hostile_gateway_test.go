package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// hostileGateway is the tunnel's end of a gateway that was taken over: it has
// the key that agents pin and sends through their tunnels what it likes.
// Everything else that comes to it goes on to the server, so that the agent has
// its true feed.
type hostileGateway struct {
	*tunnel.Hub
	ln        net.Listener
	authority *enroll.Authority
	server    string
	agents    chan string // the clusters, by uid, that a tunnel came from
	all       sync.WaitGroup
}

func newHostileGateway(s *system) *hostileGateway {
	s.t.Helper()
	authority, err := enroll.OpenAuthority(filepath.Join(s.dir, "ca"), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	g := &hostileGateway{Hub: tunnel.NewHub(tunnel.HubConfig{}), ln: ln, authority: authority, server: strings.TrimPrefix(s.url, "https://"), agents: make(chan string, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	g.all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			g.all.Go(func() { g.take(ctx, conn) })
		}
	})
	s.t.Cleanup(func() {
		cancel()
		ln.Close()
		g.all.Wait()
		if err := g.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
	return g
}

// take serves a tunnel itself and passes anything else on.
func (g *hostileGateway) take(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	protocols, conn := offered(conn)
	if !slices.Contains(protocols, enroll.ALPNTunnel) {
		g.pass(ctx, conn)
		return
	}
	secured := tls.Server(conn, g.authority.AgentTLS(func(enroll.Identity) error { return nil }))
	if err := secured.HandshakeContext(ctx); err != nil {
		return
	}
	if id, err := g.authority.Peer(secured.ConnectionState()); err == nil {
		g.agents <- id.ClusterUID
		_ = g.Serve(ctx, secured, tunnel.Peer{ClusterUID: id.ClusterUID, Generation: id.Generation, Agent: id.Serial, NotAfter: id.NotAfter})
	}
}

// pass copies both ways until either has ended.
func (g *hostileGateway) pass(ctx context.Context, conn net.Conn) {
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.server)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	g.all.Go(func() {
		io.Copy(server, conn)
		server.Close()
	})
	io.Copy(conn, server)
	conn.Close()
}

// offered reads a TLS client's first message, and returns the protocols it
// offers and a connection on which the message is still to be read.
func offered(conn net.Conn) (protocols []string, again net.Conn) {
	first := &replayed{Conn: conn}
	peeked := errors.New("peeked")
	_ = tls.Server(listenOnly{first}, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		protocols = hello.SupportedProtos
		return nil, peeked
	}}).Handshake()
	first.back = bytes.NewReader(first.seen.Bytes())
	return protocols, first
}

// replayed keeps what is read, until it is to be read again.
type replayed struct {
	net.Conn
	seen bytes.Buffer
	back *bytes.Reader
}

// Read serves [io.Reader].
func (r *replayed) Read(p []byte) (int, error) {
	if r.back != nil {
		if n, err := r.back.Read(p); err == nil {
			return n, nil
		}
		return r.Conn.Read(p)
	}
	n, err := r.Conn.Read(p)
	r.seen.Write(p[:n])
	return n, err
}

// listenOnly says nothing.
type listenOnly struct{ net.Conn }

// Write drops p.
func (listenOnly) Write(p []byte) (int, error) { return len(p), nil }

// TestSystemItem23HostileGateway: a gateway that was taken over asks a real agent
// for what it likes. Only what the agent's own feed has is done, as the user that
// the binding gives, and that has the role and no more.
func TestSystemItem23HostileGateway(t *testing.T) {
	s := newSystem(t)
	s.register("private")
	ml := s.source("ml")
	agent := s.install("private", "mlworkload")
	evil := newHostileGateway(s)
	led := 0
	for i, arg := range agent.args["proxy"] {
		if strings.Contains(arg, evil.server) {
			agent.args["proxy"][i], led = strings.ReplaceAll(arg, evil.server, evil.ln.Addr().String()), led+1
		}
	}
	if led != 1 {
		t.Fatalf("the proxy's arguments name the gateway %d times: %q", led, agent.args["proxy"])
	}
	for half, args := range agent.args {
		agent.halves[half] = s.process("agent "+half, s.runAgent, args...)
	}
	s.bind("private", "ml", ml.id, mlworkload)
	uid := s.bindingUID("private", "ml")
	var clusterUID string
	select {
	case clusterUID = <-evil.agents:
	case <-time.After(soon):
		t.Fatal("the agent's tunnel does not come")
	}
	s.await("the hostile gateway has a tunnel", func() bool { return evil.Connected(clusterUID) > 0 })

	source, other := mustParse(t, ml.id), mustParse(t, ml.id+"2")
	const list, secrets = "/api/v1/namespaces/default/services", "/api/v1/namespaces/kube-system/secrets"
	evilHeaders := map[string]string{
		"Impersonate-User": "kubernetes-admin", "Impersonate-Group": "system:masters", "Impersonate-Uid": "1", "Impersonate-Extra-Scopes": "all",
		"X-Remote-User": "kubernetes-admin", "X-Remote-Group": "system:masters", "Authorization": "Bearer x", // HTTP/2 has no Connection
	}
	for _, c := range []struct {
		name    string
		claim   access.Grant
		path    string
		headers map[string]string
		code    int
		refused string // by the agent; "" if the API server answers
	}{
		{"as it should be", access.Grant{Binding: "ml", BindingUID: uid, Source: source}, list, nil, 200, ""},
		{"unknown binding", access.Grant{Binding: "admin", BindingUID: uuid.NewString(), Source: source}, list, nil, 403, "no binding with uid"},
		{"foreign uid", access.Grant{Binding: "ml", BindingUID: uuid.NewString(), Source: source}, list, nil, 403, "no binding with uid"},
		{"another name", access.Grant{Binding: "other", BindingUID: uid, Source: source}, list, nil, 403, "not that of binding"},
		{"another source", access.Grant{Binding: "ml", BindingUID: uid, Source: other}, list, nil, 403, "not of source"},
		{"the group of admins for a name", access.Grant{Binding: "system:masters", BindingUID: uid, Source: source}, list, nil, 403, "binding"},
		{"a line break in the name", access.Grant{Binding: "ml\r\nImpersonate-Group: system:masters", BindingUID: uid, Source: source}, list, nil, 0, ""},
		{"no claim", access.Grant{}, list, nil, 403, "must be there once"},
		{"an identity of its own", access.Grant{Binding: "ml", BindingUID: uid, Source: source}, secrets, evilHeaders, 403, ""},
		{"beyond the role", access.Grant{Binding: "ml", BindingUID: uid, Source: source}, secrets, nil, 403, ""},
		{"a path in two readings", access.Grant{Binding: "ml", BindingUID: uid, Source: source}, "/api/v1/namespaces/default/../../v1/secrets", nil, 403, "segment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body, err := evil.ask(t, clusterUID, c.claim, c.path, c.headers)
			if c.code == 0 {
				if err == nil {
					t.Errorf("was sent, and answered %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			refusal := tunnel.Refused(resp.Header)
			if resp.StatusCode != c.code || (refusal != nil) != (c.refused != "") || refusal != nil && !strings.Contains(refusal.Error(), c.refused) {
				t.Errorf("%d, refused: %v, %s", resp.StatusCode, refusal, body)
			}
			if c.code == 403 && c.refused == "" {
				contains(t, "the API server", body, `User \"aks:trustedaccess:ml\" cannot list resource \"secrets\"`)
			}
		})
	}

	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	resp, _, err := evil.ask(t, clusterUID, access.Grant{Binding: "ml", BindingUID: uid, Source: source}, list, nil)
	if err != nil || !errors.Is(tunnel.Refused(resp.Header), access.ErrForbidden) {
		t.Errorf("after its deletion: %v", err)
	}
}

// ask sends a request under a claim.
func (g *hostileGateway) ask(t *testing.T, clusterUID string, claim access.Grant, path string, headers map[string]string) (*http.Response, string, error) {
	t.Helper()
	to, err := g.To(clusterUID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cluster"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	if claim.Binding != "" {
		tunnel.StampClaim(req.Header, claim, uuid.NewString())
	}
	resp, err := to.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}
