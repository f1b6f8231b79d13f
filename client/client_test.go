package client_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	sub       = "00000000-0000-0000-0000-000000000001"
	clusterID = "/subscriptions/" + sub + "/resourceGroups/RG/providers/Microsoft.ContainerService/managedClusters/C"
	sourceID  = "/subscriptions/" + sub + "/resourcegroups/RG/providers/Microsoft.MachineLearningServices/workspaces/ML1"
	roleName  = "Microsoft.MachineLearningServices/workspaces/mlworkload"
	opPath    = "/subscriptions/" + sub + "/providers/Microsoft.ContainerService/locations/eastus/operations/op1"
)

// binding is a body as PS-REC recorded it (spec/trusted-access.md 1.3).
func binding(state string) string {
	return `{"id": "` + clusterID + `/trustedAccessRoleBindings/b1",
 "name": "b1", "type": "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings",
 "properties": {
  "provisioningState": "` + state + `",
  "sourceResourceId": "` + sourceID + `",
  "roles": ["` + roleName + `"]}}`
}

func parse(t *testing.T, s string) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func bindingID(t *testing.T) access.ResourceID {
	t.Helper()
	id, err := client.BindingID(parse(t, clusterID), "b1")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// direct serves a request in the caller's goroutine, so that the whole exchange
// can be inside a synctest bubble.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

func newClient(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		Server: "https://arm.test",
		Token:  func(context.Context) (string, error) { return "tok", nil },
		HTTP:   &http.Client{Transport: direct{h}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewRefuses(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for name, cfg := range map[string]client.Config{
		"plain http":  {Server: "http://127.0.0.1", Token: token},
		"no scheme":   {Server: "127.0.0.1:8443", Token: token},
		"a path":      {Server: "https://h/k8s", Token: token},
		"credentials": {Server: "https://u:p@h", Token: token},
		"no token":    {Server: "https://h"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.New(cfg); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("err = %v, want ErrInvalid", err)
			}
		})
	}
}

func TestRequestsOverTLS(t *testing.T) {
	var seen *http.Request
	var seenBody string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen, seenBody = r, string(b)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, binding("Succeeded"))
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := client.New(client.Config{
		Server: srv.URL, RootCAs: roots,
		Token: func(context.Context) (string, error) { return "tok", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	b, p, err := c.PutRoleBinding(t.Context(), bindingID(t), client.RoleBindingProperties{
		ProvisioningState: access.Failed, SourceResourceID: parse(t, sourceID), Roles: []string{roleName},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Done() || p.Wait(t.Context(), nil) != nil {
		t.Error("a body with Succeeded and no operation is the end")
	}
	if got := seen.URL.String(); got != clusterID+"/trustedAccessRoleBindings/b1?api-version=2025-10-01" {
		t.Errorf("url = %s", got)
	}
	if got := seen.Header.Get("Authorization"); got != "Bearer tok" {
		t.Errorf("authorization = %q", got)
	}
	if want := `{"properties":{"sourceResourceId":"` + sourceID + `","roles":["` + roleName + `"]}}`; seenBody != want {
		t.Errorf("body = %s, want %s", seenBody, want)
	}
	if string(b.Raw) != binding("Succeeded") || b.Properties.SourceResourceID.String() != sourceID {
		t.Errorf("the body must be kept as written, got %s", b.Raw)
	}

	untrusting, err := client.New(client.Config{
		Server: srv.URL, RootCAs: x509.NewCertPool(),
		Token: func(context.Context) (string, error) { return "tok", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.ErrorLog = nil
	var verify *tls.CertificateVerificationError
	if _, err := untrusting.Subscriptions(t.Context()); !errors.As(err, &verify) || !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("err = %v, want a certificate error", err)
	}
}

func TestErrors(t *testing.T) {
	const notFound = "Could not find the trusted access role binding testbinding in subscription: s, resourceGroup: rg, clusterName: c."
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   client.Error
		kind   error
	}{
		{
			"bare", 404, http.Header{"X-Ms-Request-Id": {"r1"}},
			`{"code": "NotFound", "message": "` + notFound + `", "subcode": "GetTrustedAccessRoleBinding_NotFound"}`,
			client.Error{Status: 404, Code: "NotFound", Message: notFound, Subcode: "GetTrustedAccessRoleBinding_NotFound", RequestID: "r1"}, access.ErrNotFound,
		},
		{
			"wrapped", 404, nil, `{"error": {"code": "ResourceNotFound", "message": "m"}}`,
			client.Error{Status: 404, Code: "ResourceNotFound", Message: "m"}, access.ErrNotFound,
		},
		{
			"oauth", 400, nil, `{"error":"invalid_client","error_description":"AADSTS7000215"}`,
			client.Error{Status: 400, Code: "invalid_client", Message: "AADSTS7000215"}, access.ErrInvalid,
		},
		{"header only", 403, http.Header{"X-Ms-Error-Code": {"AuthorizationFailed"}}, ``, client.Error{Status: 403, Code: "AuthorizationFailed"}, access.ErrForbidden},
		{"html", 502, http.Header{"Content-Type": {"text/html"}}, `<h1>`, client.Error{Status: 502}, access.ErrUnavailable},
		{"text", 500, nil, "boom\n", client.Error{Status: 500, Message: "boom"}, nil},
		{"401", 401, nil, `{}`, client.Error{Status: 401, Message: "{}"}, access.ErrUnauthenticated},
		{"conflict", 409, nil, `{"error":{"code":"Conflict","message":"m"}}`, client.Error{Status: 409, Code: "Conflict", Message: "m"}, access.ErrConflict},
		{"redirect", 302, http.Header{"Location": {"https://evil.test/"}}, ``, client.Error{Status: 302}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Host != "arm.test" {
					t.Errorf("request to %s", r.URL.Host)
				}
				for k, v := range tt.header {
					w.Header()[k] = v
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			_, err := c.RoleBinding(t.Context(), bindingID(t))
			var got *client.Error
			if !errors.As(err, &got) || *got != tt.want {
				t.Fatalf("err = %#v, want %#v", err, &tt.want)
			}
			if kind := errors.Unwrap(got); kind != tt.kind {
				t.Errorf("kind = %v, want %v", kind, tt.kind)
			}
		})
	}
}

func TestListFollowsPagesOnTheConfiguredServerOnly(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "arm.test" {
			t.Errorf("token sent to %s", r.URL.Host)
		}
		if r.URL.Query().Get("$skipToken") == "" {
			fmt.Fprintf(w, `{"value":[%s],"nextLink":"https://evil.test%s?api-version=x&$skipToken=2"}`, binding("Succeeded"), r.URL.Path)
			return
		}
		fmt.Fprintf(w, `{"value":[%s]}`, binding("Updating"))
	})
	all, err := c.RoleBindings(t.Context(), parse(t, clusterID))
	if err != nil || len(all) != 2 || all[1].Properties.ProvisioningState != access.Updating {
		t.Fatalf("got %d bindings, err %v", len(all), err)
	}
}

func TestRetry(t *testing.T) {
	get := func(c *client.Client) error {
		_, err := c.Subscriptions(context.Background())
		return err
	}
	post := func(c *client.Client) error {
		id, err := access.ParseResourceID(clusterID)
		if err == nil {
			_, err = c.NewJoinToken(context.Background(), id, client.JoinTokenParameters{})
		}
		return err
	}
	for _, tt := range []struct {
		name     string
		call     func(*client.Client) error
		status   int
		after    string
		failures int
		calls    int
		took     time.Duration
		ok       bool
	}{
		{"503 with seconds", get, 503, "7", 1, 2, 7 * time.Second, true},
		{"429 without a hint", get, 429, "", 2, 3, 3 * time.Second, true},
		{"gives up", get, 503, "1", 99, 4, 3 * time.Second, false},
		{"too long a wait", get, 503, "3600", 99, 1, 0, false},
		{"not another status", get, 500, "1", 99, 1, 0, false},
		{"never a POST", post, 503, "1", 99, 1, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
					if calls++; calls <= tt.failures {
						if tt.after != "" {
							w.Header().Set("Retry-After", tt.after)
						}
						w.WriteHeader(tt.status)
						return
					}
					io.WriteString(w, `{"value":[]}`)
				})
				start := time.Now()
				err := tt.call(c)
				if calls != tt.calls || time.Since(start) != tt.took || (err == nil) != tt.ok {
					t.Errorf("calls %d after %s, err %v; want %d after %s", calls, time.Since(start), err, tt.calls, tt.took)
				}
			})
		})
	}
}

