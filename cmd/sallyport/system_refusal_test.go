package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
)

// forge makes a token that the server's own keys sign, for any identity and as
// of any time.
func (s *system) forge(identity idp.Identity, now time.Time) string {
	s.t.Helper()
	keys, err := idp.OpenKeys(filepath.Join(s.dir, "keys"), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	provider, err := idp.New(idp.Config{
		BaseURL: func(*http.Request) string { return s.url }, Keys: keys,
		Directory: forgery{identity: identity}, Now: func() time.Time { return now },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	query := url.Values{"api-version": {idp.ManagedIdentityVersion}, "resource": {idp.DataPlaneAudience}}
	req := httptest.NewRequest(http.MethodGet, idp.ManagedIdentityPath+"?"+query.Encode(), nil)
	req.Header.Set("X-Identity-Header", keys.IdentityHeader(uuid.NewString()))
	answer := httptest.NewRecorder()
	provider.ManagedIdentity().ServeHTTP(answer, req)
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil || body.Token == "" {
		s.t.Fatalf("no token was forged: %d %v", answer.Code, err)
	}
	return body.Token
}

// TestSystemRefusals holds each refusal of the gateway to its status, its
// words and what a user of kubectl reads. No agent is connected: what is
// refused before the agent is asked says nothing of it.
func TestSystemRefusals(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	other := s.register("other")
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	good := ml.token(idp.DataPlaneAudience)
	op, err := (&cli{operatorFile: filepath.Join(s.dir, "operator.json")}).operator()
	if err != nil {
		t.Fatal(err)
	}
	identity := idp.Identity{ResourceID: mustParse(t, ml.id), TenantID: op.TenantID, ObjectID: uuid.NewString(), AppID: uuid.NewString()}
	assigned, foreign := identity, identity
	assigned.ResourceID = mustParse(t, "/subscriptions/"+op.SubscriptionID+"/resourceGroups/sallyport/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u")
	foreign.TenantID = uuid.NewString()

	for _, c := range []struct {
		name, cluster, token string
		code                 int
		says                 []string
	}{
		{"no token", cluster, "", 401, []string{"'Authorization' header is missing"}},
		{"garbage", cluster, "garbage", 401, []string{"not a signed JWT"}},
		{"a signature changed", cluster, good[:len(good)-8] + "AAAAAAAA", 401, []string{"Invalid token: "}},
		{"token for ARM", cluster, ml.token("https://management.azure.com/"), 401, []string{"https://management.azure.com/", idp.DataPlaneAudience}},
		{"the operator's token", cluster, s.operatorToken(), 401, []string{"https://management.azure.com", idp.DataPlaneAudience}},
		{"expired", cluster, s.forge(identity, time.Now().Add(-48*time.Hour)), 401, []string{"the token expired at "}},
		{"not valid yet", cluster, s.forge(identity, time.Now().Add(time.Hour)), 401, []string{"in the future"}},
		{"user-assigned identity", cluster, s.forge(assigned, time.Now()), 401, []string{"user-assigned identity"}},
		{"another tenant", cluster, s.forge(foreign, time.Now()), 401, []string{foreign.TenantID}},
		{"another object of that name", cluster, s.forge(identity, time.Now()), 403, []string{"was given to an earlier identity", identity.ObjectID}},
		{"no consent", other, good, 403, []string{"no trusted access role binding of cluster other names the source " + ml.id}},
		{"no such cluster", cluster + "x", good, 404, []string{"managedClusters/privatex is not registered here"}},
		{"no agent", cluster, good, 503, []string{"not put it in force"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := s.send(http.MethodGet, "/k8s"+c.cluster+"/api/v1/namespaces/default/services", c.token, "")
			if resp.StatusCode != c.code {
				t.Errorf("status %d, want %d", resp.StatusCode, c.code)
			}
			contains(t, "the body", body, c.says...)
			contains(t, "the body", body, `"kind":"Status"`)
			if id := resp.Header.Get("Audit-Id"); id == "" || !strings.Contains(body, id) {
				t.Errorf("Audit-Id %q is not in the message", id)
			}
			if retry := resp.Header.Get("Retry-After"); (retry == "1") != (c.code == 503) {
				t.Errorf("Retry-After %q", retry)
			}
			if strings.Contains(body, "eyJ") {
				t.Error("the body quotes a token")
			}
			if c.code == 503 {
				return // client-go would try ten times
			}
			_, err := s.gatewayClient(c.cluster, c.token).CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
			var status apierrors.APIStatus
			if !errors.As(err, &status) || int(status.Status().Code) != c.code {
				t.Errorf("client-go reads it as %v", err)
			}
		})
	}
}

// TestSystemSpoofs sends what tries to be more than the token says. All of it
// is refused before it is known that no agent is there.
func TestSystemSpoofs(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	token := ml.token(idp.DataPlaneAudience)
	const list = "/api/v1/namespaces/default/services"
	for _, c := range []struct {
		name, path string
		header     [2]string
		code       int
	}{
		{"impersonation", list, [2]string{"Impersonate-User", "admin"}, 403},
		{"impersonation of a group", list, [2]string{"impersonate-group", "system:masters"}, 403},
		{"a second token", list, [2]string{"Authorization", "Bearer " + token}, 401},
		{"an upgrade to HTTP/2", list, [2]string{"Upgrade", "h2c"}, 400},
		{"a dot segment", "/api/../apis", [2]string{}, 400},
		{"an encoded dot segment", "/api/%2e%2e/apis", [2]string{}, 400},
		{"an empty segment", "/api//v1", [2]string{}, 400},
		{"a NUL", "/api/%00", [2]string{}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/k8s"+cluster+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			if c.header[0] != "" {
				req.Header.Add(c.header[0], c.header[1])
			}
			if c.header[0] == "Upgrade" {
				req.Header.Set("Connection", "Upgrade")
			}
			transport := s.transport()
			defer transport.CloseIdleConnections()
			transport.ForceAttemptHTTP2 = false // the headers as they are
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.code {
				t.Errorf("status %d, want %d", resp.StatusCode, c.code)
			}
		})
	}
}

// TestSystemKubectlRefusals is what a person reads.
func TestSystemKubectlRefusals(t *testing.T) {
	s := newSystem(t)
	s.register("private")
	ml, stranger := s.source("ml"), s.source("stranger")
	s.bind("private", "ml", ml.id, mlworkload)
	for _, c := range []struct {
		name       string
		kubeconfig string
		args       []string
		says       []string
	}{
		{"no consent", stranger.kubeconfig("private"), []string{"get", "services"}, []string{"no trusted access role binding of cluster private names the source"}},
		{"no consent, raw", stranger.kubeconfig("private"), []string{"get", "--raw", "/version"}, []string{"Error from server (Forbidden)", "no trusted access role binding"}},
		// kubectl asks for discovery first, and of a 404 there shows words of its own.
		{"no such cluster", ml.kubeconfig("elsewhere"), []string{"get", "services"}, []string{"Error from server (NotFound)"}},
		{"no such cluster, raw", ml.kubeconfig("elsewhere"), []string{"get", "--raw", "/version"}, []string{"managedClusters/elsewhere is not registered here"}},
		// Retry-After has kubectl try ten times, a second apart, before it shows why.
		{"no agent", ml.kubeconfig("private"), []string{"get", "--raw", "/version"}, []string{"Error from server (ServiceUnavailable)", "not put it in force"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := kubectl(t, c.kubeconfig, "", c.args...)
			if err == nil {
				t.Errorf("kubectl worked: %s", stdout)
			}
			contains(t, "kubectl", stderr, c.says...)
			t.Logf("%s", strings.TrimSpace(stderr))
		})
	}
}

// TestSystemSourcesDoNotConsent: a source's own token for ARM opens no write.
func TestSystemSourcesDoNotConsent(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	ml := s.source("ml")
	path := cluster + "/trustedAccessRoleBindings/mine?api-version=2025-10-01"
	body := `{"properties":{"sourceResourceId":"` + ml.id + `","roles":["` + mlworkload + `"]}}`
	for _, c := range []struct{ method, path, body string }{
		{http.MethodPut, path, body},
		{http.MethodDelete, path, ""},
		{http.MethodPost, cluster + "/providers/Sallyport.Gateway/agents/default/joinToken?api-version=2025-10-01", "{}"},
	} {
		resp, text := s.send(c.method, c.path, ml.token("https://management.azure.com/"), c.body)
		if c.method == http.MethodPost && resp.StatusCode == http.StatusNotFound {
			t.Errorf("%s is no route of the server's: %s", c.path, text)
		}
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "AuthorizationFailed") {
			t.Errorf("%s by the source: %d %s", c.method, resp.StatusCode, text)
		}
	}
	// And the data plane's token is not one for ARM.
	resp, text := s.send(http.MethodPut, path, ml.token(idp.DataPlaneAudience), body)
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, `"InvalidAuthenticationTokenAudience"`) {
		t.Errorf("a data-plane token on ARM: %d %s", resp.StatusCode, text)
	}
	if names := s.must("rolebinding", "list", "--cluster-name", "private"); strings.Contains(names, "mine") {
		t.Errorf("there is a binding: %s", names)
	}
}

