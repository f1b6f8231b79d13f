package rbac_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

// constrained is a rule by which a user may be impersonated so.
func constrained(resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"impersonate:user-info"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{resource}, ResourceNames: names}
}

// as is a rule for what may be done as such a user.
func as(verb, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"impersonate-on:user-info:" + verb}, APIGroups: []string{""}, Resources: []string{resource}}
}

// constrain applies the manifest in that mode, until the test ends, and waits
// until its admission policy is enforced.
func constrain(t *testing.T) {
	t.Helper()
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	legacy := updateProxy(impersonate("", "users", prefix+":b"))
	t.Cleanup(func() {
		ctx := context.Background()
		if err := dev.apply(ctx, catalogue); err != nil {
			t.Fatal(err)
		}
		if err := until(ctx, func() error { return legacy(ctx, dev.reconciler) }); err != nil {
			t.Fatal(err)
		}
	})
	if err := dev.applyAs(t.Context(), rbac.Constrained, catalogue); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), func() error {
		if err := legacy(t.Context(), dev.reconciler); !deniedBy(err, "sallyport-reconciler") {
			return orNil(err)
		}
		return nil
	}); err != nil {
		t.Fatalf("the legacy verb in constrained mode: %v", err)
	}
}

func runConstrained(t *testing.T) *running {
	t.Helper()
	return runConfig(t, rbac.Config{Client: dev.reconciler, Impersonation: rbac.Constrained})
}

// In constrained mode (KEP-5284) the proxy's role may hold these verbs and no
// others, whatever the reconciler's account tries.
func TestItem24ConstrainedPolicy(t *testing.T) {
	constrain(t)
	uid, source := "userextras/"+access.ExtraBindingUID, "userextras/"+access.ExtraSource
	if err := updateProxy(constrained("users", prefix+":b"), constrained("groups", prefix), constrained(uid, "uid-1"), constrained(source, clusterID),
		as("get", "pods"), rbacv1.PolicyRule{Verbs: []string{"impersonate-on:user-info:get"}, NonResourceURLs: []string{"/version"}})(t.Context(), dev.reconciler); err != nil {
		t.Errorf("exact rules: %v", err)
	}
	legacyVerb := func(r rbacv1.PolicyRule, verbs ...string) rbacv1.PolicyRule {
		r.Verbs = verbs
		return r
	}
	refused(t, dev.reconciler, "sallyport-reconciler", []attempt{
		{"legacy: a user", "policy", updateProxy(impersonate("", "users", prefix+":b"))},
		{"legacy: the group", "policy", updateProxy(impersonate("", "groups", prefix))},
		{"legacy: an extra", "policy", updateProxy(impersonate("authentication.k8s.io", uid, "uid-1"))},
		{"legacy beside ours", "policy", updateProxy(legacyVerb(constrained("users", prefix+":b"), "impersonate:user-info", "impersonate"))},
		{"legacy beside what is done", "policy", updateProxy(legacyVerb(as("get", "pods"), "impersonate-on:user-info:get", "impersonate"))},
		{"all verbs", "policy", updateProxy(legacyVerb(as("get", "pods"), "*"))},
		{"any user", "policy", updateProxy(constrained("users"))},
		{"a user named *", "policy", updateProxy(constrained("users", "*"))},
		{"an admin", "policy", updateProxy(constrained("users", prefix+":b", "kubernetes-admin"))},
		{"system:masters", "policy", updateProxy(constrained("groups", "system:masters"))},
		{"service accounts", "policy", updateProxy(legacyVerb(constrained("serviceaccounts", "default"), "impersonate:serviceaccount"))},
		{"what is done as a service account", "policy", updateProxy(legacyVerb(as("get", "pods"), "impersonate-on:serviceaccount:get"))},
		{"nodes", "policy", updateProxy(legacyVerb(constrained("nodes", "n"), "impersonate:arbitrary-node"))},
		{"a user uid", "policy", updateProxy(constrained("uids", "1"))},
		{"another extra", "policy", updateProxy(constrained("userextras/scopes", "x"))},
		{"read pods", "policy", updateProxy(readPods)},
		{"a right of the ceiling beside", "policy", updateProxy(legacyVerb(as("get", "pods"), "impersonate-on:user-info:get", "get"))},
	})
}

