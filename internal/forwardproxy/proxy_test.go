package forwardproxy_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/forwardproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait = 20 * time.Second

// echo is a TCP server that says its name and then repeats what it hears.
func echo(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, name)
				_, _ = io.Copy(conn, conn) // ends with the client
			}()
		}
	}()
	return ln.Addr().String()
}

func start(t *testing.T, cfg forwardproxy.Config) (*forwardproxy.Proxy, *url.URL) {
	t.Helper()
	if cfg.Server == "" {
		cfg.Server = "127.0.0.1:1"
	}
	p, err := forwardproxy.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	u, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	return p, u
}

// connect sends a CONNECT and returns the connection with the answer's status.
func connect(t *testing.T, proxy *url.URL, target string) (net.Conn, *bufio.Reader, int) {
	t.Helper()
	conn, err := net.Dial("tcp", proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", target, target)
	if proxy.User != nil {
		fmt.Fprintf(conn, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(proxy.User.String())))
	}
	fmt.Fprint(conn, "\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return conn, r, resp.StatusCode
}

func TestConnect(t *testing.T) {
	server, allowed := echo(t, "server"), echo(t, "allowed")
	_, allowedPort, _ := net.SplitHostPort(allowed)
	var refused []string
	_, proxy := start(t, forwardproxy.Config{
		Server: server, Relayed: []string{"login.microsoftonline.com"}, Allowed: []string{"localhost:" + allowedPort},
		Refused: func(host, _ string) { refused = append(refused, host) },
	})
	for _, c := range []struct {
		target string
		status int
		from   string
	}{
		{"login.microsoftonline.com:443", 200, "server"},
		{"LOGIN.microsoftonline.com:443", 200, "server"},
		{"localhost:" + allowedPort, 200, "allowed"},
		{"login.microsoftonline.com:80", 403, ""},
		{"login.microsoftonline.com.example.com:443", 403, ""},
		{"example.com:443", 403, ""},
		{"example.com:443", 403, ""},
		{server, 403, ""}, // its own address is not among the names
		{"127.0.0.1:" + allowedPort, 403, ""},
		{"169.254.169.254:80", 403, ""},
	} {
		conn, r, status := connect(t, proxy, c.target)
		if status != c.status {
			t.Errorf("CONNECT %s: status %d, want %d", c.target, status, c.status)
			continue
		}
		if status != 200 {
			continue
		}
		fmt.Fprintln(conn, "hello")
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != c.from+"\nhello\n" {
			t.Errorf("CONNECT %s: read %q, %v", c.target, got, err)
		}
	}
	want := []string{"login.microsoftonline.com:80", "login.microsoftonline.com.example.com:443", "example.com:443", server, "127.0.0.1:" + allowedPort, "169.254.169.254:80"}
	if !slices.Equal(refused, want) {
		t.Errorf("reported %q, want each once: %q", refused, want)
	}
}

func TestPassword(t *testing.T) {
	server := echo(t, "server")
	_, proxy := start(t, forwardproxy.Config{Server: server, Relayed: []string{"login.microsoftonline.com"}})
	for _, user := range []*url.Userinfo{nil, url.UserPassword("sallyport", "x"), url.User("sallyport")} {
		stranger := *proxy
		stranger.User = user
		if _, _, status := connect(t, &stranger, "login.microsoftonline.com:443"); status != http.StatusProxyAuthRequired {
			t.Errorf("CONNECT as %v: status %d, want 407", user, status)
		}
		resp, err := (&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&stranger), DisableKeepAlives: true}}).Get("http://169.254.169.254/metadata/instance")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusProxyAuthRequired {
			t.Errorf("GET as %v: status %d, want 407", user, resp.StatusCode)
		}
	}
}