// TestSystemIdentities: neither a source nor a binding inherits anything from
// an earlier one of its name.
func TestSystemIdentities(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	old := ml.client(cluster)
	if _, err := services(t, old); err != nil {
		t.Fatal(err)
	}

	s.must("resource", "delete", "--id", ml.id, "--yes")
	s.await("the last token of a deleted source is refused", func() bool {
		_, err := services(t, old)
		return apierrors.IsForbidden(err)
	})
	again := s.source("ml")
	if again.id != ml.id {
		t.Fatalf("the source is %s, want %s again", again.id, ml.id)
	}
	_, err := services(t, again.client(cluster))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `binding "ml" was given to an earlier identity of `+ml.id) {
		t.Errorf("a re-created source: %v", err)
	}
	if r := s.cli("token", "get", "--identity-file", ml.identity); r.code == exitOK {
		t.Error("the deleted identity still gets tokens")
	}

	uid := s.bindingUID("private", "ml")
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	s.bind("private", "ml", ml.id, mlworkload)
	if now := s.bindingUID("private", "ml"); now == uid {
		t.Errorf("the re-created binding has the uid of the old one, %s", uid)
	}
	if _, err := services(t, again.client(cluster)); err != nil {
		t.Errorf("the new identity after a new consent: %v", err)
	}
	_, err = services(t, old)
	if !apierrors.IsForbidden(err) {
		t.Errorf("the old identity after a new consent: %v", err)
	}
}

// bindingUID reads it from the status resource.
func (s *system) bindingUID(cluster, binding string) string {
	s.t.Helper()
	return s.status(cluster, binding)["uid"].(string)
}

// status reads a binding's status resource.
func (s *system) status(cluster, binding string) map[string]any {
	s.t.Helper()
	id := get[string](s, readID, "rolebinding", "show", "--cluster-name", cluster, "-n", binding)
	resp, text := s.send(http.MethodGet, id+"/providers/Sallyport.Gateway/status/default?api-version=2025-10-01", s.operatorToken(), "")
	var body struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("status of %s: %d %s", binding, resp.StatusCode, text)
	}
	return body.Properties
}

func mustParse(t *testing.T, id string) access.ResourceID {
	t.Helper()
	parsed, err := access.ParseResourceID(id)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