// TestItem24ConstrainedImpersonation is the whole way of a binding with the
// manifest in constrained mode, against the real API server.
func TestItem24ConstrainedImpersonation(t *testing.T) {
	ctx := t.Context()
	constrain(t)
	r := runConstrained(t)
	b := binding(t, "constrained", "uid-constrained", "mlworkload")
	r.want(nil, b)
	r.inForce(b)
	source := dev.source(t, b)

	// Its role, and what every user may.
	if _, err := source.CoreV1().Services("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("what the role allows: %v", err)
	}
	if _, err := source.Discovery().ServerVersion(); err != nil {
		t.Errorf("/version: %v", err)
	}
	if _, _, err := source.Discovery().ServerGroupsAndResources(); err != nil {
		t.Errorf("discovery: %v", err)
	}
	got, err := source.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if info := got.Status.UserInfo; info.Username != prefix+":constrained" || !slices.Contains(info.Groups, prefix) ||
		strings.Join(info.Extra[access.ExtraBindingUID], ",") != b.UID || strings.Join(info.Extra[access.ExtraSource], ",") != b.Source.String() {
		t.Errorf("the API server sees %+v", info)
	}

	// Nothing else, and not what an admin gives the user beside.
	grantBeside(t, access.User(prefix, b.Name))
	for what, ask := range map[string]func(kubernetes.Interface) error{
		"cannot impersonate-on:user-info:watch resource \"services\"":  func(c kubernetes.Interface) error { return get(ctx, c, "/api/v1/services?watch=1") },
		"cannot impersonate-on:user-info:list resource \"secrets\"":    func(c kubernetes.Interface) error { return get(ctx, c, "/api/v1/secrets") },
		"cannot impersonate-on:user-info:list resource \"configmaps\"": func(c kubernetes.Interface) error { return get(ctx, c, "/api/v1/configmaps") },
		"cannot impersonate-on:user-info:get path \"/metrics\"":        func(c kubernetes.Interface) error { return get(ctx, c, "/metrics") },
	} {
		if err := ask(source); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), access.ProxyAccount) {
			t.Errorf("the refusal is %v, want %s", err, what)
		}
	}
	proxyIsRefused(t, b)

	// Another role in its place: the old one serves until the new one does, and
	// then is gone from the proxy too.
	b.Generation++
	b.Roles = binding(t, "constrained", b.UID, "inference-v1").Roles
	if got := len(proxyRules(t)); got != 8 { // four to be it, three that everybody has, one of the role
		t.Errorf("the proxy has %d rules", got)
	}
	r.want(nil, b)
	r.inForce(b)
	if err := get(ctx, source, "/api/v1/pods"); err != nil {
		t.Errorf("by the new role: %v", err)
	}
	r.until("the old role is retired", func(rep access.Report) bool { return reportOf(rep, b).Retired == b.Generation })
	for _, rule := range proxyRules(t) {
		if len(rule.Verbs) == 6 && slices.Equal(rule.Resources, []string{"services", "services/proxy"}) {
			t.Errorf("the proxy still has %v", rule)
		}
		for _, verb := range rule.Verbs {
			if verb != "impersonate:user-info" && !strings.HasPrefix(verb, "impersonate-on:user-info:") {
				t.Errorf("the proxy has the verb %q", verb)
			}
		}
	}

	// Withdrawn, nothing is left.
	r.want([]access.Tombstone{{Name: b.Name, UID: b.UID}})
	r.until("removed", func(rep access.Report) bool { return slices.Contains(rep.Removed, b.UID) })
	if rules := proxyRules(t); len(rules) != 0 {
		t.Errorf("the proxy has %v", rules)
	}
	if err := get(ctx, source, "/api/v1/services"); !apierrors.IsForbidden(err) {
		t.Errorf("after withdrawal: %v", err)
	}
}

func get(ctx context.Context, c kubernetes.Interface, uri string) error {
	return c.CoreV1().RESTClient().Get().RequestURI(uri).Do(ctx).Error()
}

