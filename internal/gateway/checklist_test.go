package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
)

// Only SPDY/3.1 and websocket are passed on, one of them at a time, and only to
// the streams of a pod and to applications. Whatever else asks to change the
// protocol is answered and cut off: what follows on the connection is not read.
func TestItem09ArbitraryUpgradesAreRefused(t *testing.T) {
	for _, tc := range []struct{ name, path, lines string }{
		{"h2c", execPath, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n"},
		{"TLS", execPath, "Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"},
		{"a list", execPath, "Upgrade: websocket, SPDY/3.1\r\nConnection: Upgrade\r\n"},
		{"two headers", execPath, "Upgrade: websocket\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"},
		{"another version", execPath, "Upgrade: SPDY/3\r\nConnection: Upgrade\r\n"},
		{"no protocol", execPath, "Connection: Upgrade\r\n"},
		{"a plain GET of pods", "/api/v1/namespaces/d/pods", "Upgrade: websocket\r\nConnection: Upgrade\r\n"},
		{"a watch", "/api/v1/pods?watch=1", "Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"},
		{"the proxy of a node", "/api/v1/nodes/n/proxy/exec/d/p/c", "Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"},
		{"exec of another group's pods", "/apis/example.com/v1/namespaces/d/pods/p/exec", "Upgrade: websocket\r\nConnection: Upgrade\r\n"},
		{"no resource", "/healthz", "Upgrade: websocket\r\nConnection: Upgrade\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			s := r.serve(t, false)
			const second = "GET " + base + "/version HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n\r\n"
			got := raw(t, s, "GET "+base+tc.path+" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n"+tc.lines+"\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 400") || len(r.requests()) != 0 {
				t.Errorf("%d forwarded, answered %.200s", len(r.requests()), got)
			}
			raw(t, s, "GET "+base+tc.path+" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n"+tc.lines+"\r\n"+second)
			for _, out := range r.requests() {
				if out.URL.Path != "/version" || out.Header.Get("Upgrade") != "" {
					t.Errorf("forwarded %s %v", out.URL, out.Header)
				}
			}
		})
	}
}

// However one thing is asked for, the decision is the same and the audit record
// says the same; what only pretends to be it is refused.
func TestItem11OneDecisionForEverySpelling(t *testing.T) {
	type spelling struct{ method, path, header string }
	for want, spellings := range map[string][]spelling{
		"get pods/exec": {
			{"GET", "/api/v1/namespaces/d/pods/p/exec?command=sh", ""}, {"GET", "/api/v1/namespaces/d/pods/p/exec/", ""},
			{"GET", "/api/v1/namespaces/d/pods/p/exec", "X-Http-Method-Override: POST"}, {"GET", "/api/v1/namespaces/d/pods/p/exec", "X-Method-Override: DELETE"},
		},
		"create pods/exec": {{"POST", "/api/v1/namespaces/d/pods/p/exec", ""}, {"POST", "/api/v1/namespaces/d/pods/p/exec", "X-Http-Method: GET"}},
		"watch pods/": {
			{"GET", "/api/v1/namespaces/d/pods?watch=1", ""}, {"GET", "/api/v1/namespaces/d/pods?watch=true", ""}, {"GET", "/api/v1/namespaces/d/pods?watch", ""},
			{"GET", "/api/v1/watch/namespaces/d/pods", ""}, {"GET", "/api/v1/watch/namespaces/d/pods?watch=0", ""},
		},
		"list pods/": {{"GET", "/api/v1/namespaces/d/pods", ""}, {"HEAD", "/api/v1/namespaces/d/pods", ""}, {"GET", "/api/v1/namespaces/d/pods?watch=0", "X-Http-Method-Override: DELETE"}},
		"refused": {
			{"GET", "/api/v1/namespaces/d/pods?watch=0&watch=1", ""}, {"GET", "/api/v1/namespaces/d/pods?Watch=1", ""}, {"GET", "/API/v1/namespaces/d/pods?watch=1", ""},
			{"POST", "/api/v1/namespaces/d/pods?_method=DELETE", ""}, {"POST", "/api/v1/watch/namespaces/d/pods", ""}, {"WATCH", "/api/v1/namespaces/d/pods", ""},
			{"GET", "/api/v1/namespaces/d/pods/p/ex%65c", ""}, {"GET", "/api/v1/proxy/namespaces/d/pods/p", ""},
		},
	} {
		for _, sp := range spellings {
			r, req := newRig(t), request(sp.method, sp.path, nil)
			if name, value, ok := strings.Cut(sp.header, ": "); ok {
				req.Header.Set(name, value)
			}
			resp := r.do(req)
			records := r.audited()
			got := "refused"
			if resp.StatusCode == http.StatusOK {
				got = records[0].Verb + " " + records[0].Resource + "/" + records[0].Subresource
			}
			if got != want || *records[0].Allowed != (want != "refused") || len(r.requests()) != len(records)-1 {
				t.Errorf("%+v: %d, %q, %d forwarded, %+v; want %q", sp, resp.StatusCode, got, len(r.requests()), records[0], want)
			}
			if out := r.requests(); len(out) == 1 && out[0].Method != sp.method {
				t.Errorf("%+v: forwarded as %s", sp, out[0].Method)
			}
		}
	}
}

