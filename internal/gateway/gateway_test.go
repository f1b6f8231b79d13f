package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/tunnel"
)

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := gateway.New(gateway.Config{}); err == nil || !strings.Contains(err.Error(), "Authorizer") {
		t.Error(err)
	}
}

func TestOrderOfAnAllowedRequest(t *testing.T) {
	r := newRig(t)
	resp := r.do(get("/api/v1/pods?limit=5"))
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(body) != `{"ok":true}` {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	want := []string{"authenticate", "grant", "to", "audit decision", "holds, 1 live", "forward", "audit complete"}
	if !slices.Equal(r.steps, want) {
		t.Errorf("steps %q, want %q", r.steps, want)
	}
	out := r.requests()[0]
	claim, err := tunnel.ReadClaim(out.Header)
	check(t, err)
	if claim.Binding != "b1" || claim.BindingUID != bindingUID || claim.Source.String() != source || claim.RequestID != r.records[0].ID {
		t.Errorf("claim %+v", claim)
	}
	if out.URL.RequestURI() != "/api/v1/pods?limit=5" || out.Header.Get("Authorization") != "" {
		t.Errorf("forwarded %s %v", out.URL.RequestURI(), out.Header)
	}
	if len(r.live.UIDs()) != 0 {
		t.Error("the request is still live")
	}
}

// failing is a request or a surrounding that must lead to a refusal.
type failing struct {
	name   string
	change func(*rig, *http.Request)
	status int
	is     func(error) bool
	steps  string // joined, without "forward" in any case
}

func refusals(t *testing.T) []failing {
	header := func(name string, values ...string) func(*rig, *http.Request) {
		return func(_ *rig, r *http.Request) { r.Header[name] = values }
	}
	target := func(s string) func(*rig, *http.Request) {
		return func(_ *rig, r *http.Request) {
			*r.URL = *httptest.NewRequest("GET", s, nil).URL
			r.RequestURI = s
		}
	}
	refuse := func(kind error) error { return fmt.Errorf("the reason: %w", kind) }
	granted := func(kind error) func(*rig, *http.Request) {
		return func(r *rig, _ *http.Request) {
			r.grant = func(access.Principal, access.ResourceID) (access.Grant, error) { return access.Grant{}, refuse(kind) }
		}
	}
	const parsed, authenticated = "audit decision", "authenticate|audit decision"
	return []failing{
		{"no cluster", target("/k8s/x"), 404, apierrors.IsNotFound, parsed},
		{"traversal", target(base + "/%2e%2e/c2/api"), 400, apierrors.IsBadRequest, parsed},
		{"huge path", target(base + "/" + strings.Repeat("a", 40<<10)), 400, apierrors.IsBadRequest, parsed},
		{"method CONNECT", func(_ *rig, r *http.Request) { r.Method = "CONNECT" }, 400, apierrors.IsBadRequest, parsed},
		{"no token", func(_ *rig, r *http.Request) { r.Header.Del("Authorization") }, 401, apierrors.IsUnauthorized, parsed},
		{"only a cookie", func(_ *rig, r *http.Request) { r.Header = http.Header{"Cookie": {"token=good"}} }, 401, apierrors.IsUnauthorized, parsed},
		{"two tokens", header("Authorization", "Bearer good", "Bearer good"), 401, apierrors.IsUnauthorized, parsed},
		{"basic", header("Authorization", "Basic Z29vZDpnb29k"), 401, apierrors.IsUnauthorized, parsed},
		{"token in the query", func(_ *rig, r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "access_token=good" }, 401, apierrors.IsUnauthorized, parsed},
		{"bad token", header("Authorization", "Bearer bad"), 401, apierrors.IsUnauthorized, authenticated},
		{"keys not there", func(r *rig, _ *http.Request) {
			r.authenticate = func(string) (access.Principal, error) { return access.Principal{}, refuse(access.ErrUnavailable) }
		}, 503, apierrors.IsServiceUnavailable, authenticated},
		{"impersonation", header("Impersonate-User", "system:admin"), 403, apierrors.IsForbidden, authenticated},
		{"impersonation by group", header("Impersonate-Group", "system:masters"), 403, apierrors.IsForbidden, authenticated},
		{"impersonation by uid", header("Impersonate-Uid", "1"), 403, apierrors.IsForbidden, authenticated},
		{"impersonation by extra", header("Impersonate-Extra-Scopes", "x"), 403, apierrors.IsForbidden, authenticated},
		{"impersonation with _", header("Impersonate_user", "x"), 403, apierrors.IsForbidden, authenticated},
		{"impersonation in odd case", header("iMpErSoNaTe-UsEr", "x", "y"), 403, apierrors.IsForbidden, authenticated},
		{"Connection without Upgrade", header("Connection", "Upgrade"), 400, apierrors.IsBadRequest, authenticated},
		{"h2c", upgrade("h2c"), 400, apierrors.IsBadRequest, authenticated},
		{"TLS/1.0", upgrade("TLS/1.0"), 400, apierrors.IsBadRequest, authenticated},
		{"list of protocols", upgrade("websocket, SPDY/3.1"), 400, apierrors.IsBadRequest, authenticated},
		{"two protocols", upgrade("websocket", "SPDY/3.1"), 400, apierrors.IsBadRequest, authenticated},
		{"empty protocol", upgrade(""), 400, apierrors.IsBadRequest, authenticated},
		{"upgrade by PUT", func(r *rig, req *http.Request) { upgrade("websocket")(r, req); req.Method = "PUT" }, 400, apierrors.IsBadRequest, authenticated},
		{"upgrade over HTTP/2", func(r *rig, req *http.Request) { upgrade("websocket")(r, req); req.ProtoMajor, req.ProtoMinor = 2, 0 }, 400, apierrors.IsBadRequest, authenticated},
		{"no binding", granted(access.ErrForbidden), 403, apierrors.IsForbidden, "authenticate|grant|audit decision"},
		{"unknown cluster", granted(access.ErrNotFound), 404, apierrors.IsNotFound, "authenticate|grant|audit decision"},
		{"other tenant", granted(access.ErrUnauthenticated), 401, apierrors.IsUnauthorized, "authenticate|grant|audit decision"},
		{"stale index", granted(access.ErrUnavailable), 503, apierrors.IsServiceUnavailable, "authenticate|grant|audit decision"},
		{"an error of no kind", granted(errors.New("secret")), 500, apierrors.IsInternalError, "authenticate|grant|audit decision"},
		{"no agent", func(r *rig, _ *http.Request) {
			r.to = func(string) (http.RoundTripper, error) { return nil, refuse(access.ErrUnavailable) }
		}, 503, apierrors.IsServiceUnavailable, "authenticate|grant|to|audit decision"},
		{"withdrawn in between", func(r *rig, _ *http.Request) {
			r.holds = func(access.Grant) error { return refuse(access.ErrForbidden) }
		}, 403, apierrors.IsForbidden,
			"authenticate|grant|to|audit decision|holds, 1 live|audit complete"},
		{"stale in between", func(r *rig, _ *http.Request) {
			r.holds = func(access.Grant) error { return refuse(access.ErrUnavailable) }
		}, 503, apierrors.IsServiceUnavailable,
			"authenticate|grant|to|audit decision|holds, 1 live|audit complete"},
	}
}

// execPath is a path on which an upgrade makes sense.
const execPath = "/api/v1/namespaces/d/pods/p/exec"

func upgrade(protocols ...string) func(*rig, *http.Request) {
	return func(_ *rig, r *http.Request) {
		r.Header["Upgrade"], r.Header["Connection"] = protocols, []string{"Upgrade"}
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range refusals(t) {
		t.Run(tc.name, func(t *testing.T) {
			r, req := newRig(t), get(execPath)
			tc.change(r, req)
			resp := r.do(req)
			err := status(t, resp)
			if resp.StatusCode != tc.status || !tc.is(err) {
				t.Errorf("%d: %v", resp.StatusCode, err)
			}
			if got := strings.Join(r.steps, "|"); got != tc.steps {
				t.Errorf("steps %s, want %s", got, tc.steps)
			}
			rec := r.records[0]
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Audit-Id": rec.ID, "Content-Type": "application/json"} {
				if resp.Header.Get(name) != want {
					t.Errorf("%s: %q", name, resp.Header.Get(name))
				}
			}
			if retry := resp.Header.Get("Retry-After"); (retry == "1") != (tc.status == 503) || retry != "" && tc.status != 503 {
				t.Errorf("Retry-After: %q", retry)
			}
			if seconds, ok := apierrors.SuggestsClientDelay(err); tc.status == 503 && (!ok || seconds != 1) {
				t.Errorf("suggested delay %d, %v", seconds, ok)
			}
			if authenticate := resp.Header.Get("Www-Authenticate"); (authenticate != "") != (tc.status == 401) {
				t.Errorf("WWW-Authenticate: %q", authenticate)
			}
			if message := err.ErrStatus.Message; !strings.Contains(message, rec.ID) || strings.Contains(message, "secret") || tc.status == 401 && !strings.HasPrefix(message, "Invalid token") {
				t.Errorf("message %q", message)
			}
			if rec.Stage != audit.Decision || rec.Allowed == nil || rec.Method == "" || rec.Path == "" || len(rec.Path) > 2000 {
				t.Errorf("record %+v", rec)
			}
			if *rec.Allowed != strings.Contains(tc.steps, "holds") || !*rec.Allowed && rec.Reason == "" {
				t.Errorf("decision %v %q", *rec.Allowed, rec.Reason)
			}
		})
	}
}

// kubectl shows the body of a refused discovery only if it is text.
func TestRefusedDiscoveryIsText(t *testing.T) {
	for _, path := range []string{"/api", "/apis"} {
		r := newRig(t)
		r.grant = func(access.Principal, access.ResourceID) (access.Grant, error) {
			return access.Grant{}, fmt.Errorf("no binding: %w", access.ErrForbidden)
		}
		resp := r.do(get(path))
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 403 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || !strings.HasPrefix(string(body), "no binding") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %s", path, resp.StatusCode, resp.Header, body)
		}
	}
}

