package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// fakeARM answers with recorded shapes (spec/trusted-access.md 1.3, 2) and
// keeps a list of what it was asked. It decides nothing: the real server has
// its own tests.
type fakeARM struct {
	mu      sync.Mutex
	answers map[string]string // "METHOD path" -> "status body"
	calls   []string
	bodies  map[string]string
	server  *httptest.Server
	dir     string
}

// newFakeARM starts it and writes an operator file for it.
func newFakeARM(t *testing.T, answers map[string]string) *fakeARM {
	t.Helper()
	f := &fakeARM{answers: answers, bodies: map[string]string{}, dir: t.TempDir()}
	f.server = httptest.NewTLSServer(f)
	t.Cleanup(f.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	op, err := json.Marshal(operator{
		Server: f.server.URL, CAFile: "ca.crt", TenantID: testSubscription, ClientID: "app", ClientSecret: "canary", SubscriptionID: testSubscription, ResourceGroup: "rg",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"ca.crt": ca, "operator.json": op} {
		if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fakeARM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") {
		io.WriteString(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"tok"}`)
		return
	}
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	f.calls = append(f.calls, call)
	f.bodies[call] = string(body)
	// A second answer for the same call stands under a key with "+" for each
	// earlier call.
	key := call
	for _, c := range f.calls[:len(f.calls)-1] {
		if _, more := f.answers[key+"+"]; c == call && more {
			key += "+"
		}
	}
	status, reply, ok := strings.Cut(f.answers[key], " ")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"error":{"code":"ResourceNotFound","message":"no answer for `+call+`"}}`)
		return
	}
	if status == "201" || status == "202" {
		w.Header().Set("Azure-AsyncOperation", f.server.URL+"/op?api-version=2025-03-01")
	}
	w.Header().Set("Retry-After", "0")
	code := 0
	fmt.Sscan(status, &code)
	w.WriteHeader(code)
	io.WriteString(w, reply)
}

// run runs a command line against the fake.
func (f *fakeARM) run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, append(args, "--operator", filepath.Join(f.dir, "operator.json")), strings.NewReader(stdin), &out, &errs)
	if strings.Contains(out.String()+errs.String(), "canary") {
		t.Errorf("the secret was printed:\n%s%s", &out, &errs)
	}
	return code, out.String(), errs.String()
}

const (
	clusterStatusPath = testCluster + "/providers/Sallyport.Gateway/status/default"
	bindingPath       = testCluster + "/trustedAccessRoleBindings/b1"
	statusPath        = bindingPath + "/providers/Sallyport.Gateway/status/default"
	agentStatusPath   = testCluster + "/providers/Sallyport.Gateway/agents/default"
	bindingBody       = `{"id":"` + bindingPath + `","name":"b1","type":"Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings","properties":{"provisioningState":"Succeeded","sourceResourceId":"` + testSource + `","roles":["` + testRole + `"]},"unknown":1}`
	clusterBody       = `{"id":"` + testCluster + `","name":"prod","location":"eastus","properties":{"provisioningState":"Succeeded"}}`
	groupPath         = "/subscriptions/" + testSubscription + "/resourceGroups/rg"
	succeeded         = `200 {"name":"op","status":"Succeeded"}`
	notFound          = `404 {"code":"NotFound","message":"Could not find the trusted access role binding b1.","subcode":"GetTrustedAccessRoleBinding_NotFound"}`
)

