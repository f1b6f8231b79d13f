package controlplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// TestLimitRace: of 20 that come at once, exactly 8 get a place.
func TestLimitRace(t *testing.T) {
	f := newFixture(t, nil)
	statuses := make(chan int, 20)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			resp := f.do("owner", "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/b%d%s", cluster, i, version), consentV)
			statuses <- resp.StatusCode
		})
	}
	wg.Wait()
	close(statuses)
	count := map[int]int{}
	for s := range statuses {
		count[s]++
	}
	if count[201] != 8 || count[400] != 12 {
		t.Errorf("statuses: %v, want 8 of 201 and 12 of 400", count)
	}
	v, _ := f.want(200, "GET", cluster+"/trustedAccessRoleBindings"+version, "")
	if n := len(v["value"].([]any)); n != 8 {
		t.Errorf("%d bindings, want 8", n)
	}
	v, _ = f.want(400, "PUT", cluster+"/trustedAccessRoleBindings/ninth"+version, consentV)
	if v["code"] != "QuotaExceeded" || !strings.Contains(v["message"].(string), "the most it can have is 8") {
		t.Errorf("the ninth: %v", v)
	}
}

// TestSameNameRace: of 10 that create one name at once, one creates and the
// others update; all but the last operation are canceled.
func TestSameNameRace(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if resp := f.do("owner", "PUT", binding+version, consentV); resp.StatusCode != 201 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
	item, err := f.store.Bindings.Get(t.Context(), binding)
	must(t, err)
	if item.Value.Generation != 10 {
		t.Errorf("generation %d, want 10", item.Value.Generation)
	}
	pending, _, err := f.store.Pending.List(t.Context(), "")
	must(t, err)
	if len(pending) != 1 || pending[0].Value.ID != item.Value.Operation {
		t.Errorf("pending %v, want only %s", pending, item.Value.Operation)
	}
}

// TestAudit: each decision is recorded before it is done, and what cannot be
// recorded is not done (checklist item 40).
func TestAudit(t *testing.T) {
	f := newFixture(t, nil)
	_, header := f.want(201, "PUT", binding+version, consentV)
	allowed := f.auditOf(func(r audit.Record) bool { return *r.Allowed })
	if len(allowed) != 1 {
		t.Fatalf("records: %+v", allowed)
	}
	r := allowed[0]
	detail, err := json.Marshal(r.Detail)
	must(t, err)
	if r.Stage != audit.Consent || r.ID != header.Get("x-ms-request-id") || r.ObjectID != callers()["owner"].ObjectID || r.TenantID != tenantID ||
		r.Cluster != cluster || r.Binding != "b1" || r.Method != "PUT" || r.Path != binding ||
		r.Action != "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write" ||
		!bytes.Contains(detail, []byte(`"source":"`+vault+`"`)) {
		t.Errorf("record: %+v %s", r, detail)
	}
	f.do("source", "DELETE", binding+version, "")
	f.do("owner", "PUT", binding+version, `{}`)
	f.do("owner", "GET", binding+version, "")
	refused := f.auditOf(func(r audit.Record) bool { return !*r.Allowed })
	if len(refused) != 2 || refused[0].Status != 403 || refused[0].Source == "" || refused[1].Status != 400 || !strings.Contains(refused[1].Reason, "properties") {
		t.Errorf("refusals: %+v", refused)
	}

	f.mu.Lock()
	f.noAudit = true
	f.mu.Unlock()
	for _, c := range []struct{ method, url, body string }{
		{"PUT", binding + version, consentV},
		{"DELETE", binding + version, ""},
		{"DELETE", cluster + version, ""},
		{"PUT", cluster + version, `{"location":"eastus","tags":{"a":"b"}}`},
		{"PUT", sub + "/resourceGroups/new" + version, `{"location":"eastus"}`},
		{"DELETE", sub + "/resourceGroups/RG" + version, ""},
		{"PUT", vault + version, `{}`},
		{"POST", cluster + "/providers/Sallyport.Gateway/agents/default/joinToken" + version, ""},
	} {
		resp := f.do("owner", c.method, c.url, c.body)
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || bytes.Contains(text, []byte("disk full")) || bytes.Contains(text, []byte("join-canary")) {
			t.Errorf("%s %s: %d %s", c.method, c.url, resp.StatusCode, text)
		}
	}
	item, err := f.store.Bindings.Get(t.Context(), binding)
	must(t, err)
	if item.Value.Generation != 1 {
		t.Errorf("written without a record: %+v", item.Value)
	}
}