// TestOperation walks the recorded exchange of a create: 201 with Updating and
// Azure-AsyncOperation, then the operation, then nothing more.
func TestOperation(t *testing.T) {
	const (
		running   = `{"name":"op1","status":"InProgress","startTime":"2025-11-11T09:05:21.0119299Z"}`
		succeeded = `{"name":"op1","status":"Succeeded","startTime":"2025-11-11T09:05:21.0119299Z","endTime":"2025-11-11T09:11:37.1Z"}`
		failed    = `{"name":"op1","status":"Failed","error":{"code":"AgentNotConnected","message":"no agent"}}`
		bare      = `{"name":"op1","status":"Failed","code":"Other","message":"m"}`
		canceled  = `{"name":"op1","status":"Canceled","error":{"code":"Superseded","message":"by a later write"}}`
	)
	for _, tt := range []struct {
		name    string
		after   string // Retry-After of all replies
		polls   []string
		took    time.Duration
		message string
		kind    error
	}{
		{"Retry-After", "1", []string{running, running, running, running, running, running, succeeded}, 3550 * time.Millisecond, "", nil},
		{"default interval", "", []string{running, succeeded}, 150 * time.Millisecond, "", nil},
		{"failed", "1", []string{failed}, 50 * time.Millisecond, "operation Failed: AgentNotConnected: no agent (request op1)", access.ErrUnavailable},
		{"refused by the cluster", "1", []string{`{"status":"Failed","error":{"code":"RoleNotAllowed","message":"m"}}`}, 50 * time.Millisecond, "RoleNotAllowed", access.ErrForbidden},
		{"failed, bare", "1", []string{bare}, 50 * time.Millisecond, "operation Failed: Other: m (request op1)", nil},
		{"canceled", "1", []string{canceled}, 50 * time.Millisecond, "operation Canceled: Superseded: by a later write (request op1)", access.ErrConflict},
		{"bounded", "60", []string{running}, 30 * time.Minute, "still running after 30m0s", access.ErrUnavailable},
		{"bounded, never eager again", "10", []string{running}, 30 * time.Minute, "still running after 30m0s", access.ErrUnavailable},
		{"forgotten", "1", []string{"404"}, 50 * time.Millisecond, "status 404", access.ErrNotFound},
		{"outage", "1", []string{running, "503 0", "503 0", "503 0", "503 0", succeeded}, 350 * time.Millisecond, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				polls, progress := 0, 0
				c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
					if tt.after != "" {
						w.Header().Set("Retry-After", tt.after)
					}
					if r.Method == http.MethodPut {
						w.Header().Set("Azure-AsyncOperation", "https://management.azure.com"+opPath+"?api-version=2025-03-01&t=1")
						w.WriteHeader(http.StatusCreated)
						io.WriteString(w, binding("Updating"))
						return
					}
					if r.URL.String() != "https://arm.test"+opPath+"?api-version=2025-03-01&t=1" {
						t.Errorf("polled %s", r.URL)
					}
					body := tt.polls[min(polls, len(tt.polls)-1)]
					polls++
					switch body {
					case "404":
						w.WriteHeader(404)
					case "503 0":
						w.Header().Set("Retry-After", "0")
						w.WriteHeader(503)
					default:
						io.WriteString(w, body)
					}
				})
				start := time.Now()
				_, p, err := c.PutRoleBinding(t.Context(), bindingID(t), client.RoleBindingProperties{})
				if err != nil {
					t.Fatal(err)
				}
				err = p.Wait(t.Context(), func(client.Operation) { progress++ })
				if took := time.Since(start).Round(time.Millisecond); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				interval, err2 := strconv.Atoi(cmp.Or(tt.after, "10"))
				if most := 12 + int(tt.took.Seconds())/max(interval, 1); err2 != nil || polls > most {
					t.Errorf("%d polls in %s, want at most %d", polls, tt.took, most)
				}
				if tt.message == "" {
					if err != nil || progress == 0 {
						t.Errorf("err = %v, progress %d", err, progress)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.message) || tt.kind != nil && !errors.Is(err, tt.kind) {
					t.Errorf("err = %v, want %q of kind %v", err, tt.message, tt.kind)
				}
			})
		})
	}
}

func TestOperationWithoutHeaderReadsTheResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gets := 0
		c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			state := "Updating"
			if r.Method == http.MethodGet {
				if gets++; gets == 2 {
					state = "Succeeded"
				}
			}
			io.WriteString(w, binding(state))
		})
		_, p, err := c.PutRoleBinding(t.Context(), bindingID(t), client.RoleBindingProperties{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context(), nil); err != nil || gets != 2 {
			t.Errorf("err = %v after %d reads", err, gets)
		}
	})
}

func TestDelete(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  func(http.ResponseWriter)
		existed bool
		polls   int
		kind    error
	}{
		{"missing", func(w http.ResponseWriter) { w.WriteHeader(204) }, false, 0, nil},
		{"accepted", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://management.azure.com"+opPath+"/result")
			w.Header().Set("Azure-AsyncOperation", "https://management.azure.com"+opPath)
			w.WriteHeader(202)
		}, true, 1, nil},
		{"accepted, Location only", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://management.azure.com"+opPath+"/result")
			w.WriteHeader(202)
		}, true, 1, nil},
		{"accepted without anything", func(w http.ResponseWriter) { w.WriteHeader(202) }, true, 0, access.ErrUnavailable},
		{"done", func(w http.ResponseWriter) { io.WriteString(w, binding("Deleting")) }, true, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				polls := 0
				c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.Method == http.MethodDelete:
						tt.answer(w)
					case strings.HasSuffix(r.URL.Path, "/result"):
						polls++
						w.WriteHeader(204)
					default:
						polls++
						io.WriteString(w, `{"name":"op1","status":"Succeeded"}`)
					}
				})
				existed, p, err := c.DeleteRoleBinding(t.Context(), bindingID(t))
				if err == nil {
					err = p.Wait(t.Context(), nil)
				}
				if existed != tt.existed || polls != tt.polls || !errors.Is(err, tt.kind) {
					t.Errorf("existed %v, polls %d, err %v; want %v, %d, %v", existed, polls, err, tt.existed, tt.polls, tt.kind)
				}
			})
		})
	}
}

