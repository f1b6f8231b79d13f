package arm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

const (
	sub     = "/subscriptions/11111111-1111-1111-1111-111111111111"
	cluster = sub + "/resourceGroups/RG/providers/Microsoft.ContainerService/managedClusters/C"
)

func id(t *testing.T, text string) access.ResourceID {
	t.Helper()
	parsed, err := access.ParseResourceID(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// parse reads a request target as net/http's server does.
func parse(t *testing.T, target string) (arm.Path, error) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	return arm.ParsePath(u)
}

// TestParsePath is checklist item 10.
func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // "" for refused
	}{
		{"/subscriptions", "subscriptions"},
		{"/subscriptions/", "subscriptions"},
		{"/SubScriptions/x/ResourceGroups/a.b_c-(d)", "SubScriptions|x|ResourceGroups|a.b_c-(d)"},
		{"//subscriptions", ""},
		{"/subscriptions//", ""},
		{"/a//b", ""},
		// A generic client's resource without a parent.
		{"/subscriptions/s/providers/N.S//t/n", "subscriptions|s|providers|N.S|t|n"},
		{"/subscriptions/s/providers/N.S///t/n", ""},
		{"/subscriptions/s/providers//t/n", ""},
		{"/subscriptions/s/providers/N.S//", ""},
		{"/subscriptions/s/providers/N.S//t/n//", ""},
		{"/subscriptions/s/providers/N.S/t//n", ""},
		{"/a/./b", ""},
		{"/a/../b", ""},
		{"/a/..", ""},
		{"/a/%2e%2e/b", ""},
		{"/a/%2E/b", ""},
		{"/a%2fb", ""},
		{"/a%5cb", ""},
		{"/a%00b", ""},
		{"/a%20b", ""},
		{"/%61", ""}, // a harmless letter, but two spellings of one path
		{`/a\b`, ""},
		{"/a;b", ""},
		{"/a:b", ""},
		{"/a*b", ""},
		{"/é", ""},
		{"/...", "..."},
		{"/" + strings.Repeat("a", 2048), ""},
	} {
		path, err := parse(t, c.in)
		if got := strings.Join(path, "|"); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: %q, %v, want %q", c.in, got, err, c.want)
		}
		if err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v is not ErrInvalid", c.in, err)
		}
	}
}

// FuzzParsePath: what parses is, byte for byte, what was sent, less one
// trailing slash and a parent left empty; and an id made of its segments parses as an id.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", cluster, "/a//b", "/%2e", "/a/../b", "/a/", "/?x=/../", `/\`, "*", "http://h/a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		path, err := arm.ParsePath(u)
		if err != nil {
			return
		}
		sent, _, _ := strings.Cut(target, "?")
		if u.Host != "" { // absolute form
			sent = u.EscapedPath()
		}
		sent = regexp.MustCompile(`(?i)^(.*?/providers/[^/]+)//([^/])`).ReplaceAllString(sent, "$1/$2") // withoutEmptyParent
		if got := path.String(); got != sent && got+"/" != sent && !(len(path) == 0 && sent == "/") {
			t.Errorf("%q parsed as %q", sent, got)
		}
		for _, s := range path {
			if _, err := access.ParseResourceID(sub + "/resourceGroups/" + s); err != nil && len(s) < 1900 {
				t.Errorf("segment %q: %v", s, err)
			}
		}
	})
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          string // the vars, "-" for no match
	}{
		{"/a/{x}", "/A/Xx", "map[x:Xx]"},
		{"/a/{x}", "/a", "-"},
		{"/a/{x}", "/a/b/c", "-"},
		{"/s/{s}/providers/{r:resource}", "/s/1/providers/N.S/t/n", "map[r:N.S/t/n s:1]"},
		{"/s/{s}/providers/{r:resource}", "/s/1/providers/N.S/t/n/u/m", "map[r:N.S/t/n/u/m s:1]"},
		{"/s/{s}/providers/{r:resource}", "/s/1/providers/N.S/t", "-"},
		{"/s/{s}/providers/{r:resource}", "/s/1/providers/N.S", "-"},
		{"/s/{s}/providers/{r:resource}", "/s/1/providers/N.S/t/n/providers/M", "-"},
		{"/s/{s}/providers/{r:collection}", "/s/1/providers/N.S/t", "map[r:N.S/t s:1]"},
		{"/s/{s}/providers/{r:collection}", "/s/1/providers/N.S/t/n", "-"},
		{"/s/{s}/providers/{r:resource}/end/now", "/s/1/providers/N.S/t/n/END/now", "map[r:N.S/t/n s:1]"},
		{"/s/{s}/providers/{r:resource}/end/now", "/s/1/providers/N.S/t/n", "-"},
	} {
		path, err := parse(t, c.path)
		if err != nil {
			t.Fatal(err)
		}
		p := arm.ParsePattern(c.pattern)
		vars, ok := p.Match(path)
		got := "-"
		if ok {
			got = fmt.Sprint(map[string]string(vars))
			if filled := p.Fill(vars).String(); !strings.EqualFold(filled, c.path) {
				t.Errorf("%s filled is %s", c.path, filled)
			}
		}
		if got != c.want {
			t.Errorf("%s on %s: %s, want %s", c.pattern, c.path, got, c.want)
		}
	}
}