// Not recorded means refused, for every verb (checklist, item 40).
func TestItem40NotRecordedIsRefused(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LIST", "X"} {
		r := newRig(t)
		r.auditErr = fmt.Errorf("disk full: %w", access.ErrUnavailable)
		resp := r.do(request(method, "/api/v1/pods", strings.NewReader("body")))
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || len(r.requests()) != 0 || len(r.live.UIDs()) != 0 {
			t.Errorf("%s: %d, %d forwarded", method, resp.StatusCode, len(r.requests()))
		}
		if method != "HEAD" && !apierrors.IsServiceUnavailable(status(t, resp)) {
			t.Errorf("%s: no Status", method)
		}
	}
	// A refusal that cannot be recorded is one for that reason.
	r := newRig(t)
	r.auditErr = fmt.Errorf("disk full: %w", access.ErrUnavailable)
	bad := get("/api/v1/pods")
	bad.Header.Del("Authorization")
	if resp := r.do(bad); resp.StatusCode != 503 {
		t.Error(resp.StatusCode)
	}
}

func TestAuditRecords(t *testing.T) {
	r := newRig(t)
	r.answer = func(*http.Request) (*http.Response, error) { return answer(404, nil, "12345"), nil }
	req := request("DELETE", "/api/v1/namespaces/d/pods/p?token=secret", nil)
	req.Header.Set("Audit-Id", "dddddddd-0000-0000-0000-aaaaaaaaaaaa")
	req.Header.Set("User-Agent", "evil\nline")
	r.do(req)
	if len(r.records) != 2 {
		t.Fatalf("%d records", len(r.records))
	}
	decision, complete := r.records[0], r.records[1]
	if decision.ID != complete.ID || !access.IsGUID(decision.ID) || decision.ID == req.Header.Get("Audit-Id") {
		t.Errorf("ids %q and %q", decision.ID, complete.ID)
	}
	if decision.Stage != audit.Decision || !*decision.Allowed || decision.Status != 0 {
		t.Errorf("decision %+v", decision)
	}
	if complete.Stage != audit.Complete || complete.Status != 404 || complete.Bytes != 5 {
		t.Errorf("completion %+v", complete)
	}
	for _, rec := range r.records {
		if rec.TenantID != "tenant" || rec.ObjectID != "oid" || rec.Source != source || rec.Cluster != cluster || rec.Binding != "b1" || rec.BindingUID != bindingUID ||
			rec.Method != "DELETE" || rec.Path != "/api/v1/namespaces/d/pods/p" || rec.Remote != "192.0.2.1" || rec.Time.IsZero() {
			t.Errorf("%s: %+v", rec.Stage, rec)
		}
		if s := fmt.Sprintf("%+v", rec); strings.Contains(s, "secret") || strings.Contains(s, "good") {
			t.Errorf("%s: %s", rec.Stage, s)
		}
	}
}