// TestItem39NoSecretIsLogged: one line for each request, and no secret in any (item 39).
func TestItem39NoSecretIsLogged(t *testing.T) {
	unserved := 0
	f := newFixture(t, func(c *controlplane.Config) { c.Unserved = func(*http.Request) { unserved++ } })
	f.do("forged-canary", "PUT", binding+version, consentV)
	f.do("owner", "PUT", cluster+version, `{"location":"eastus","properties":{"adminPassword":"body-canary"}}`)
	f.want(200, "POST", cluster+"/providers/Sallyport.Gateway/agents/default/joinToken"+version+"&secret=query-canary", "")
	f.do("owner", "GET", sub+"/unknown/route/x"+version, "")
	log := f.log.String()
	if strings.Contains(log, "canary") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
	if n := strings.Count(log, "/unknown/route/x"); n != 1 || unserved != 1 {
		t.Errorf("%d lines on the unknown route, and told of %d, want 1 and 1:\n%s", n, unserved, log)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := fmt.Sprintf("%+v", f.records); strings.Contains(text, "canary") {
		t.Errorf("a secret is in the audit log: %s", text)
	}
	item, err := f.store.Clusters.Get(t.Context(), cluster)
	must(t, err)
	if bytes.Contains(item.Value.Document, []byte("canary")) {
		t.Errorf("a secret is in the store: %s", item.Value.Document)
	}
}

// TestAuditOwners: who became an owner, and who is none any more, is recorded.
func TestAuditOwners(t *testing.T) {
	f := newFixture(t, nil)
	const other = `{"tenantId":"` + tenantID + `","objectId":"00000000-0000-0000-0000-0000000000DD"}`
	self := `{"tenantId":"` + tenantID + `","objectId":"` + callers()["owner"].ObjectID + `"}`
	for _, c := range []struct{ body, want string }{
		{`{"properties":{"displayName":"New"}}`, `null`},
		{`{"properties":{"owners":[` + other + `]}}`, `{"ownersAdded":[` + other + `]}`},
		{`{"properties":{"owners":[` + self + "," + strings.Replace(other, "DD", "dd", 1) + `]}}`, `null`},
		{`{"properties":{"owners":[` + self + `]}}`, `{"ownersRemoved":[` + other + `]}`},
	} {
		f.want(200, "PUT", sub+version, c.body)
		records := f.auditOf(func(audit.Record) bool { return true })
		detail, err := json.Marshal(records[len(records)-1].Detail)
		must(t, err)
		if string(detail) != c.want {
			t.Errorf("%s: detail %s, want %s", c.body, detail, c.want)
		}
	}
}

// TestLongMethod: HTTP sets no bound on a method's length, our lines do.
func TestLongMethod(t *testing.T) {
	f := newFixture(t, nil)
	f.do("owner", strings.Repeat("M", 5000), binding+version, "")
	r := httptest.NewRequestWithContext(t.Context(), strings.Repeat("M", 5000), "/v1/report", nil)
	f.cp.FeedHandler().ServeHTTP(httptest.NewRecorder(), r)
	records := f.auditOf(func(audit.Record) bool { return true })
	if len(records) != 1 {
		t.Fatalf("%d records, want 1", len(records))
	}
	for _, text := range []string{records[0].Method, records[0].Action, records[0].Reason, f.log.String()} {
		if strings.Contains(text, strings.Repeat("M", 21)) {
			t.Errorf("not cut: %s", text)
		}
	}
}

// TestUnauthenticated: ARM's five codes, and what is told.
func TestUnauthenticated(t *testing.T) {
	f := newFixture(t, nil)
	for _, c := range []struct {
		authorization []string
		code, message string
	}{
		{nil, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."},
		{[]string{"Bearer owner", "Bearer owner"}, "AuthenticationFailed", "2 'Authorization' headers"},
		{[]string{"Basic b3duZXI6"}, "AuthenticationFailed", "must be 'Bearer' and a token"},
		{[]string{"Bearer "}, "AuthenticationFailed", "must be 'Bearer' and a token"},
		{[]string{"Bearer expired"}, "ExpiredAuthenticationToken", "expired at noon"},
		{[]string{"Bearer forged"}, "InvalidAuthenticationToken", "The access token is invalid."},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", sub+version, nil)
		r.Header["Authorization"] = c.authorization
		w := httptest.NewRecorder()
		f.cp.ServeHTTP(w, r)
		var body map[string]any
		must(t, json.Unmarshal(w.Body.Bytes(), &body))
		message, _ := at(body, "error.message").(string)
		if w.Code != 401 || at(body, "error.code") != c.code || !strings.Contains(message, c.message) ||
			!strings.HasPrefix(w.Header().Get("WWW-Authenticate"), `Bearer authorization_uri="https://login.windows.net/`+tenantID+`"`) {
			t.Errorf("%q: %d %s %v", c.authorization, w.Code, w.Body, w.Header())
		}
	}
	if !strings.Contains(f.log.String(), "unknown token") {
		t.Error("why a token was refused is not in the log")
	}
}

// TestSettled: a delete ends when the gateway has seen it, even if that takes
// longer than the request.
func TestSettled(t *testing.T) {
	var mu sync.Mutex
	blocked := true
	seen := int64(0)
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.Settled = func(_ context.Context, revision int64) error {
			mu.Lock()
			defer mu.Unlock()
			if blocked {
				return errors.New("not yet")
			}
			seen = revision
			return nil
		}
	})
	f.want(201, "PUT", binding+version, consentV)
	_, header := f.want(202, "DELETE", binding+version, "")
	if op := f.operation(header); op["status"] != "InProgress" {
		t.Errorf("operation before the gateway has seen it: %v", op)
	}
	result := strings.TrimPrefix(header.Get("Location"), "https://arm.test:8443")
	if _, h := f.want(202, "GET", result, ""); h.Get("Retry-After") != "1" || h.Get("Location") == "" {
		t.Errorf("result while it runs: %v", h)
	}
	f.want(404, "GET", binding+version, "") // the binding is gone at once
	mu.Lock()
	blocked = false
	mu.Unlock()
	if op := f.awaitOperation(header); op["status"] != "Succeeded" {
		t.Errorf("operation: %v", op)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen == 0 {
		t.Error("Settled was not asked with a revision")
	}
}

// TestRequireKnownSources: the setting that refuses sources of the real cloud.
func TestRequireKnownSources(t *testing.T) {
	f := newFixture(t, func(cfg *controlplane.Config) { cfg.RequireKnownSources = true })
	v, _ := f.want(400, "PUT", binding+version, consentV)
	if !strings.Contains(v["message"].(string), "does not exist") {
		t.Errorf("answer: %v", v)
	}
	f.want(201, "PUT", vault+version, `{"identity":{"type":"SystemAssigned"}}`)
	f.want(201, "PUT", binding+version, consentV)
}

// TestNew: a faulty configuration is refused by name.
func TestNew(t *testing.T) {
	s := storetest.New(t)
	good := func() controlplane.Config {
		return controlplane.Config{
			Store: s,
			Authenticate: func(context.Context, string) (access.Principal, error) {
				return access.Principal{}, access.ErrUnauthenticated
			},
			Peer:  func(*http.Request) (controlplane.Peer, error) { return controlplane.Peer{}, access.ErrUnauthenticated },
			Audit: func(audit.Record) error { return nil },
		}
	}
	for _, c := range []struct {
		want  string
		spoil func(*controlplane.Config)
	}{
		{"", func(*controlplane.Config) {}},
		{"Store", func(c *controlplane.Config) { c.Store = nil }},
		{"Authenticate", func(c *controlplane.Config) { c.Authenticate = nil }},
		{"Peer", func(c *controlplane.Config) { c.Peer = nil }},
		{"Audit", func(c *controlplane.Config) { c.Audit = nil }},
		{"BindingLimit", func(c *controlplane.Config) { c.BindingLimit = 41 }},
		{"role name", func(c *controlplane.Config) { c.Catalogue = []access.Role{{SourceResourceType: "A/b", Name: "x:y"}} }},
	} {
		cfg := good()
		c.spoil(&cfg)
		_, err := controlplane.New(cfg)
		if (err != nil) != (c.want != "") || err != nil && (!errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
}

// TestBareConfig: what is not configured is not served.
func TestBareConfig(t *testing.T) {
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.Enrol, cfg.IssueJoinToken, cfg.IdentityHeader, cfg.Catalogue = nil, nil, nil, nil
	})
	f.want(201, "PUT", vault+version, `{"identity":{"type":"SystemAssigned"}}`)
	f.want(404, "POST", cluster+"/providers/Sallyport.Gateway/agents/default/enrol"+version, "")
	f.want(404, "POST", cluster+"/providers/Sallyport.Gateway/agents/default/joinToken"+version, "")
	f.want(404, "POST", vault+"/providers/Sallyport.Gateway/managedIdentities/default/listCredentials"+version, "")
	if v, _ := f.want(200, "GET", sub+"/providers/Microsoft.ContainerService/locations/eastus/trustedAccessRoles"+version, ""); fmt.Sprint(v["value"]) != "[]" {
		t.Errorf("roles: %v", v)
	}
}

// TestDeleteLargeCluster: a cluster full of pending bindings goes in one
// transaction.
func TestDeleteLargeCluster(t *testing.T) {
	f := newFixture(t, func(cfg *controlplane.Config) { cfg.BindingLimit = 40 })
	f.enrolled(1)
	for i := range 40 {
		f.want(201, "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/b%d%s", cluster, i, version), consentV)
	}
	f.want(202, "DELETE", cluster+version, "")
	bindings, _, err := f.store.Bindings.List(t.Context(), "")
	must(t, err)
	pending, _, err := f.store.Pending.List(t.Context(), "")
	must(t, err)
	if len(bindings)+len(pending) > 0 {
		t.Errorf("left: %d bindings, %d pending", len(bindings), len(pending))
	}
}