func TestAction(t *testing.T) {
	for _, c := range []struct{ method, path, want string }{
		{"PUT", cluster + "/trustedAccessRoleBindings/b", "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write"},
		{"GET", cluster, "Microsoft.ContainerService/managedClusters/read"},
		{"GET", sub + "/providers/Microsoft.ContainerService/locations/x/trustedAccessRoles", "Microsoft.ContainerService/locations/trustedAccessRoles/read"},
		{"DELETE", sub + "/resourceGroups/g", "Microsoft.Resources/subscriptions/resourceGroups/delete"},
		{"POST", cluster + "/providers/Sallyport.Gateway/agents/default/joinToken", "Sallyport.Gateway/agents/joinToken/action"},
		{"PUT", sub, "Microsoft.Resources/subscriptions/write"},
		{"POST", sub + "/providers/N.S/register", "N.S/register/action"},
		{"POST", sub + "/providers/Microsoft.Features/providers/N.S/features/f/register", "Microsoft.Features/providers/features/register/action"},
		{"PATCH", sub + "/resourceGroups/g", "Microsoft.Resources/subscriptions/resourceGroups/write"},
	} {
		path, err := parse(t, c.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := path.Action(c.method); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.want)
		}
	}
}

// TestNamespace: who answers for a path is told by keywords, and not by what
// resources are called.
func TestNamespace(t *testing.T) {
	const aks = "Microsoft.ContainerService"
	for _, c := range []struct{ path, namespace, fullType string }{
		{sub, "Microsoft.Resources", "Microsoft.Resources/subscriptions"},
		{sub + "/providers", "Microsoft.Resources", "Microsoft.Resources/subscriptions/providers"},
		{sub + "/resourceGroups/providers", "Microsoft.Resources", "Microsoft.Resources/subscriptions/resourceGroups"},
		{sub + "/resourceGroups/providers/PROVIDERS/N.S/t/n", "N.S", "N.S/t"},
		{sub + "/providers/providers/t/n", "providers", "providers/t"},
		{cluster, aks, aks + "/managedClusters"},
		{cluster + "/providers/Sallyport.Gateway/agents/default", "Sallyport.Gateway", "Sallyport.Gateway/agents"},
		{sub + "/resourceGroups/g/providers/" + aks + "/managedClusters/providers/foo/bar", aks, aks + "/managedClusters/foo"},
		{sub + "/resourceGroups/g/providers/" + aks + "/managedClusters/Providers/trustedAccessRoleBindings/b", aks, aks + "/managedClusters/trustedAccessRoleBindings"},
		{sub + "/providers/" + aks + "/managedClusters/providers/foo/providers/x/y", aks, aks + "/managedClusters/foo/x"},
		{sub + "/providers/Microsoft.Features/providers/N.S/features/f", "Microsoft.Features", "Microsoft.Features/providers/features"},
		{sub + "/providers/Microsoft.Authorization/roleAssignments/providers/x/y", "Microsoft.Authorization", "Microsoft.Authorization/roleAssignments/x"},
	} {
		path, err := parse(t, c.path)
		if err != nil {
			t.Fatal(err)
		}
		if path.Namespace() != c.namespace || path.Type() != c.fullType {
			t.Errorf("%s: %s, %s, want %s, %s", c.path, path.Namespace(), path.Type(), c.namespace, c.fullType)
		}
	}
}