// A binding that is withdrawn while its request runs cuts it, on the wire and
// with one record (checklist, item 26).
func TestRevokeCutsARunningStream(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.answer = func(req *http.Request) (*http.Response, error) {
				body, w := io.Pipe()
				context.AfterFunc(req.Context(), func() { w.CloseWithError(context.Cause(req.Context())) })
				go io.WriteString(w, "first event\n")
				resp := answer(200, nil, "")
				resp.Body, resp.ContentLength = body, -1
				return resp, nil
			}
			s := r.serve(t, secure)
			req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+base+"/api/v1/pods?watch=1", nil)
			req.Header.Set("Authorization", "Bearer good")
			resp, err := s.Client().Do(req)
			check(t, err)
			defer resp.Body.Close()
			first := make([]byte, len("first event\n"))
			_, err = io.ReadFull(resp.Body, first)
			check(t, err)

			r.Revoke("another", "binding deleted")
			r.Revoke(bindingUID, "binding deleted")
			r.Revoke(bindingUID, "binding deleted") // once gone, nothing is cut
			if rest, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("the stream ended as if whole, with %q", rest)
			}
			s.Client().CloseIdleConnections()
			s.Close() // waits for the handler
			var stages []audit.Stage
			for _, rec := range r.audited() {
				stages = append(stages, rec.Stage)
				if rec.Stage == audit.Revoked && (rec.Cut != 1 || rec.BindingUID != bindingUID || rec.Reason != "binding deleted") {
					t.Errorf("%+v", rec)
				}
				if rec.Stage == audit.Complete && (rec.Status != 200 || rec.Bytes != 12 || !strings.Contains(rec.Reason, "binding deleted")) {
					t.Errorf("%+v", rec)
				}
			}
			if slices.Sort(stages); !slices.Equal(stages, []audit.Stage{audit.Complete, audit.Decision, audit.Revoked}) {
				t.Errorf("records %v", stages)
			}
		})
	}
}

