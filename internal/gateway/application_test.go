package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/tunnel"
)

const appPath = "/api/v1/namespaces/ns/services/web:80/proxy/"

// An application gets what was sent to it, and no token.
func TestApplicationRequest(t *testing.T) {
	r, req := newRig(t), request("POST", appPath+"score?x=1", nil)
	for name, value := range map[string]string{"X-Api-Key": "k", "Cookie": "a=b", "Azureml-Model-Deployment": "blue", "X-Remote-User": "evil", "X-Forwarded-For": "1.1.1.1", "X-Http-Method-Override": "DELETE", "Te": "trailers", "Sallyport-Binding": "other"} {
		req.Header.Set(name, value)
	}
	if resp := r.do(req); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	checkForwarded(t, "application", r, "X-Api-Key", "Cookie", "Azureml-Model-Deployment")

	r, req = newRig(t), request("POST", appPath, nil)
	req.Header.Set("Impersonate-User", "evil")
	if resp := r.do(req); resp.StatusCode != 403 || len(r.requests()) != 0 {
		t.Error(resp.Status)
	}
}

// An application's answer is true, and does no harm in a browser.
func TestApplicationAnswer(t *testing.T) {
	for _, tc := range []struct{ sent, got []string }{
		{[]string{"text/html; charset=utf-8"}, []string{"text/html; charset=utf-8"}},
		{[]string{"image/svg+xml"}, []string{"image/svg+xml"}},
		{[]string{"application/x-custom"}, []string{"application/x-custom"}},
		{nil, []string{"application/octet-stream"}},
		{[]string{"text/plain, text/html"}, []string{"application/octet-stream"}},
		{[]string{"text/plain", "text/html"}, []string{"application/octet-stream"}},
	} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) {
			h := badHeaders()
			h.Set("X-Model", "blue")
			h.Set("Audit-Id", "forged")
			if delete(h, "Content-Type"); tc.sent != nil {
				h["Content-Type"] = tc.sent
			}
			return answer(404, h, "<script>"), nil
		}
		resp := r.do(request("GET", appPath, nil))
		body, _ := io.ReadAll(resp.Body)
		if got := resp.Header["Content-Type"]; resp.StatusCode != 404 || string(body) != "<script>" || len(got) != 1 || got[0] != tc.got[0] {
			t.Errorf("%q: %d %q %s", tc.sent, resp.StatusCode, got, body)
		}
		for name, want := range map[string]string{
			"X-Model": "blue", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
			"Set-Cookie": "", "Strict-Transport-Security": "", "Access-Control-Allow-Origin": "", "Www-Authenticate": "", "X-Accel-Redirect": "", "Sallyport-Binding": "", "Audit-Id": r.audited()[0].ID,
		} {
			if got := resp.Header.Values(name); len(got) > 1 || resp.Header.Get(name) != want {
				t.Errorf("%q: %s is %q, want %q", tc.sent, name, got, want)
			}
		}
	}
}

func TestItem08ApplicationRedirects(t *testing.T) {
	for _, tc := range []struct {
		code           int
		location, want string
		status         int
	}{
		{302, appPath + "login", gateway.PathPrefix + cluster + appPath + "login", 302},
		{302, "https://evil.example/", "", 502},
		{302, "//evil.example/", "", 502},
		{201, appPath + "items/1", gateway.PathPrefix + cluster + appPath + "items/1", 201},
		{201, "http://web/items/1", "", 201},
		{201, "items/1", gateway.PathPrefix + cluster + appPath + "items/1", 201},
		{302, "sibling?q=1#f", gateway.PathPrefix + cluster + appPath + "sibling?q=1#f", 302},
		{302, "?q=1", gateway.PathPrefix + cluster + appPath + "?q=1", 302},
		{302, strings.Repeat("../", 40) + "x", gateway.PathPrefix + cluster + "/x", 302},
		{302, ".//evil.example/", "", 502},
		{302, `\\evil.example/`, "", 502},
		{302, "%2e%2e/x", "", 502},
		{302, "javascript:alert(1)", "", 502},
	} {
		r := newRig(t)
		r.answer = func(*http.Request) (*http.Response, error) {
			return answer(tc.code, http.Header{"Location": {tc.location}, "Content-Type": {"text/plain"}}, ""), nil
		}
		if resp := r.do(request("POST", appPath, nil)); resp.StatusCode != tc.status || resp.Header.Get("Location") != tc.want {
			t.Errorf("%d to %s: %d to %q", tc.code, tc.location, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

// An application's trailers arrive, by HTTP/1.1 and HTTP/2; those that would act
// on a client do not.
func TestApplicationTrailers(t *testing.T) {
	for name, second := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status, Set-Cookie")
			io.WriteString(w, "message")
			w.(http.Flusher).Flush()
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set(http.TrailerPrefix+"X-Late", "x")
			w.Header().Set(http.TrailerPrefix+tunnel.HeaderUpgraded, "x")
		}))
		app.EnableHTTP2 = second
		app.StartTLS()
		defer app.Close()
		r := newRig(t)
		r.answer = func(req *http.Request) (*http.Response, error) {
			out := req.Clone(req.Context())
			out.URL.Scheme, out.URL.Host = "https", app.Listener.Addr().String()
			return app.Client().Transport.RoundTrip(out)
		}
		s := r.serve(t, second)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+appPath, nil)
		req.Header.Set("Authorization", "Bearer good")
		resp, err := s.Client().Do(req)
		check(t, err)
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		resp.Body.Close()
		if string(body) != "message" || len(resp.Trailer) != 2 || resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("X-Late") != "x" {
			t.Errorf("%s: %q, trailers %v", name, body, resp.Trailer)
		}
		app.Client().CloseIdleConnections()
	}
}