func TestCheckAPIVersion(t *testing.T) {
	for _, c := range []struct{ query, since, code string }{
		{"api-version=2022-04-02-preview", arm.FirstVersion, ""},
		{"API-Version=2025-10-01", arm.FirstVersion, ""},
		{"api-version=2031-01-01", arm.FirstVersion, ""},
		{"api-version=2022-04-01", arm.FirstVersion, "NoRegisteredProviderFound"},
		{"api-version=2016-03-30", "", ""},
		{"", "", "MissingApiVersionParameter"},
		{"api-version=", "", "MissingApiVersionParameter"},
		{"api-version=2025-02-30", "", "InvalidApiVersionParameter"},
		{"api-version=2025-10-01&api-version=2025-10-01", "", "InvalidApiVersionParameter"},
		{"api-version=2025-10-01&Api-Version=2020-10-01", "", "InvalidApiVersionParameter"},
		{"api-version=2025-10-01-preview-x", "", "InvalidApiVersionParameter"},
		{"api-version=2025-10-01%0a", "", "InvalidApiVersionParameter"},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = arm.CheckAPIVersion(query, c.since, "managedClusters", "eastus")
		var e *arm.Error
		if errors.As(err, &e); c.code == "" && err != nil || c.code != "" && (e == nil || e.Code != c.code || e.Status != 400) {
			t.Errorf("%q: %v, want %q", c.query, err, c.code)
		}
	}
}

// TestFromError: each kind has one status, and no cause of ours is told.
func TestFromError(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{fmt.Errorf("field x: %w", access.ErrInvalid), 400, `{"code":"InvalidParameter","message":"field x"}`},
		{fmt.Errorf("x: %w", access.UnknownRoleError{Role: "r"}), 400, ""},
		{fmt.Errorf("kid 7: %w", access.ErrUnauthenticated), 401, `{"error":{"code":"InvalidAuthenticationToken","message":"The access token is invalid."}}`},
		{fmt.Errorf("no: %w", access.ErrForbidden), 403, `{"error":{"code":"AuthorizationFailed","message":"no"}}`},
		{fmt.Errorf("cluster c: %w", access.ErrNotFound), 404, `{"error":{"code":"ResourceNotFound","message":"cluster c"}}`},
		{fmt.Errorf("again: %w", access.ErrConflict), 409, `{"error":{"code":"Conflict","message":"again"}}`},
		{fmt.Errorf("etcd at 10.0.0.1: %w", access.ErrUnavailable), 503, ""},
		{fmt.Errorf("role: %w: %w", fmt.Errorf("x: %w", access.ErrNotFound), access.ErrForbidden), 403, `{"error":{"code":"AuthorizationFailed","message":"role: x"}}`},
		{errors.New("pq: password is hunter2"), 500, ""},
		{fmt.Errorf("wrapped: %w", arm.ResourceGroupNotFound("g")), 404, `{"error":{"code":"ResourceGroupNotFound","message":"Resource group 'g' could not be found."}}`},
		{arm.BindingNotFound(id(t, cluster+"/trustedAccessRoleBindings/b")), 404, ""},
	} {
		e := arm.FromError(c.err)
		text, err := e.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if e.Status != c.status || c.text != "" && string(text) != c.text || strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "10.0.0.1") {
			t.Errorf("%v: %d %s, want %d %s", c.err, e.Status, text, c.status, c.text)
		}
		if again := arm.FromError(fmt.Errorf("x: %w", e)); again != e {
			t.Errorf("%v is not itself", e)
		}
	}
}

// TestRoleList: the real reply has 8032 bytes (spec/trusted-access.md 6).
func TestRoleList(t *testing.T) {
	roles, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	text, err := arm.Marshal(arm.RoleList{Value: roles})
	if err != nil || len(text) != 8032 {
		t.Errorf("%d bytes, want 8032, %v", len(text), err)
	}
}

func TestCheckBody(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{`{}`, true},
		{` {"a":[{"b":1},{"b":2}],"c":{"a":null}} `, true},
		{`{"a":1,"a":2}`, false},
		{`{"properties":{},"Properties":{}}`, false},
		{`{"x":[{"roles":1,"roleſ":2}]}`, false}, // encoding/json takes ſ for an s
		{`[]`, false},
		{`null`, false},
		{`{} {}`, false},
		{`{"a":}`, false},
		{`{"a":1`, false},
		{strings.Repeat(`{"a":`, 80) + `1` + strings.Repeat(`}`, 80), false},
		{"", false},
	} {
		if err := arm.CheckBody([]byte(c.in)); (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok %v", c.in, err, c.ok)
		}
	}
}