// FuzzPutBinding: no body makes the server fail or writes something that does
// not hold what was consented to.
func FuzzPutBinding(f *testing.F) {
	for _, seed := range []string{consentV, `{}`, `{"properties":null}`, `[]`, `{"properties":{"roles":[null]}}`, `{"properties":{"roles":["a"],"ROLES":[]}}`, "\x00", `{"properties":{"sourceResourceId":"//"}}`} {
		f.Add(seed)
	}
	var fx *fixture
	f.Fuzz(func(t *testing.T, body string) {
		if fx == nil || fx.t != t {
			fx = newFixture(t, nil)
		}
		resp := fx.do("owner", "PUT", binding+version, body)
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 || !json.Valid(text) {
			t.Fatalf("%q: %d %s", body, resp.StatusCode, text)
		}
		if resp.StatusCode != 201 {
			return
		}
		var sent, got struct{ Properties arm.RoleBindingProperties }
		must(t, json.Unmarshal([]byte(body), &sent))
		must(t, json.Unmarshal(text, &got))
		if sent.Properties.SourceResourceID != got.Properties.SourceResourceID || fmt.Sprint(sent.Properties.Roles) != fmt.Sprint(got.Properties.Roles) {
			t.Fatalf("%q was echoed as %s", body, text)
		}
	})
}