func TestRoleBindingVerbs(t *testing.T) {
	create := []string{"rolebinding", "create", "-g", "rg", "--cluster-name", "prod", "-n", "b1", "-s", testSource, "-r", testRole}
	update := []string{"rolebinding", "update", "-g", "rg", "--cluster-name", "prod", "-n", "b1", "-r", testRole}
	remove := []string{"rolebinding", "delete", "-g", "rg", "--cluster-name", "prod", "-n", "b1"}
	for _, tt := range []struct {
		name    string
		args    []string
		stdin   string
		answers map[string]string
		code    int
		stdout  string
		stderr  []string
		calls   string
	}{
		{
			"create", create, "",
			map[string]string{
				"GET " + bindingPath: notFound, "GET " + bindingPath + "+": "200 " + bindingBody,
				"PUT " + bindingPath: "201 " + bindingBody, "GET /op": `200 {"name":"op","status":"InProgress"}`, "GET /op+": succeeded,
				"GET " + statusPath: `200 {"properties":{"state":"InForce","generation":1,"appliedGeneration":1,"tookMs":1250}}`,
			},
			0, "b1     Succeeded   " + testSource + "   " + testRole,
			[]string{"rolebinding b1: InProgress", "in force in the cluster after 1.25s"}, "GET PUT GET GET GET GET GET GET",
		},
		{
			"create, exists", create, "", map[string]string{"GET " + bindingPath: "200 " + bindingBody},
			5, "", []string{"error: TrustedAccess RoleBinding b1 already existed, please use 'az aks trustedaccess rolebinding update' command to update!\nhint: here that is 'sallyport rolebinding update'"}, "GET",
		},
		{
			"create, no wait", append(create[:len(create):len(create)], "--no-wait", "-o", "json"), "",
			map[string]string{"GET " + bindingPath: notFound, "PUT " + bindingPath: "201 " + bindingBody},
			0, `"unknown": 1`, nil, "GET PUT GET",
		},
		{
			"create, no agent", create, "",
			map[string]string{
				"GET " + bindingPath: notFound, "PUT " + bindingPath: "201 " + bindingBody,
				"GET /op": `200 {"name":"op","status":"Failed","error":{"code":"AgentNotConnected","message":"no agent"}}`,
			},
			6, "", []string{"error: operation Failed: AgentNotConnected: no agent (request op)", "hint: the binding is stored"}, "GET PUT GET",
		},
		{
			"create, above the ceiling", create, "",
			map[string]string{
				"GET " + bindingPath: notFound, "PUT " + bindingPath: "201 " + bindingBody,
				"GET /op": `200 {"name":"op","status":"Failed","error":{"code":"RoleNotAllowed","message":"m"}}`,
			},
			4, "", []string{"hint: install the agent again"}, "GET PUT GET",
		},
		{
			"create, role unknown there", create, "",
			map[string]string{"GET " + bindingPath: notFound, "PUT " + bindingPath: `400 {"code":"InvalidParameter","message":"The value of parameter properties.roles is invalid. Error details: non-exist role: x"}`},
			1, "", []string{"error: InvalidParameter: The value", "hint: 'sallyport role list"}, "GET PUT",
		},
		{
			"create, forbidden", create, "",
			map[string]string{"GET " + bindingPath: `403 {"error":{"code":"AuthorizationFailed","message":"no \u001b[31m"}}`},
			4, "", []string{"error: AuthorizationFailed: no ?[31m", "hint: a role assignment"}, "GET",
		},
		{
			"update", update, "",
			map[string]string{
				"GET " + bindingPath: "200 " + bindingBody, "PUT " + bindingPath: "201 " + bindingBody, "GET /op": succeeded,
				"GET " + statusPath: `200 {"properties":{"state":"NotConnected","generation":2,"waitingFor":"an agent to connect"}}`,
			},
			0, "Succeeded", []string{"stored, not in force in the cluster (NotConnected), waiting for an agent to connect"}, "GET PUT GET GET GET",
		},
		{
			"update, missing", update, "", map[string]string{"GET " + bindingPath: notFound},
			3, "", []string{"error: NotFound: Could not find", "hint: create it with"}, "GET",
		},
		{"delete", append(remove[:len(remove):len(remove)], "-y"), "", map[string]string{"DELETE " + bindingPath: "202 ", "GET /op": succeeded}, 0, "", []string{"rolebinding b1 deleted"}, "GET DELETE GET"},
		{"delete, another of the source", append(remove[:len(remove):len(remove)], "-y"), "", map[string]string{
			"GET " + bindingPath: "200 " + bindingBody, "DELETE " + bindingPath: "202 ", "GET /op": succeeded,
			"GET " + strings.TrimSuffix(bindingPath, "/b1"): `200 {"value":[` + strings.ReplaceAll(bindingBody, "/b1", "/b2") + `]}`,
		}, 0, "", []string{"rolebinding b1 deleted", "note: binding b2 still names the same source"}, "GET DELETE GET GET"},
		{"delete, asked", remove, "Y\n", map[string]string{"DELETE " + bindingPath: "202 ", "GET /op": succeeded}, 0, "", []string{"(y/n): rolebinding b1 deleted"}, "GET DELETE GET"},
		{"delete, missing", append(remove[:len(remove):len(remove)], "-y"), "", map[string]string{"DELETE " + bindingPath: "204 "}, 0, "", []string{"rolebinding b1 did not exist"}, "GET DELETE"},
		{
			"list", []string{"rolebinding", "list", "--cluster-name", "prod", "-o", "json"}, "",
			map[string]string{"GET " + testCluster + "/trustedAccessRoleBindings": `200 {"value":[` + bindingBody + `]}`},
			0, "{\n  \"value\": [\n    {\n      \"id\": \"" + bindingPath, nil, "GET",
		},
		{"list, none", []string{"rolebinding", "list", "--cluster-name", "prod", "-o", "yaml"}, "", map[string]string{"GET " + testCluster + "/trustedAccessRoleBindings": `200 {"value":[]}`}, 0, "value: []\n", nil, "GET"},
		{
			"show", []string{"rolebinding", "show", "--cluster-name", "prod", "-n", "b1"}, "",
			map[string]string{"GET " + bindingPath: "200 " + bindingBody, "GET " + statusPath: `200 {"properties":{"state":"Failed","generation":2,"appliedGeneration":1,"appliedAt":"2026-01-02T03:04:05Z","message":"role above the ceiling"}}`,
				"GET " + agentStatusPath: `200 {"properties":{"connected":true,"since":"2026-01-02T03:04:00Z","generation":1}}`},
			0, "b1", []string{
				"stored, not in force in the cluster (Failed): role above the ceiling; still in force is what was written before (generation 1, since 2026-01-02T03:04:05Z)",
				"agent: connected since 2026-01-02T03:04:00Z",
			}, "GET GET GET GET GET",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeARM(t, tt.answers)
			code, stdout, stderr := f.run(t, tt.stdin, tt.args...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || tt.stdout == "" && stdout != "" {
				t.Errorf("code %d, want %d; stdout:\n%swant %q; stderr:\n%s", code, tt.code, stdout, tt.stdout, stderr)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr)
				}
			}
			var methods []string
			for _, c := range f.calls {
				method, _, _ := strings.Cut(c, " ")
				methods = append(methods, method)
			}
			if got := strings.Join(methods, " "); got != tt.calls {
				t.Errorf("calls %q, want %q", f.calls, tt.calls)
			}
			if body, put := f.bodies["PUT "+bindingPath]; put && body != `{"properties":{"sourceResourceId":"`+testSource+`","roles":["`+testRole+`"]}}` {
				t.Errorf("PUT %s", body)
			}
		})
	}
}

