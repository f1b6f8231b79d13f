package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// TestHalfOpenConnectionsLockNobodyOut: more silent connections than there are
// places for handshakes, and honest clients still get in (checklist, item 31).
func TestHalfOpenConnectionsLockNobodyOut(t *testing.T) {
	authority, err := enroll.OpenAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := &frontDoor{
		log: slog.New(slog.DiscardHandler),
		tls: &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return authority.ServerCertificate([]string{"127.0.0.1"})
			},
		},
		web: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- door.serve(ctx, ln) }()
	defer func() {
		cancel()
		<-ended
	}()
	for range maxHandshakes + 20 {
		silent, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: authority.Pool()},
		DisableKeepAlives: true,
	}}
	for i := range 20 {
		resp, err := client.Get("https://" + ln.Addr().String())
		if err != nil {
			t.Fatalf("honest client %d: %v", i, err)
		}
		resp.Body.Close()
	}
}

// TestServerConfig: what could only fail later, or leak, is refused at once.
func TestServerConfig(t *testing.T) {
	for name, change := range map[string]func(*serverConfig){
		"every address, none advertised": func(c *serverConfig) { c.Listen = "0.0.0.0:8443" },
		"every IPv6 address":             func(c *serverConfig) { c.Listen = "[::]:8443" },
		"no host":                        func(c *serverConfig) { c.Listen = ":8443" },
		"identity beyond loopback":       func(c *serverConfig) { c.IdentityListen = "192.0.2.1:8444" },
		"identity on every address":      func(c *serverConfig) { c.IdentityListen = ":8444" },
		"advertised without port":        func(c *serverConfig) { c.Advertise = "gateway.example.com" },
		"tenant":                         func(c *serverConfig) { c.EntraTenants = []string{"common"} },
		"limit":                          func(c *serverConfig) { c.BindingLimit = 0 },
	} {
		cfg := defaultServerConfig()
		if err := checkServerConfig(cfg); err != nil {
			t.Fatalf("defaults: %v", err)
		}
		if change(&cfg); !errors.Is(checkServerConfig(cfg), access.ErrInvalid) {
			t.Errorf("%s: %v", name, checkServerConfig(cfg))
		}
	}
	cfg := defaultServerConfig()
	cfg.Listen, cfg.Advertise = ":8443", "gateway.example.com:443"
	if err := checkServerConfig(cfg); err != nil {
		t.Errorf("every address, one advertised: %v", err)
	}
	if _, err := etcdTLS(serverConfig{EtcdCert: "cert.pem", EtcdKey: "key.pem"}); err == nil {
		t.Error("a certificate for etcd without its CA was accepted")
	}
}
