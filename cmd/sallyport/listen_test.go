package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// TestItem31HalfOpenConnectionsLockNobodyOut: more silent connections than there are
// places for handshakes, and honest clients still get in (checklist, item 31).
// Behind a balancer what is silent may not even have sent its PROXY header.
func TestItem31HalfOpenConnectionsLockNobodyOut(t *testing.T) {
	rules, err := readAddressRules(serverConfig{TrustedProxies: []string{"127.0.0.1"}, ProxyProtocol: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("direct", func(t *testing.T) {
		testHalfOpen(t, func(conn net.Conn) (net.Conn, error) { return conn, nil }, "")
	})
	t.Run("balancer", func(t *testing.T) {
		testHalfOpen(t, rules.proxies.Origin, "PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n")
	})
}

func testHalfOpen(t *testing.T, origin func(net.Conn) (net.Conn, error), header string) {
	const places = 512
	authority, address := openDoor(t, func(d *frontDoor) { d.origin, d.maxHalfOpen = origin, places })
	var silent []net.Conn
	for range places + 20 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: authority.Pool()},
		DialContext:       dialBehind(header),
		DisableKeepAlives: true,
	}}
	for i := range 20 {
		resp, err := client.Get("https://" + address)
		if err != nil {
			t.Fatalf("honest client %d: %v", i, err)
		}
		resp.Body.Close()
	}
	// The oldest gave way: long before its time was over, or places have no end.
	silent[0].SetReadDeadline(time.Now().Add(handshakeTimeout / 2))
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d handshakes are under way, and the oldest has not given way: %v", len(silent), err)
	}
}

// openDoor opens one for the length of the test, which answers "in".
func openDoor(t *testing.T, change func(*frontDoor)) (*enroll.Authority, string) {
	t.Helper()
	authority, err := enroll.OpenAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := &frontDoor{
		log:    slog.New(slog.DiscardHandler),
		origin: func(conn net.Conn) (net.Conn, error) { return conn, nil },
		tls: &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return authority.ServerCertificate([]string{"127.0.0.1"})
			},
		},
		web: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })},
	}
	change(door)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- door.serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return authority, ln.Addr().String()
}

// TestItem34HandshakesInTurn: more clients than there are places for silent ones
// have spoken, and the server is slow. None is given up for those behind it, and
// agents wait for nobody but agents (checklist, item 34).
func TestItem34HandshakesInTurn(t *testing.T) {
	const places, clients = 10, 40
	spoke, release := make(chan struct{}, clients), make(chan struct{})
	authority, address := openDoor(t, func(d *frontDoor) {
		d.maxHalfOpen = places
		d.isAgent = func(hello *tls.ClientHelloInfo) bool {
			spoke <- struct{}{}
			return enroll.FromAgent(hello)
		}
		certificate := d.tls.GetCertificate
		d.tls.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if !enroll.FromAgent(hello) {
				<-release
			}
			return certificate(hello)
		}
	})
	handshake := func(name string) error {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: authority.Pool(), ServerName: name})
		if err == nil {
			conn.Close()
		}
		return err
	}
	ended := make(chan error, clients)
	for range clients {
		go func() { ended <- handshake("127.0.0.1") }()
		<-spoke
	}
	if err := handshake("pin." + enroll.ServerName); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an agent, which trusts no name but its own, gets no answer beside them: %v", err)
	}
	close(release)
	for range clients {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// dialBehind dials as a balancer does that sends this header first.
func dialBehind(header string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			_, err = io.WriteString(conn, header)
		}
		return conn, err
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
		"limit of a binding's streams":   func(c *serverConfig) { c.BindingLimits.Streams = -1 },
		"limit of a cluster's bandwidth": func(c *serverConfig) { c.ClusterLimits.Bandwidth = -1 },
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

// readAddressRules is what runServer does with the flags about addresses.
func readAddressRules(cfg serverConfig) (addressRules, error) {
	tags, err := openServiceTags(cfg)
	if err != nil {
		return addressRules{}, err
	}
	return newAddressRules(cfg, tags)
}

// TestAddressRules: rules that do not mean what they say stop the start.
func TestAddressRules(t *testing.T) {
	tags := filepath.Join(t.TempDir(), "tags.json")
	if err := os.WriteFile(tags, []byte(`{"values":[{"name":"Sql.EastUS","properties":{"addressPrefixes":["192.0.2.0/24"]}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  serverConfig
		says string
	}{
		"no tag file":           {serverConfig{AllowFrom: []string{"Sql.EastUS"}}, "--allow-from: "},
		"unknown tag":           {serverConfig{AllowFrom: []string{"Sql.EastU"}, ServiceTags: tags}, "did you mean Sql.EastUS?"},
		"wrong range":           {serverConfig{TrustedProxies: []string{"10.0.0.1/8"}}, "--trusted-proxies: "},
		"not a tag file":        {serverConfig{ServiceTags: os.DevNull}, "--service-tags: "},
		"PROXY from whomsoever": {serverConfig{ProxyProtocol: true}, "--proxy-protocol needs --trusted-proxies"},
	} {
		if _, err := readAddressRules(tc.cfg); !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rules, err := readAddressRules(serverConfig{AllowFrom: []string{"sql.eastus", "::1"}, ServiceTags: tags})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{"192.0.2.7": true, "::ffff:192.0.2.7": true, "::1": true, "192.0.3.7": false} {
		if rules.from(netip.MustParseAddr(address)) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
	if rules, err = readAddressRules(serverConfig{}); err != nil || rules.from != nil {
		t.Errorf("no rule: %v, %v", rules.from != nil, err)
	}
}
