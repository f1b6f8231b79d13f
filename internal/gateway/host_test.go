package gateway_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/gateway"
)

const clusterHost = clusterUID + ".clusters.example.com"

// hosted is a request by host name; sni is what the TLS handshake named.
func hosted(sni, host, path string) *http.Request {
	r := httptest.NewRequest("GET", path, nil)
	r.Host, r.TLS = host, &tls.ConnectionState{ServerName: sni}
	r.Header.Set("Authorization", "Bearer good")
	return r
}

// A cluster's host has the cluster's API at its root. Host decides, and where it
// and the handshake name different hosts, nothing is served.
func TestHostForm(t *testing.T) {
	const other = "eeeeeeee-2222-3333-4444-aaaaaaaaaaaa.clusters.example.com"
	const front = "gateway.example.com"
	for _, tc := range []struct {
		sni, host, path string
		status          int
		forwarded       string
		claimed         bool // the gateway alone answers
	}{
		{clusterHost, clusterHost, "/api/v1/pods?limit=1", 200, "/api/v1/pods?limit=1", true},
		{clusterHost, clusterHost, "/", 200, "/", true},
		{clusterHost, clusterHost + ":8443", "/api", 200, "/api", true},
		{clusterHost, strings.ToUpper(clusterHost), "/api", 200, "/api", true},
		{strings.ToUpper(clusterHost), clusterHost, "/api", 200, "/api", true},
		{clusterHost, clusterHost + ".", "/api", 200, "/api", true},
		{"", clusterHost, "/api", 200, "/api", true}, // no name was named
		{clusterHost, clusterHost, base[len(gateway.PathPrefix):] + "/api", 200, cluster + "/api", true},
		{clusterHost, clusterHost, base + "/api", 200, base + "/api", true}, // not the path form: a path of the cluster's
		{other, other, "/api", 404, "", true},
		{other, clusterHost, "/api", 421, "", true},
		{clusterHost, other, "/api", 421, "", true},
		{front, clusterHost, "/api", 421, "", true},
		{clusterHost, front, base + "/api", 421, "", true},
		{clusterHost, "127.0.0.1:8443", base + "/api", 421, "", true},
		{clusterHost, clusterHost + ".evil.example", "/api", 421, "", true},
		{clusterHost, "", "/api", 421, "", true},
		{front, front, base + "/api", 200, "/api", false},
		{front, "other.example.com", base + "/api", 200, "/api", false}, // neither is a cluster's
		{"", "127.0.0.1:8443", base + "/api", 200, "/api", false},
		{"x.clusters.example.com", "x.clusters.example.com", base + "/api", 200, "/api", false},
		{"a." + clusterHost, "a." + clusterHost, base + "/api", 200, "/api", false},
		{"clusters.example.com", "clusters.example.com", "/api", 404, "", false},
	} {
		r, req := newRig(t), hosted(tc.sni, tc.host, tc.path)
		if got := r.HasHost(req); got != tc.claimed {
			t.Errorf("%q, %q: claimed %v", tc.sni, tc.host, got)
		}
		resp := r.do(req)
		out := r.requests()
		if resp.StatusCode != tc.status || len(out) > 1 || (len(out) == 1) != (tc.forwarded != "") || tc.forwarded != "" && out[0].URL.RequestURI() != tc.forwarded {
			t.Errorf("%q, %q %s: %d, forwarded %v", tc.sni, tc.host, tc.path, resp.StatusCode, out)
		}
		if tc.status >= 400 {
			err := status(t, resp)
			if tc.status == 421 && string(err.ErrStatus.Reason) != "MisdirectedRequest" {
				t.Error(err)
			}
		}
	}
}

// The same by both protocols of a real connection, whose client was told to
// reuse it for another host.
func TestMisdirected(t *testing.T) {
	for name, second := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		r := newRig(t)
		s := httptest.NewUnstartedServer(r)
		s.EnableHTTP2 = second
		s.StartTLS()
		t.Cleanup(s.Close)
		transport := s.Client().Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.ServerName, transport.TLSClientConfig.InsecureSkipVerify = clusterHost, true
		t.Cleanup(transport.CloseIdleConnections)
		for host, want := range map[string]int{clusterHost: 200, "gateway.example.com": 421, "eeeeeeee-2222-3333-4444-aaaaaaaaaaaa.clusters.example.com": 421} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/v1/pods", nil)
			check(t, err)
			req.Host = host
			req.Header.Set("Authorization", "Bearer good")
			resp, err := transport.RoundTrip(req)
			check(t, err)
			resp.Body.Close()
			if resp.StatusCode != want || (resp.ProtoMajor == 2) != second {
				t.Errorf("%s, %s: %s %d", name, host, resp.Proto, resp.StatusCode)
			}
		}
	}
}

// A redirect stays in the form by which the client came.
func TestItem08HostFormRedirects(t *testing.T) {
	for location, want := range map[string]string{"/api/v1/x": "/api/v1/x", "//evil.example/": "", "https://evil.example/": "", "/../x": ""} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) {
			return answer(307, http.Header{"Location": {location}, "Content-Type": {"text/plain"}}, ""), nil
		}
		resp := r.do(hosted(clusterHost, clusterHost, "/api"))
		if got := resp.Header.Get("Location"); got != want || (want == "") != (resp.StatusCode == 502) {
			t.Errorf("%s: %d to %q", location, resp.StatusCode, got)
		}
	}
}

// What is refused in the path form is refused here.
func TestHostFormRefusesTricks(t *testing.T) {
	for _, path := range []string{"//api", "/api/../v1", "/api/%2e%2e/v1", "/api%2fv1", "/APIs/apps/v1/deployments", "/a\"b", "*", "http://evil.example/api", "/api?a;b"} {
		req := hosted(clusterHost, clusterHost, "/")
		req.RequestURI = path
		u, err := req.URL.Parse(path)
		if req.URL.Path = path; err == nil {
			req.URL = u
		}
		r := newRig(t)
		if resp := r.do(req); resp.StatusCode != 400 || len(r.requests()) != 0 {
			t.Errorf("%s: %d, %d forwarded", path, resp.StatusCode, len(r.requests()))
		}
	}
}