// grantBeside lets a user read configmaps, until the test ends.
func grantBeside(t *testing.T, user string) {
	t.Helper()
	api, name := dev.admin.RbacV1(), "test-beside"
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(api.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}), api.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	_, err := api.ClusterRoles().Create(t.Context(), clusterRole(name, rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}), metav1.CreateOptions{})
	if err == nil {
		_, err = api.ClusterRoleBindings().Create(t.Context(), clusterRoleBinding(name, name, userSubject(user)), metav1.CreateOptions{})
	}
	if err == nil {
		err = until(t.Context(), func() error {
			return allows(t.Context(), authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "configmaps"}})
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func allows(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) error {
	got, err := dev.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err == nil && !got.Status.Allowed {
		err = errors.New("not allowed")
	}
	return err
}

// proxyIsRefused tries what the proxy's account may not be, and that no legacy
// verb is left to it.
func proxyIsRefused(t *testing.T, b access.DesiredBinding) {
	t.Helper()
	for what, edit := range map[string]func(*rest.ImpersonationConfig){
		"itself":                func(id *rest.ImpersonationConfig) { *id = rest.ImpersonationConfig{} },
		"an admin":              func(id *rest.ImpersonationConfig) { id.UserName = "kubernetes-admin" },
		"another binding":       func(id *rest.ImpersonationConfig) { id.UserName = prefix + ":other" },
		"the reconciler":        func(id *rest.ImpersonationConfig) { *id = rest.ImpersonationConfig{UserName: reconcilerUser} },
		"a node":                func(id *rest.ImpersonationConfig) { *id = rest.ImpersonationConfig{UserName: "system:node:n"} },
		"system:masters":        func(id *rest.ImpersonationConfig) { id.Groups = []string{"system:masters"} },
		"system:masters beside": func(id *rest.ImpersonationConfig) { id.Groups = append(id.Groups, "system:masters") },
		"another uid":           func(id *rest.ImpersonationConfig) { id.Extra[access.ExtraBindingUID] = []string{"other"} },
		"another source":        func(id *rest.ImpersonationConfig) { id.Extra[access.ExtraSource] = []string{clusterID} },
		"another extra":         func(id *rest.ImpersonationConfig) { id.Extra["sallyport.dev/x"] = []string{"x"} },
		"an extra with no path": func(id *rest.ImpersonationConfig) {
			id.Extra = map[string][]string{"binding-uid.sallyport.dev": {b.UID}}
		},
	} {
		id := identity(b)
		edit(&id)
		mustForbid(t, what, get(t.Context(), dev.proxyAs(t, id), "/api/v1/namespaces/default/services"))
	}
	proxy := "system:serviceaccount:" + access.AgentNamespace + ":" + access.ProxyAccount
	for _, a := range []authorizationv1.ResourceAttributes{
		{Resource: "users", Name: access.User(prefix, b.Name)}, {Resource: "groups", Name: prefix},
		{Group: "authentication.k8s.io", Resource: "users", Name: access.User(prefix, b.Name)},
		{Group: "authentication.k8s.io", Resource: "userextras", Subresource: access.ExtraBindingUID, Name: b.UID},
	} {
		a.Verb = "impersonate"
		if err := allows(t.Context(), authorizationv1.SubjectAccessReviewSpec{User: proxy, ResourceAttributes: &a}); err == nil {
			t.Errorf("the proxy has the legacy verb for %+v", a)
		}
	}
}

// Where Kubernetes does not know constrained impersonation, no binding is said to
// be in force: all rights would be there, and every request refused.
func TestConstrainedImpersonationNeedsItsKubernetes(t *testing.T) {
	constrain(t)
	token, err := dev.token(t.Context(), access.ReconcilerAccount)
	if err != nil {
		t.Fatal(err)
	}
	config := dev.as(token)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return oldVersion{next} })
	client, err := dev.client(config)
	if err != nil {
		t.Fatal(err)
	}
	r := runConfig(t, rbac.Config{Client: client, Impersonation: rbac.Constrained})
	b := binding(t, "too-old", "uid-too-old", "mlworkload")
	r.want(nil, b)
	rep := r.until("refused for good", func(rep access.Report) bool { return reportOf(rep, b).Final })
	if got := reportOf(rep, b); got.InForce || !strings.Contains(got.Message, "v1.35.0") || !strings.Contains(got.Message, "--impersonation legacy") {
		t.Errorf("%+v", got)
	}
	if rules := proxyRules(t); len(rules) != 0 {
		t.Errorf("the proxy has %v", rules)
	}
}

// oldVersion is an API server that says it is an old one.
type oldVersion struct{ http.RoundTripper }

func (o oldVersion) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/version" {
		return o.RoundTripper.RoundTrip(r)
	}
	body := `{"major":"1","minor":"35+","gitVersion":"v1.35.0"}`
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader([]byte(body))), Request: r}, nil
}

// A role that an update removes is taken from the proxy after it went from the
// cluster, not before: until its replacement works, the old grant serves.
func TestConstrainedUpdateKeepsTheOldRole(t *testing.T) {
	constrain(t)
	token, err := dev.token(t.Context(), access.ReconcilerAccount)
	if err != nil {
		t.Fatal(err)
	}
	wrote := &writes{}
	config := dev.as(token)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		wrote.RoundTripper = next
		return wrote
	})
	client, err := dev.client(config)
	if err != nil {
		t.Fatal(err)
	}
	r := runConfig(t, rbac.Config{Client: client, Impersonation: rbac.Constrained})
	b := binding(t, "replaced", "uid-replaced", "inference-v1")
	r.want(nil, b)
	r.inForce(b)
	wrote.take()
	b.Generation++
	b.Roles = binding(t, "replaced", b.UID, "mlworkload").Roles
	r.want(nil, b)
	r.until("in force, the old role retired", func(rep access.Report) bool {
		got := reportOf(rep, b)
		return got.InForce && got.Retired == b.Generation
	})
	got := wrote.take() // the report of retirement comes after the proxy lost it
	gone, taken := slices.Index(got, "old role deleted"), slices.Index(got, "proxy without the old role")
	if gone < 0 || taken < gone || !slices.Contains(got[:gone], "proxy with the old role") {
		t.Errorf("the writes were %q", got)
	}
}

// writes notes what is written to the proxy's role and deleted of the binding.
type writes struct {
	http.RoundTripper
	mu   sync.Mutex
	list []string
}

func (w *writes) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/"+rbac.ProxyRole):
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		what := "proxy without the old role"
		if bytes.Contains(body, []byte("persistentvolumeclaims")) {
			what = "proxy with the old role"
		}
		w.note(what)
	case r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/"+rbac.RoleObject(prefix, "replaced", "inference-v1")):
		w.note("old role deleted")
	}
	return w.RoundTripper.RoundTrip(r)
}

func (w *writes) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, what)
}

func (w *writes) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.list
	w.list = nil
	return out
}