// FuzzCheckBody: what passes is JSON, and can be kept and shown.
func FuzzCheckBody(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"b":[1,"x",null]}}`, `{"a":1,"A":1}`, `{"properties":{"adminPassword":"x"},"identity":{"type":"SystemAssigned"}}`, `{"a":1e999}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if arm.CheckBody(text) != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q passed and is not JSON", text)
		}
		doc, err := arm.ParseDocument(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		kept, err := arm.EncodeDocument(doc)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		shown, err := arm.NewCluster(access.Cluster{ID: id(t, cluster), Document: kept}, arm.ShownCluster{Host: "h"})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if out, err := arm.Marshal(shown); err != nil || arm.CheckBody(out) != nil && !strings.ContainsRune(string(text), '\\') {
			t.Fatalf("%q was shown as %s: %v", text, out, err)
		}
	})
}

// TestRedact: secrets go, what only sounds like one stays.
func TestRedact(t *testing.T) {
	doc, err := arm.ParseDocument([]byte(`{"properties":{"servicePrincipalProfile":{"clientId":"a","secret":"x"},"windowsProfile":{"ADMINPASSWORD":"x"},
		"addonProfiles":{"azureKeyvaultSecretsProvider":{"config":{"enableSecretRotation":"true"}}},"list":[{"connectionString":"x","n":9007199254740993}],
		"configurationProtectedSettings":{"k":"x"},"aadProfile":{"serverAppSecret":"x"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := arm.EncodeDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"properties":{"aadProfile":{},"addonProfiles":{"azureKeyvaultSecretsProvider":{"config":{"enableSecretRotation":"true"}}},"list":[{"n":9007199254740993}],"servicePrincipalProfile":{"clientId":"a"},"windowsProfile":{}}}`
	if string(got) != want {
		t.Errorf("kept %s\nwant %s", got, want)
	}
}

// TestRedactNames says of each name alone whether its value is kept.
func TestRedactNames(t *testing.T) {
	for _, c := range []struct {
		names string
		value string
		kept  bool
	}{
		{"password passwords adminPassword ADMINPASSWORD admin_password paſſword sqlPwd passphrase", `"x"`, false},
		{"secret secrets clientSecret client-secret serverAppSecret secretKey secretKeys secretAccessKey secretValue", `"x"`, false},
		{"connectionString connectionStrings connection_string sharedAccessSignature sasToken sasTokens sasUri token accessToken tokens", `"x"`, false},
		{"accessKey accessKeys storageAccountKey accountKey apiKey api-key privateKey privateKeys primaryKey secondaryKey sharedAccessKey", `["x"]`, false},
		{"credential credentials registryCredentials kubeconfig kubeConfigs adminKubeconfig protectedSettings configurationProtectedSettings", `{"a":"x"}`, false},
		{"oidcIssuerProfile azureKeyVaultKms azureKeyvaultSecretsProvider kubeletConfig linuxProfile apiServerAccessProfile podIdentityProfile", `{"a":"x"}`, true},
		{"keyId keyVaultNetworkAccess keyVaultResourceId keyData publicKeys keyVersion partitionKey instrumentationKey tokenLifetime", `"x"`, true},
		{"secretRef secretName passwordSecretName credentialType kubernetesVersion access serviceAccountImageCleaner imageCleaner", `"x"`, true},
		{"enableSecretRotation disablePasswordAuthentication", `"true"`, true},
		{"automountServiceAccountToken allowSharedKey usePassword", `true`, true},
	} {
		for _, name := range strings.Fields(c.names) {
			doc, err := arm.ParseDocument([]byte(`{"properties":{"` + name + `":` + c.value + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			if _, kept := arm.Redact(doc)["properties"].(map[string]any)[name]; kept != c.kept {
				t.Errorf("%s: kept %v, want %v", name, kept, c.kept)
			}
		}
	}
}

// deadline is an answer whose connection takes read deadlines.
type deadline struct {
	*httptest.ResponseRecorder
	at time.Time
}

func (d *deadline) SetReadDeadline(at time.Time) error { d.at = at; return nil }

// stalled is a body whose sender was given up on.
type stalled struct{}

func (stalled) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read tcp: %w", os.ErrDeadlineExceeded)
}

func TestLimitBody(t *testing.T) {
	w := &deadline{ResponseRecorder: httptest.NewRecorder()}
	arm.LimitBody(w, httptest.NewRequest("GET", "/x", nil))
	if !w.at.IsZero() {
		t.Errorf("deadline %v for no body", w.at)
	}
	for _, length := range []int64{10, -1} {
		w.at = time.Time{}
		r := httptest.NewRequest("PUT", "/x", stalled{})
		r.ContentLength = length
		arm.LimitBody(w, r)
		if left := time.Until(w.at); left <= 0 || left > arm.BodyTimeout {
			t.Errorf("length %d: deadline in %v, want %v", length, left, arm.BodyTimeout)
		}
		_, err := arm.ReadBody(w, r)
		if e := arm.FromError(err); e.Status != 408 || e.Code != "RequestTimeout" {
			t.Errorf("stalled body: %v", err)
		}
	}
	arm.LimitBody(httptest.NewRecorder(), httptest.NewRequest("PUT", "/x", stalled{})) // takes no deadline
}

func TestPaginate(t *testing.T) {
	items := []string{"e", "a", "c", "b", "d"}
	next, seen := "https://h"+sub+"/things?api-version=2020-01-01", ""
	for pages := 0; next != "" && pages < 5; pages++ {
		r := httptest.NewRequest("GET", next, nil)
		page, err := arm.Paginate(r, items, 2, func(s string) string { return s })
		if err != nil {
			t.Fatal(err)
		}
		seen += strings.Join(page.Value, "") + "|"
		if next = page.NextLink; next != "" && !strings.HasPrefix(next, "https://h"+sub+"/things?%24skipToken=") {
			t.Fatalf("nextLink %s", next)
		}
	}
	if seen != "ab|cd|e|" {
		t.Errorf("pages %s", seen)
	}
	_, err := arm.Paginate(httptest.NewRequest("GET", "/x?$skipToken=***", nil), items, 2, func(s string) string { return s })
	if !errors.Is(err, access.ErrInvalid) {
		t.Errorf("bad token: %v", err)
	}
	empty, err := arm.Paginate[string](httptest.NewRequest("GET", "/x", nil), nil, 2, nil)
	if text, _ := json.Marshal(empty); err != nil || string(text) != `{"value":[]}` {
		t.Errorf("empty: %s, %v", text, err)
	}
}

func TestStamp(t *testing.T) {
	const guid = "abcdefab-cdef-abcd-efab-cdefabcdefab"
	for _, c := range []struct{ header, value, ask, name, want string }{
		{"x-ms-client-request-id", "mine", "true", "x-ms-client-request-id", "mine"},
		{"x-ms-client-request-id", "mine", "", "x-ms-client-request-id", ""},
		{"x-ms-client-request-id", "a\tb", "true", "x-ms-client-request-id", ""},
		{"x-ms-correlation-request-id", guid, "", "x-ms-correlation-request-id", guid},
		{"x-ms-correlation-request-id", "forged\"}", "", "x-ms-correlation-request-id", "the-id"},
	} {
		r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		r.Header.Set(c.header, c.value)
		r.Header.Set("x-ms-return-client-request-id", c.ask)
		arm.Stamp(w, r, "the-id", time.Unix(0, 0))
		if got := w.Header().Get(c.name); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.header, c.value, got, c.want)
		}
	}
}

// TestOperation: the shapes that were recorded (spec/trusted-access.md 2.1).
func TestOperation(t *testing.T) {
	op := access.Operation{ID: "ID", Resource: id(t, cluster), Location: "eastus", Status: access.OperationInProgress, Start: time.Date(2025, 11, 11, 9, 5, 21, 11929900, time.UTC)}
	running, err := json.Marshal(arm.NewOperation(op))
	if want := `{"id":"` + sub + `/providers/Microsoft.ContainerService/locations/eastus/operations/ID","name":"ID","status":"InProgress","startTime":"2025-11-11T09:05:21.0119299Z"}`; err != nil || string(running) != want {
		t.Errorf("running: %s, want %s", running, want)
	}
	op.Status, op.Code, op.Message, op.End = access.OperationFailed, "C", "M", op.Start
	failed, err := json.Marshal(arm.NewOperation(op))
	if err != nil || !strings.HasSuffix(string(failed), `"endTime":"2025-11-11T09:05:21.0119299Z","error":{"code":"C","message":"M"}}`) {
		t.Errorf("failed: %s, %v", failed, err)
	}
}