func TestReplyIsBounded(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 8<<20+1))
	})
	if _, err := c.Subscriptions(t.Context()); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("err = %v, want ErrUnavailable", err)
	}
}

func TestExtensions(t *testing.T) {
	const prefix = "/providers/Sallyport.Gateway/"
	answers := map[string]string{
		"POST " + clusterID + prefix + "agents/default/joinToken":                        `{"token":"spj1.x","expiresOn":"2026-01-02T03:04:05Z"}`,
		"GET " + clusterID + prefix + "agents/default":                                   `{"connected":true,"since":"2026-01-02T03:04:05Z","reconciler":{"connected":false},"proxy":{"connected":true,"since":"2026-01-02T03:04:05Z"},"generation":2,"gatewayAddress":"gw:1","caHash":"sha256:x"}`,
		"GET " + clusterID + "/trustedAccessRoleBindings/b1" + prefix + "status/default": `{"properties":{"state":"Applied","generation":3,"appliedGeneration":3,"appliedAt":"2026-01-02T03:04:05Z","tookMs":120}}`,
		"GET " + clusterID + prefix + "status/default":                                   `{"properties":{"agent":{"connected":true,"generation":2},"accessPolicy":{"locked":true},"bindings":[{"name":"b1","status":{"state":"InForce","tookMs":7},"accessPolicy":{"lockReason":"r"}}]}}`,
		"POST " + sourceID + prefix + "managedIdentities/default/listCredentials":        `{"identityEndpoint":"http://127.0.0.1:1/msi/token","identityHeader":"h"}`,
		"PUT " + sourceID: `{"id":"` + sourceID + `","identity":{"type":"SystemAssigned","principalId":"p"}}`,
		"GET /subscriptions/" + sub + "/providers/Microsoft.ContainerService/locations/eastus/trustedAccessRoles": `{"value":[{"sourceResourceType":"A/b","name":"r","rules":[{"verbs":["get"]}]}]}`,
	}
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.Method+" "+r.URL.Path]
		if !ok || r.URL.Query().Get("api-version") == "" {
			t.Errorf("unexpected %s %s", r.Method, r.URL)
		}
		if sent, _ := io.ReadAll(r.Body); strings.HasSuffix(r.URL.Path, "/joinToken") && string(sent) != `{"reset":true}` {
			t.Errorf("join token asked with %s", sent)
		}
		io.WriteString(w, body)
	})
	ctx, cluster, source := t.Context(), parse(t, clusterID), parse(t, sourceID)
	if tok, err := c.NewJoinToken(ctx, cluster, client.JoinTokenParameters{Reset: true}); err != nil || tok.Token != "spj1.x" || tok.Expires.Year() != 2026 {
		t.Errorf("join token %+v, %v", tok, err)
	}
	if s, err := c.AgentStatus(ctx, cluster); err != nil || !s.Properties.Connected || s.Properties.Generation != 2 || s.Properties.GatewayAddress != "gw:1" || s.Properties.CAHash != "sha256:x" {
		t.Errorf("agent %+v, %v", s, err)
	}
	if s, err := c.AgentStatus(ctx, cluster); err != nil || s.Properties.Reconciler != (client.AgentLink{}) || !s.Properties.Proxy.Connected || s.Properties.Proxy.Since.Year() != 2026 {
		t.Errorf("agent's halves %+v, %v", s, err)
	}
	if s, err := c.BindingStatus(ctx, bindingID(t)); err != nil || s.Properties.TookMs != 120 {
		t.Errorf("status %+v, %v", s, err)
	}
	if s, err := c.ClusterStatus(ctx, cluster); err != nil || !s.Properties.Agent.Connected || !s.Properties.Policy.Locked || s.Properties.Bindings[0].Name != "b1" ||
		s.Properties.Bindings[0].Status.TookMs != 7 || s.Properties.Bindings[0].Policy.LockReason != "r" {
		t.Errorf("cluster status %+v, %v", s, err)
	}
	if cr, err := c.IdentityCredentials(ctx, source); err != nil || cr.Header != "h" {
		t.Errorf("credentials %+v, %v", cr, err)
	}
	if r, p, err := c.PutResource(ctx, source, "eastus"); err != nil || !p.Done() || r.Identity.PrincipalID != "p" {
		t.Errorf("resource %+v, %v", r, err)
	}
	if r, err := c.Roles(ctx, parse(t, "/subscriptions/"+sub), "eastus"); err != nil || len(r) != 1 || r[0].QualifiedName() != "A/b/r" {
		t.Errorf("roles %+v, %v", r, err)
	}
	if _, err := c.Roles(ctx, parse(t, "/subscriptions/"+sub), "../.."); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("err = %v, want ErrInvalid", err)
	}
}

func TestResourceID(t *testing.T) {
	for _, tt := range []struct{ group, typ, name, want string }{
		{"g", "A.B/c", "n", "/subscriptions/" + sub + "/resourceGroups/g/providers/A.B/c/n"},
		{"", "Microsoft.Security/pricings/securityOperators", "CloudPosture/Op", "/subscriptions/" + sub + "/providers/Microsoft.Security/pricings/CloudPosture/securityOperators/Op"},
		{"g", "A.B", "n", ""},
		{"g", "A.B/c/d", "n", ""},
		{"g", "A.B/c", "..", ""},
		{"g", "A.B/c", "n/m", ""},
	} {
		id, err := client.ResourceID(sub, tt.group, tt.typ, tt.name)
		if id.String() != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s %s: %q, %v", tt.typ, tt.name, id, err)
		}
	}
}