// through sends a request by the proxy and returns status and body.
func through(t *testing.T, proxy *url.URL, method, target string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := (&http.Client{Timeout: wait, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMetadataIsAnsweredByWhoTheChildIs(t *testing.T) {
	const ask = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x"
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %q %q %q %q", r.Method, r.RequestURI, r.Header.Values("X-Identity-Header"), r.Header.Values("Secret"),
			r.Header.Values("Proxy-Authorization"), r.Header.Values("X-Forwarded-For"))
	}))
	defer endpoint.Close()
	_, proxy := start(t, forwardproxy.Config{Identity: &forwardproxy.Identity{Endpoint: endpoint.URL + "/msi/token", Header: "canary"}})
	status, body := through(t, proxy, "GET", ask, http.Header{"Metadata": {"true"}, "X-Identity-Header": {"mine"}, "Secret": {"mine"}})
	if want := `GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=x ["canary"] [] [] []`; status != 200 || body != want {
		t.Errorf("with an identity: %d %s, want %s", status, body, want)
	}
	if _, body := through(t, proxy, "GET", ask, http.Header{"X-Forwarded-For": {"10.0.0.1"}}); !strings.HasSuffix(body, `["10.0.0.1"]`) {
		t.Errorf("X-Forwarded-For of the child did not arrive, to be refused: %s", body)
	}

	_, proxy = start(t, forwardproxy.Config{})
	if status, body := through(t, proxy, "GET", ask, http.Header{"Metadata": {"true"}}); status != 400 || !strings.Contains(body, "Identity not found") {
		t.Errorf("without an identity: %d %s", status, body)
	}
	if status, _ := through(t, proxy, "GET", "http://169.254.169.254:8080/", nil); status != 403 {
		t.Errorf("another port of the metadata address: %d, want 403", status)
	}
}

func TestPlainHTTP(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "site %q", r.Header.Values("Proxy-Authorization"))
	}))
	defer site.Close()
	_, port, _ := net.SplitHostPort(site.Listener.Addr().String())
	_, proxy := start(t, forwardproxy.Config{Allowed: []string{"site.localhost:" + port}})
	if status, _ := through(t, proxy, "GET", "http://site.example:"+port+"/", nil); status != 403 {
		t.Errorf("a host not allowed: %d, want 403", status)
	}
	_, proxy = start(t, forwardproxy.Config{Allowed: []string{"localhost:" + port}})
	// The client's own rule against proxies for localhost is not asked with ProxyURL.
	if status, body := through(t, proxy, "GET", "http://localhost:"+port+"/", nil); status != 200 || body != "site []" {
		t.Errorf("an allowed host: %d %s", status, body)
	}
}

func TestCloseEndsRelays(t *testing.T) {
	p, proxy := start(t, forwardproxy.Config{Server: echo(t, "server"), Relayed: []string{"graph.microsoft.com"}})
	_, r, status := connect(t, proxy, "graph.microsoft.com:443")
	if line, err := r.ReadString('\n'); status != 200 || err != nil || line != "server\n" {
		t.Fatalf("%d %q %v", status, line, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after Close the relay is open: %v", err)
	}
}

func TestStop(t *testing.T) {
	stopped := make(chan struct{})
	_, proxy := start(t, forwardproxy.Config{Stop: func() { close(stopped) }})
	wrong := *proxy
	wrong.User = url.UserPassword("sallyport", "x")
	if err := forwardproxy.Stop(t.Context(), wrong.String()); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("with the wrong password: %v", err)
	}
	if err := forwardproxy.Stop(t.Context(), proxy.String()); err != nil {
		t.Fatal(err)
	}
	<-stopped
	p, proxy := start(t, forwardproxy.Config{})
	p.Close()
	if err := forwardproxy.Stop(t.Context(), proxy.String()); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("of a proxy that is gone: %v", err)
	}
}

func TestCheckAllowed(t *testing.T) {
	for entry, ok := range map[string]bool{
		"example.com": true, "example.com:8443": true, "10.0.0.1": true, "[2001:db8::1]": true, "[2001:db8::1]:443": true,
		"": false, "*": false, "*.example.com": false, "https://example.com": false, "example.com:": false, "example.com:0": false,
		"example.com:70000": false, "a b": false, "user@example.com": false, "2001:db8::1:x": false,
	} {
		if err := forwardproxy.CheckAllowed(entry); (err == nil) != ok || err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("CheckAllowed(%q) = %v", entry, err)
		}
	}
}
