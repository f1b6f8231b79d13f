package enroll_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

func TestAgentConnects(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	tests := []struct {
		role enroll.Role
		alpn string
		ok   bool
	}{
		{enroll.RoleServe, enroll.ALPNTunnel, true},
		{enroll.RoleServe, enroll.ALPNFeed, true},
		{enroll.RoleReport, enroll.ALPNFeed, true},
		{enroll.RoleReport, enroll.ALPNTunnel, false},
		{enroll.RoleServe, "h2", false},
	}
	for _, tt := range tests {
		t.Run(string(tt.role)+" "+tt.alpn, func(t *testing.T) {
			config, err := g.credentials(t, tt.role).TLS(t.Context(), tt.alpn)
			if !tt.ok {
				if !errors.Is(err, access.ErrForbidden) {
					t.Errorf("error is %v, want ErrForbidden", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			name, err := g.dial(t, config)
			if want := "sallyport:cluster:" + clusterUID + ":1:" + string(tt.role); err != nil || name != want {
				t.Errorf("gateway saw %q (%v), want %q", name, err, want)
			}
		})
	}
	t.Run("report certificate on the tunnel protocol", func(t *testing.T) {
		config, err := g.credentials(t, enroll.RoleReport).TLS(t.Context(), enroll.ALPNFeed)
		if err != nil {
			t.Fatal(err)
		}
		config.NextProtos, config.VerifyConnection = []string{enroll.ALPNTunnel}, nil
		if name, err := g.dial(t, config); err == nil {
			t.Errorf("admitted as %q", name)
		}
	})
}

func TestItem20AgentRefused(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	good := func(t *testing.T) *tls.Config {
		t.Helper()
		config, err := g.credentials(t, enroll.RoleServe).TLS(t.Context(), enroll.ALPNTunnel)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	ownKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := enroll.OpenAuthority(t.TempDir(), g.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"no certificate, agent protocol among others": func(c *tls.Config) {
			c.Certificates, c.NextProtos = nil, []string{"h2", "http/1.1", enroll.ALPNTunnel}
			c.VerifyConnection = nil
		},
		"TLS 1.2": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"stolen certificate without its key": func(c *tls.Config) {
			leaf := c.Certificates[0].Leaf
			c.Certificates, c.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: ownKey}, nil
			}
		},
		"certificate of another CA": func(c *tls.Config) {
			der, _, err := foreign.Issue(enroll.RoleServe, clusterUID, 1, ownKey.Public())
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates, c.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ownKey}, nil
			}
		},
		"server's certificate": func(c *tls.Config) {
			server, err := g.authority.ServerCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates, c.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return server, nil }
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			config := good(t)
			change(config)
			if name, err := g.dial(t, config); err == nil {
				t.Errorf("admitted as %q", name)
			}
		})
	}
	t.Run("no session tickets", func(t *testing.T) {
		config := good(t)
		cache := &countingCache{}
		config.ClientSessionCache = cache
		if _, err := g.dial(t, config); err != nil {
			t.Fatal(err)
		}
		if n := cache.puts.Load(); n != 0 {
			t.Errorf("server gave %d tickets", n)
		}
	})
}

type countingCache struct{ puts atomic.Int32 }

func (*countingCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *countingCache) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts.Add(1)
	}
}

// TestItem19SecondEnrolmentRetiresTheFirst is item 19 of the security checklist.
func TestItem19SecondEnrolmentRetiresTheFirst(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	credentials := g.credentials(t, enroll.RoleServe)
	old, err := credentials.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}
	first := g.kube
	g.kube = newKube(t, g.clock.now) // another cluster under this name
	if err := g.enrol(t, g.issue(t, true)); err != nil {
		t.Fatal(err)
	}
	if name, err := g.dial(t, old); err == nil {
		t.Errorf("certificate of the first enrolment admitted as %q", name)
	}
	if status, body := g.ask(t, first.token(t, proxySub), certBody{Role: "serve", CSR: newCSR(t)}); status != 401 {
		t.Errorf("token of the first cluster: %d %s", status, body)
	}
	// The same credentials, told to forget, get a certificate of generation 2.
	if err := credentials.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	config, err := credentials.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := g.dial(t, config); err != nil || !strings.HasSuffix(name, ":2:serve") {
		t.Errorf("gateway saw %q (%v), want generation 2", name, err)
	}
}

// TestItem21ClientKnowsItsGateway is item 21: the right name under the wrong CA,
// even one that the system trusts, is not the gateway.
func TestItem21ClientKnowsItsGateway(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	config, err := g.credentials(t, enroll.RoleServe).TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}
	impostor := newGateway(t) // the right name, another CA
	if _, err := impostor.dial(t, config); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("tunnel to the impostor: %v, want ErrUnauthenticated", err)
	}
	client := g.client(t)
	client.Address = impostor.addr
	err = client.Enrol(t.Context(), g.join(t), issuer, g.kube.jwks(t), g.kube.token(t, reportSub))
	if !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("enrolment at the impostor: %v, want ErrUnauthenticated", err)
	}
	impostor.mu.Lock()
	defer impostor.mu.Unlock()
	if len(impostor.events) > 0 {
		t.Errorf("the impostor was sent %+v", impostor.events)
	}
}