func TestClusterVerbs(t *testing.T) {
	agent := agentStatusPath
	sub := "/subscriptions/" + testSubscription
	answers := map[string]string{
		"GET " + testCluster: `404 {"error":{"code":"ResourceNotFound","message":"m"}}`, "GET " + testCluster + "+": "200 " + clusterBody,
		"PUT " + sub: `200 {"id":"` + sub + `"}`, "PUT " + groupPath: `201 {"id":"` + groupPath + `","location":"eastus"}`,
		"PUT " + testCluster: "201 " + clusterBody, "GET /op": succeeded,
		"GET " + agent: `200 {"properties":{"connected":true,"since":"2026-01-02T03:04:05Z","generation":1}}`,
		"GET " + clusterStatusPath: `200 {"properties":{"agent":{"connected":true,"since":"2026-01-02T03:04:05Z","generation":1},"accessPolicy":{"locked":true,"lockReason":"4711"},"bindings":[
			{"name":"b1","status":{"state":"Waiting","generation":3,"appliedGeneration":2,"appliedAt":"2026-01-02T03:04:06Z","tookMs":1250,"waitingFor":"the agent"},"accessPolicy":{"locked":false}}]}}`,
		"POST " + agent + "/joinToken": `200 {"token":"sallyport-join-v1.x","expiresOn":"2026-01-02T03:04:05Z"}`,
	}
	f := newFakeARM(t, answers)
	code, stdout, stderr := f.run(t, "", "cluster", "register", "-g", "rg", "-n", "prod", "-l", "eastus", "--wait")
	if code != 0 || !strings.Contains(stdout, "prod   rg") ||
		!strings.Contains(stderr, "sallyport agent manifest -g rg -n prod --roles ROLE[,ROLE...] | kubectl apply -f -") ||
		!strings.Contains(stderr, "created subscription") || !strings.Contains(stderr, "agent connected (enrolment 1)") {
		t.Errorf("register: %d\n%s%s%q", code, stdout, stderr, f.calls)
	}
	if code, _, stderr := f.run(t, "", "cluster", "register", "-g", "rg", "-n", "prod", "-l", "eastus"); code != 5 || !strings.Contains(stderr, "hint: for another agent") {
		t.Errorf("register again: %d\n%s", code, stderr)
	}
	if code, stdout, stderr := f.run(t, "", "cluster", "show", "-n", "prod"); code != 0 || !strings.Contains(stdout, "connected since 2026-01-02T03:04:05Z   1") ||
		!strings.Contains(stdout, "b1        Waiting      generation 3   generation 2   2026-01-02T03:04:06Z   1.25s   waiting for the agent\n") || !strings.Contains(stderr, "cluster prod is LOCKED: 4711") {
		t.Errorf("show: %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := f.run(t, "", "cluster", "join-token", "-n", "prod"); code != 0 || stdout != "sallyport-join-v1.x\n" || !strings.Contains(stderr, "valid once, until 2026") {
		t.Errorf("join-token: %d\n%s%s", code, stdout, stderr)
	}
	for _, tt := range []struct {
		flags []string
		body  string
	}{{nil, `{}`}, {[]string{"--reset"}, `{"reset":true}`}} {
		f.run(t, "", append([]string{"cluster", "join-token", "-n", "prod"}, tt.flags...)...)
		if body := f.bodies["POST "+agent+"/joinToken"]; body != tt.body {
			t.Errorf("join-token %v sends %s, want %s", tt.flags, body, tt.body)
		}
	}
	empty := newFakeARM(t, nil)
	if code, _, stderr := empty.run(t, "", "cluster", "register", "-n", "prod"); code != 2 || !strings.Contains(stderr, "hint: name one with -l") {
		t.Errorf("register without a location: %d\n%s", code, stderr)
	}
}

func TestResourceCreateWritesIdentity(t *testing.T) {
	var identity *httptest.Server
	f := newFakeARM(t, map[string]string{
		"GET " + groupPath:  `200 {"id":"` + groupPath + `","location":"eastus"}`,
		"PUT " + testSource: `200 {"id":"` + testSource + `","identity":{"type":"SystemAssigned","principalId":"p-1","tenantId":"t"}}`,
	})
	claims := func(resource string) string {
		return "h." + encodeSegment(`{"xms_mirid":"`+resource+`"}`) + ".s"
	}
	identity = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-IDENTITY-HEADER") != "it's" {
			t.Errorf("header %q", r.Header.Get("X-IDENTITY-HEADER"))
		}
		fmt.Fprintf(w, `{"access_token":"%s","expires_on":"4102444800"}`, claims(strings.ToLower(testSource)))
	}))
	defer identity.Close()
	f.answers["POST "+testSource+"/providers/Sallyport.Gateway/managedIdentities/default/listCredentials"] =
		`200 {"identityEndpoint":"` + identity.URL + `/msi/token","identityHeader":"it's"}`

	file := filepath.Join(f.dir, "ws.identity")
	args := []string{"resource", "create", "-n", "ws", "--type", "Microsoft.MachineLearningServices/workspaces", "--identity-file", file}
	code, stdout, stderr := f.run(t, "", args...)
	if code != 0 || !strings.Contains(stdout, "p-1") || strings.Contains(stdout+stderr, "it's") {
		t.Fatalf("create: %d\n%s%s", code, stdout, stderr)
	}
	if got := f.bodies["PUT "+testSource]; got != `{"location":"eastus","identity":{"type":"SystemAssigned"}}` {
		t.Errorf("PUT %s", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: %v, %v", info.Mode(), err)
	}
	if code, _, _ := f.run(t, "", args...); code != exitConflict {
		t.Errorf("an existing identity file was replaced: %d", code)
	}
	if _, stdout, _ := f.run(t, "", "resource", "identity", "--id", testSource); !strings.Contains(stdout, `export IDENTITY_HEADER='it'\''s'`) {
		t.Errorf("identity: %s", stdout)
	}

	if code, stdout, stderr := f.run(t, "", "token", "get", "--identity-file", file); code != 0 || strings.Count(stdout, ".") != 2 {
		t.Errorf("token get: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = f.run(t, "", "token", "get", "--exec-credential", "--identity-file", file, "--resource-identity", testSource)
	want := `{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false},"status":{"expirationTimestamp":"2100-01-01T00:00:00Z","token":"` + claims(strings.ToLower(testSource)) + "\"}}\n"
	if code != 0 || stdout != want {
		t.Errorf("exec credential: %d\n%s%s", code, stdout, stderr)
	}
	t.Setenv("KUBERNETES_EXEC_INFO", `{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","spec":{}}`)
	if _, stdout, _ = f.run(t, "", "token", "get", "--exec-credential", "--identity-file", file); !strings.Contains(stdout, `"client.authentication.k8s.io/v1beta1"`) {
		t.Errorf("exec credential: %s", stdout)
	}
	if code, _, stderr := f.run(t, "", "token", "get", "--identity-file", file, "--resource-identity", testSource+"2"); code != 1 || !strings.Contains(stderr, "was expected") {
		t.Errorf("another's identity: %d\n%s", code, stderr)
	}
}

// TestKubeconfigHoldsTheCA checks the part that the script cannot: the CA of
// the operator file, and the mode.
func TestKubeconfigHoldsTheCA(t *testing.T) {
	f := newFakeARM(t, nil)
	file := filepath.Join(f.dir, "kube config")
	if code, _, stderr := f.run(t, "", "kubeconfig", "--cluster-name", "prod", "--resource", testSource, "-f", file); code != 0 || !strings.Contains(stderr, "--kubeconfig '"+file+"'") {
		t.Fatalf("%d\n%s", code, stderr)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Clusters []struct {
			Cluster struct {
				CA     []byte `json:"certificate-authority-data"`
				Server string `json:"server"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := yaml.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	ca, _ := os.ReadFile(filepath.Join(f.dir, "ca.crt"))
	if c := got.Clusters[0].Cluster; !bytes.Equal(c.CA, ca) || c.Server != f.server.URL+"/k8s"+testCluster {
		t.Errorf("%s", data)
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.RunE == nil && cmd.HasParent() {
			t.Errorf("%s: no short help, or nothing that runs", cmd.CommandPath())
		}
		if (cmd.HasParent() || !cmd.HasSubCommands()) && cmd.Example == "" {
			t.Errorf("%s: no example", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(newRootCommand(&cli{}))
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":             "''",
		"plain-1.x_/:": "plain-1.x_/:",
		"a b":          "'a b'",
		"it's":         `'it'\''s'`,
		"$(rm)":        "'$(rm)'",
		"a\nb":         "'a\nb'",
		"ü":            "'ü'",
		"~":            "'~'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func encodeSegment(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestAgentText(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	on := client.AgentLink{Connected: true, Since: since}
	for _, c := range []struct {
		agent client.AgentStatusProperties
		want  string
	}{
		{client.AgentStatusProperties{}, "not connected"},
		{client.AgentStatusProperties{Connected: true, Since: since, Reconciler: on, Proxy: on}, "connected since 2026-01-02T03:04:05Z"},
		{client.AgentStatusProperties{Reconciler: on}, "reconciler connected since 2026-01-02T03:04:05Z, proxy not connected"},
		{client.AgentStatusProperties{Proxy: on}, "reconciler not connected, proxy connected since 2026-01-02T03:04:05Z"},
	} {
		if got := agentText(c.agent); got != c.want {
			t.Errorf("%+v: %q, want %q", c.agent, got, c.want)
		}
	}
}

// TestShortRoles: bindings take the names that 'agent manifest --roles' takes.
func TestShortRoles(t *testing.T) {
	source, err := access.ParseResourceID("/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w")
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []access.ResourceID{source, {}} {
		got, err := checkRoles(of, []string{"MLworkload", "Microsoft.MachineLearningServices/workspaces/inference-v1"})
		if want := []string{mlworkload, inference}; err != nil || !slices.Equal(got, want) {
			t.Errorf("roles %q, %v; want %q", got, err, want)
		}
	}
	if _, err := checkRoles(source, []string{"backup-operator"}); err == nil {
		t.Error("a role of another type of source is taken")
	}
}

func TestPrintIDs(t *testing.T) {
	for body, want := range map[string]string{
		`{"id":"/a","name":"x"}`:              "/a\n",
		`{"value":[{"id":"/a"},{"id":"/b"}]}`: "/a\n/b\n",
		`{"value":[]}`:                        "",
		`{"token":"secret"}`:                  "error",
		`["x"]`:                               "error",
	} {
		var out bytes.Buffer
		c := &cli{format: formatID, stdout: &out}
		err := c.print(json.RawMessage(body))
		if got := out.String(); err != nil && want != "error" || err == nil && got != want {
			t.Errorf("%s gives %q, %v; want %q", body, got, err, want)
		}
	}
}

// TestRestoredAsItWas: where there is nothing to list, a sentence says so.
func TestRestoredAsItWas(t *testing.T) {
	var out, notes bytes.Buffer
	c := &cli{format: formatTable, stdout: &out, stderr: &notes}
	if err := c.printRestored(restoreOptions{DataDir: "new", KeepConsents: true}, restored{}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "restored in new; no cluster is locked and no consent was removed\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