func TestItem26RevokedBeforeTheAnswer(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit) // if nothing cuts it
	defer cancel()
	r.answer = func(req *http.Request) (*http.Response, error) {
		r.Revoke(bindingUID, "binding deleted")
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	resp := r.do(get("/api/v1/pods").WithContext(ctx))
	if err := status(t, resp); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "binding deleted") {
		t.Error(err)
	}
}

func TestForwardingFails(t *testing.T) {
	refused := func(kind error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			tunnel.Refuse(w, fmt.Errorf("the agent's reason\r\nX: y: %w", kind))
			return w.Result(), nil
		}
	}
	for _, tc := range []struct {
		name   string
		answer func(*http.Request) (*http.Response, error)
		status int
		text   string
	}{
		// The request may have had its effect: nobody is told to repeat it.
		{"lost", func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, 502, "lost"},
		{"lost, in the tunnel's words", func(*http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("secret: %w", access.ErrUnavailable)
		}, 502, "lost"},
		{"the agent knows no such binding", refused(access.ErrForbidden), 403, "the agent's reason"},
		{"the agent is stale", refused(access.ErrUnavailable), 503, "the agent's reason"},
		{"the agent finds it invalid", refused(access.ErrInvalid), 400, "the agent's reason"},
		{"the agent fails", refused(errors.New("secret")), 502, "no proper answer"},
		{"101 unasked", func(*http.Request) (*http.Response, error) {
			return answer(101, http.Header{"Upgrade": {"websocket"}}, ""), nil
		}, 502, "lost"},
	} {
		for _, upgrades := range []bool{false, true} {
			r, req := newRig(t), get(execPath)
			if upgrades {
				upgrade("SPDY/3.1")(r, req)
			}
			r.answer = tc.answer
			if upgrades && tc.name == "101 unasked" {
				continue
			}
			resp := r.do(req)
			if err := status(t, resp); resp.StatusCode != tc.status || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, upgrade %v: %d %v", tc.name, upgrades, resp.StatusCode, err)
			}
			if retry := resp.Header.Get("Retry-After"); (retry != "") != (tc.status == 503) {
				t.Errorf("%s: Retry-After %q", tc.name, retry)
			}
			if complete := r.records[len(r.records)-1]; complete.Stage != audit.Complete || complete.Status != tc.status {
				t.Errorf("%s: %+v", tc.name, complete)
			}
			for name := range resp.Header {
				if tunnel.IsPrivate(name) || name == "X" {
					t.Errorf("%s: header %s", tc.name, name)
				}
			}
		}
	}
}