// A binding that goes between the decision and the registration is seen by the
// second look, and nothing is forwarded. What goes after that is cut.
func TestItem26WithdrawnBetween(t *testing.T) {
	r := newRig(t)
	r.holds = func(access.Grant) error {
		if len(r.live.UIDs()) != 1 {
			t.Error("the second look comes before the request is registered: a deletion between them would be missed")
		}
		return fmt.Errorf("binding %q was deleted: %w", "b1", access.ErrForbidden)
	}
	resp := r.do(get("/api/v1/pods"))
	if err := status(t, resp); resp.StatusCode != http.StatusForbidden || !strings.Contains(err.Error(), "was deleted") {
		t.Error(err)
	}
	if len(r.requests()) != 0 || len(r.live.UIDs()) != 0 {
		t.Errorf("%d forwarded, live %v", len(r.requests()), r.live.UIDs())
	}
	if records := r.audited(); len(records) != 2 || records[1].Status != http.StatusForbidden {
		t.Errorf("recorded as %+v", records)
	}
}

// A browser that somebody led here has cookies, and asks for leave first. It
// gets neither an identity nor a word about other origins.
func TestItem29NoCookiesNoCORS(t *testing.T) {
	r := newRig(t)
	s := r.serve(t, false)
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/d/services/s/proxy/", "/version", "/"} {
		for name, tc := range map[string]struct{ lines, status string }{
			"cookie only":         {"GET %s HTTP/1.1\r\nCookie: token=good; Authorization=Bearer%20good; session=good\r\n", "401"},
			"cookie and origin":   {"POST %s HTTP/1.1\r\nCookie: token=good\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n", "401"},
			"token in the query":  {"GET %s?access_token=good&token=good HTTP/1.1\r\n", "401"},
			"preflight":           {"OPTIONS %s HTTP/1.1\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n", "403"},
			"preflight, token":    {"OPTIONS %s HTTP/1.1\r\nAuthorization: Bearer good\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: DELETE\r\n", "403"},
			"private network":     {"OPTIONS %s HTTP/1.1\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n", "403"},
			"preflight, by GET":   {"GET %s HTTP/1.1\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n", "401"},
			"basic with password": {"GET %s HTTP/1.1\r\nAuthorization: Basic Z29vZDpnb29k\r\n", "401"},
		} {
			got := raw(t, s, strings.Replace(tc.lines, "%s", base+path, 1)+"Host: gateway\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 "+tc.status) || strings.Contains(strings.ToLower(got), "access-control-allow") || strings.Contains(got, "Set-Cookie") {
				t.Errorf("%s of %s: want %s, got %.300s", name, path, tc.status, got)
			}
		}
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d forwarded", n)
	}
}

// The id under which a request is recorded is the gateway's, and the cluster is
// told the same; the caller's counts nowhere.
func TestItem40ClientsAuditIDIsIgnored(t *testing.T) {
	own := uuid.NewString()
	r := newRig(t)
	s := r.serve(t, false)
	got := raw(t, s, "GET "+base+"/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\nAudit-ID: "+own+"\r\naudit-id: "+own+"\r\nX-Request-Id: "+own+"\r\nUser-Agent: a\r\n\t{\"stage\":\"decision\"}\r\nConnection: close\r\n\r\n")
	out, records := r.requests(), r.audited()
	if !strings.HasPrefix(got, "HTTP/1.1 200") || len(out) != 1 || len(records) != 2 {
		t.Fatalf("%d forwarded, %d records, %.200s", len(out), len(records), got)
	}
	id := records[0].ID
	if !access.IsGUID(id) || id == own || records[1].ID != id || out[0].Header.Get("Sallyport-Request-Id") != id || !strings.Contains(got, "Audit-Id: "+id) || strings.Contains(got, own) {
		t.Errorf("recorded %s and %s, forwarded %v, answered %.300s; the client said %s", id, records[1].ID, out[0].Header, got, own)
	}
	if strings.Contains(strings.Join(out[0].Header["Audit-Id"], ""), own) {
		t.Errorf("the client's id went on: %v", out[0].Header)
	}
}