// TestClientChecksTheLeaf offers chains that hold the pinned CA and a leaf
// that it did not sign for the gateway.
func TestClientChecksTheLeaf(t *testing.T) {
	g := newGateway(t)
	other, err := enroll.OpenAuthority(t.TempDir(), g.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	real, err := g.authority.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	caDER := real.Certificate[1]
	forged, err := other.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	agent, _, err := g.authority.Issue(enroll.RoleServe, clusterUID, 1, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		cert tls.Certificate
		late time.Duration
		ok   bool
	}{
		"the gateway":              {cert: *real, ok: true},
		"leaf alone":               {cert: tls.Certificate{Certificate: real.Certificate[:1], PrivateKey: real.PrivateKey}},
		"leaf of another CA":       {cert: tls.Certificate{Certificate: [][]byte{forged.Certificate[0], caDER}, PrivateKey: forged.PrivateKey}},
		"agent's certificate":      {cert: tls.Certificate{Certificate: [][]byte{agent, caDER}, PrivateKey: key}},
		"certificate past its end": {cert: *real, late: 91 * 24 * time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusConflict)
			}))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{tt.cert}}
			srv.Config.ErrorLog = quiet()
			srv.StartTLS()
			defer srv.Close()
			client := g.client(t)
			client.Address = srv.Listener.Addr().String()
			client.Now = func() time.Time { return g.clock.now().Add(tt.late) }
			err := client.Enrol(t.Context(), g.join(t), issuer, g.kube.jwks(t), g.kube.token(t, reportSub))
			want := access.ErrUnauthenticated
			if tt.ok {
				want = access.ErrConflict // what that server answers
			}
			if !errors.Is(err, want) {
				t.Errorf("error is %v, want %v", err, want)
			}
		})
	}
}

func TestCredentialsRenew(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	fail := false
	credentials := enroll.NewCredentials(g.client(t), enroll.RoleServe, func() (string, error) {
		if fail {
			return "", io.ErrUnexpectedEOF
		}
		return g.kube.token(t, proxySub), nil
	})
	serial := func() string {
		t.Helper()
		config, err := credentials.TLS(t.Context(), enroll.ALPNTunnel)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.String()
	}
	first := serial()
	g.clock.add(15 * time.Hour)
	if serial() != first {
		t.Error("renewed with more than a third left")
	}
	g.clock.add(2 * time.Hour)
	fail = true
	if serial() != first {
		t.Error("a failed renewal did not leave the old certificate")
	}
	fail = false
	second := serial()
	if second == first {
		t.Error("not renewed with less than a third left")
	}
	fail = true
	g.clock.add(25 * time.Hour)
	if _, err := credentials.TLS(t.Context(), enroll.ALPNTunnel); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("ended and not renewed: %v, want ErrUnavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fail = false
	if _, err := credentials.TLS(ctx, enroll.ALPNTunnel); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("with a cancelled context: %v, want ErrUnavailable", err)
	}
}

// TestThroughProxy enrols through a forward proxy, which sees a CONNECT to the
// address and none of the tokens.
func TestThroughProxy(t *testing.T) {
	g := newGateway(t)
	var target atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target.Store(r.Method + " " + r.Host + " " + r.Header.Get("Authorization"))
		relay(w, r.Host)
	}))
	defer proxy.Close()
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	token := g.join(t)
	client := token.Client()
	client.Proxy, client.Now = http.ProxyURL(address), g.clock.now
	if err := client.Enrol(t.Context(), token, issuer, g.kube.jwks(t), g.kube.token(t, reportSub)); err != nil {
		t.Fatal(err)
	}
	if got, want := target.Load(), "CONNECT "+g.addr+" "; got != want {
		t.Errorf("proxy saw %q, want %q", got, want)
	}
}

// relay joins the hijacked client with the target until either ends.
func relay(w http.ResponseWriter, target string) {
	up, err := net.Dial("tcp", target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	w.WriteHeader(http.StatusOK)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(conn, up)
		conn.Close()
	}()
	io.Copy(up, bufio.NewReader(rw))
	up.Close()
	<-done
}

// TestNoRedirect: a token is not carried to where an answer points.
func TestNoRedirect(t *testing.T) {
	g := newGateway(t)
	cert, err := g.authority.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	var hits atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	srv.StartTLS()
	defer srv.Close()
	client := g.client(t)
	client.Address = srv.Listener.Addr().String()
	if err := client.Enrol(t.Context(), g.join(t), issuer, g.kube.jwks(t), g.kube.token(t, reportSub)); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
	if n := hits.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}
