package rbac_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

const reconcilerUser = "system:serviceaccount:" + access.AgentNamespace + ":" + access.ReconcilerAccount

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func clusterRoleBinding(name, role string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}
}

func impersonate(group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

var (
	dryCreate   = metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	dryUpdate   = metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}
	dryDelete   = metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	readPods    = rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	readSecrets = rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	killNodes   = rbacv1.PolicyRule{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"nodes"}}
)

// attempt is a call that must be refused, and by what: "policy" is the
// admission policy of the caller, "ceiling" the escalation check,
// "aggregation" the API server's rule for aggregated roles, "rbac" a missing
// right.
type attempt struct {
	what, by string
	do       func(context.Context, kubernetes.Interface) error
}

func createRole(o *rbacv1.ClusterRole) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.RbacV1().ClusterRoles().Create(ctx, o, dryCreate)
		return err
	}
}

func createBinding(o *rbacv1.ClusterRoleBinding) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.RbacV1().ClusterRoleBindings().Create(ctx, o, dryCreate)
		return err
	}
}

func updateProxy(rules ...rbacv1.PolicyRule) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.RbacV1().ClusterRoles().Update(ctx, clusterRole(rbac.ProxyRole, rules...), dryUpdate)
		return err
	}
}

func refused(t *testing.T, c kubernetes.Interface, policy string, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		t.Run(a.what, func(t *testing.T) {
			err := a.do(t.Context(), c)
			var ok bool
			switch a.by {
			case "policy":
				ok = deniedBy(err, policy)
			case "ceiling":
				ok = err != nil && strings.Contains(err.Error(), "not currently held")
			case "aggregation":
				ok = err != nil && strings.Contains(err.Error(), "must have cluster-admin privileges")
			case "rbac":
				ok = apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot ")
			}
			if !ok {
				t.Errorf("want it refused by %s, got: %v", a.by, err)
			}
		})
	}
}

func TestItem25ReconcilerAccountIsRefused(t *testing.T) {
	ctx := t.Context()
	name, role := rbac.RoleBindingObject(prefix, "b", "r"), rbac.RoleObject(prefix, "b", "r")
	user := userSubject(access.User(prefix, "b"))

	// Controls: what it is for works, so that a refusal below means something.
	// The role is created for good, since a binding must find it.
	if _, err := dev.reconciler.RbacV1().ClusterRoles().Create(ctx, clusterRole(role, readPods), metav1.CreateOptions{}); err != nil {
		t.Fatalf("create a role within the ceiling: %v", err)
	}
	t.Cleanup(func() {
		if err := dev.reconciler.RbacV1().ClusterRoles().Delete(context.Background(), role, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for what, err := range map[string]error{
		"bind our user to our role": createBinding(clusterRoleBinding(name, role, user))(ctx, dev.reconciler),
		"exact impersonate rules": updateProxy(
			impersonate("", "users", prefix+":b"), impersonate("", "groups", prefix),
			impersonate("authentication.k8s.io", "userextras/"+access.ExtraBindingUID, "uid-1"),
			impersonate("authentication.k8s.io", "userextras/"+access.ExtraSource, clusterID))(ctx, dev.reconciler),
		"no rules": updateProxy()(ctx, dev.reconciler),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	twoSubjects := clusterRoleBinding(name, role, user)
	twoSubjects.Subjects = append(twoSubjects.Subjects, userSubject("mallory"))
	aggregated := clusterRole(role + "3")
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	generated := clusterRole("", readPods)
	generated.GenerateName = "x-"
	refused(t, dev.reconciler, "sallyport-reconciler", []attempt{
		{"bind cluster-admin", "ceiling", createBinding(clusterRoleBinding(name, "cluster-admin", user))},
		{"bind view, of another name", "policy", createBinding(clusterRoleBinding("x", role, user))},
		{"bind another of our roles", "policy", createBinding(clusterRoleBinding(rbac.RoleBindingObject(prefix, "b", "other"), role, user))},
		{"bind the proxy's role while empty", "policy", createBinding(clusterRoleBinding(name, rbac.ProxyRole, user))},
		{"role above the ceiling, in our names", "ceiling", createRole(clusterRole(role+"2", killNodes))},
		{"role within the ceiling, of another name", "policy", createRole(clusterRole("x", readPods))},
		{"role with a generated name", "policy", createRole(generated)},
		{"aggregated role", "aggregation", createRole(aggregated)},
		{"service account as subject", "policy", createBinding(clusterRoleBinding(name, role, rbacv1.Subject{Kind: "ServiceAccount", Namespace: "default", Name: "default"}))},
		{"group as subject", "policy", createBinding(clusterRoleBinding(name, role, rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: prefix}))},
		{"another user as subject", "policy", createBinding(clusterRoleBinding(name, role, userSubject("mallory")))},
		{"another binding's user as subject", "policy", createBinding(clusterRoleBinding(name, role, userSubject(prefix+":other")))},
		{"two subjects", "policy", createBinding(twoSubjects)},
		{"proxy: all rights", "policy", updateProxy(rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})},
		{"proxy: impersonate any user", "policy", updateProxy(impersonate("", "users"))},
		{"proxy: impersonate a user named *", "policy", updateProxy(impersonate("", "users", "*"))},
		{"proxy: impersonate our user *", "policy", updateProxy(impersonate("", "users", prefix+":*"))},
		{"proxy: impersonate an admin", "policy", updateProxy(impersonate("", "users", prefix+":b", "kubernetes-admin"))},
		{"proxy: impersonate system:masters", "policy", updateProxy(impersonate("", "groups", "system:masters"))},
		{"proxy: impersonate service accounts", "policy", updateProxy(impersonate("", "serviceaccounts", "default"))},
		{"proxy: any extra", "policy", updateProxy(impersonate("authentication.k8s.io", "userextras/*", "x"))},
		{"proxy: any uid extra", "policy", updateProxy(impersonate("authentication.k8s.io", "userextras/"+access.ExtraBindingUID))},
		{"proxy: read pods", "policy", updateProxy(readPods)},
		{"proxy: constrained impersonation", "policy", updateProxy(constrained("users", prefix+":b"))},
		{"proxy: do as a user", "policy", updateProxy(as("get", "pods"))},
		{"delete the proxy's role", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().Delete(ctx, rbac.ProxyRole, dryDelete)
		}},
		{"delete a role of the system", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().Delete(ctx, "view", dryDelete)
		}},
		{"delete all roles", "rbac", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().DeleteCollection(ctx, dryDelete, metav1.ListOptions{})
		}},
		{"write by the ceiling: a configmap", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, dryCreate)
			return err
		}},
		{"write by the ceiling: make a token secret of the proxy", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Secrets(access.AgentNamespace).Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "x", Annotations: map[string]string{"kubernetes.io/service-account.name": access.ProxyAccount}},
				Type:       corev1.SecretTypeServiceAccountToken,
			}, dryCreate)
			return err
		}},
		{"exec by the ceiling", "policy", connect("exec", "default")},
		{"take a token of the proxy", "rbac", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().ServiceAccounts(access.AgentNamespace).CreateToken(ctx, access.ProxyAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}},
		{"delete the policy", "rbac", func(ctx context.Context, c kubernetes.Interface) error {
			return c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "sallyport-reconciler", dryDelete)
		}},
	})

	// With the rights of an admin in addition, only the policy is in the way.
	config := rest.CopyConfig(dev.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: reconcilerUser, Groups: []string{"system:masters"}}
	mighty, err := dev.client(config)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, mighty, "sallyport-reconciler", []attempt{
		{"mighty: bind cluster-admin", "policy", createBinding(clusterRoleBinding(name, "cluster-admin", user))},
		{"mighty: aggregated role", "policy", createRole(aggregated)},
		{"mighty: delete roles as a collection", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().DeleteCollection(ctx, dryDelete, metav1.ListOptions{})
		}},
	})
}

// connect opens exec or a service proxy: admission sees it before anything is
// looked up, so neither pod nor service need exist.
func connect(sub, namespace string) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		post := c.CoreV1().RESTClient().Post().Namespace(namespace)
		if sub == "exec" {
			return post.Resource("pods").Name("x").SubResource("exec").Param("command", "id").Param("stdout", "true").Do(ctx).Error()
		}
		return post.Resource("services").Name("x").SubResource("proxy").Do(ctx).Error()
	}
}

// The owner's ceiling does not depend on the policy.
func TestItem25CeilingWithoutPolicies(t *testing.T) {
	ctx := t.Context()
	policies := dev.admin.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	t.Cleanup(func() {
		catalogue, err := access.Catalogue()
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := dev.apply(ctx, catalogue); err != nil {
			t.Fatal(err)
		}
		if err := until(ctx, func() error { return dev.policiesHold(ctx) }); err != nil {
			t.Fatal(err)
		}
	})
	for _, name := range []string{"sallyport-reconciler", "sallyport-sources"} {
		if err := policies.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := until(ctx, func() error { return createRole(clusterRole("x", readPods))(ctx, dev.reconciler) }); err != nil {
		t.Fatalf("a role within the ceiling, with no policy: %v", err)
	}
	user := userSubject(access.User(prefix, "b"))
	refused(t, dev.reconciler, "", []attempt{
		{"bind cluster-admin", "ceiling", createBinding(clusterRoleBinding("x", "cluster-admin", user))},
		{"role above the ceiling", "ceiling", createRole(clusterRole(rbac.RoleObject(prefix, "b", "r"), killNodes))},
		{"role that impersonates", "ceiling", createRole(clusterRole("x", impersonate("", "users", "b")))},
		{"update a role above the ceiling", "ceiling", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoles().Update(ctx, clusterRole("view", killNodes), dryUpdate)
			return err
		}},
		{"use of the proxy's right", "rbac", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Nodes().Patch(ctx, "x", "application/merge-patch+json", []byte("{}"), metav1.PatchOptions{})
			return err
		}},
	})
}

func TestItem24ProxyAccountIsRefused(t *testing.T) {
	ctx := t.Context()
	r := run(t)
	b := binding(t, "proxy-1", "uid-proxy-1", "mlworkload")
	r.want(nil, b)
	r.inForce(b)

	// The API server sees the whole identity, and nothing else.
	got, err := dev.source(t, b).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info := got.Status.UserInfo
	groups := slices.Sorted(slices.Values(info.Groups))
	extra := map[string]string{}
	for k, v := range info.Extra {
		extra[k] = strings.Join(v, ",")
	}
	if info.Username != prefix+":proxy-1" || !slices.Equal(groups, []string{prefix, "system:authenticated"}) ||
		!maps.Equal(extra, map[string]string{access.ExtraBindingUID: b.UID, access.ExtraSource: b.Source.String()}) {
		t.Errorf("the API server sees %+v", info)
	}

	change := func(edit func(*rest.ImpersonationConfig)) rest.ImpersonationConfig {
		id := identity(b)
		edit(&id)
		return id
	}
	for _, c := range []struct {
		what string
		id   rest.ImpersonationConfig
	}{
		{"nobody, itself", rest.ImpersonationConfig{}},
		{"an admin", change(func(id *rest.ImpersonationConfig) { id.UserName = "kubernetes-admin" })},
		{"another binding's user", change(func(id *rest.ImpersonationConfig) { id.UserName = prefix + ":other" })},
		{"the reconciler", change(func(id *rest.ImpersonationConfig) { id.UserName = reconcilerUser })},
		{"system:masters", change(func(id *rest.ImpersonationConfig) { id.Groups = []string{"system:masters"} })},
		{"system:masters beside ours", change(func(id *rest.ImpersonationConfig) { id.Groups = append(id.Groups, "system:masters") })},
		{"unknown binding uid", change(func(id *rest.ImpersonationConfig) { id.Extra[access.ExtraBindingUID] = []string{"uid-other"} })},
		{"uid beside ours", change(func(id *rest.ImpersonationConfig) { id.Extra[access.ExtraBindingUID] = []string{b.UID, "uid-other"} })},
		{"another source", change(func(id *rest.ImpersonationConfig) { id.Extra[access.ExtraSource] = []string{clusterID} })},
		{"another extra", change(func(id *rest.ImpersonationConfig) { id.Extra["scopes"] = []string{"x"} })},
		{"a user uid", change(func(id *rest.ImpersonationConfig) { id.UID = "1" })},
	} {
		t.Run(c.what, func(t *testing.T) {
			if err := listServices(ctx, dev.proxyAs(t, c.id)); !apierrors.IsForbidden(err) {
				t.Errorf("got %v, want it forbidden", err)
			}
		})
	}
	if err := listServices(ctx, dev.source(t, b)); err != nil {
		t.Errorf("the binding itself: %v", err)
	}
}

// hardenedPod passes the namespace's own admission, so that ours is what counts.
func hardenedPod(account string) *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "x"},
		Spec: corev1.PodSpec{
			ServiceAccountName: account,
			SecurityContext:    &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}
}

// inference-v1 may write pods, secrets and ClusterRoles, but not ours.
func TestSourcesAreKeptFromTheAgent(t *testing.T) {
	ctx := t.Context()
	r := run(t)
	b := binding(t, "infer-1", "uid-infer-1", "inference-v1")
	r.want(nil, b)
	r.inForce(b)
	source := dev.source(t, b)
	ns := access.AgentNamespace
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	pod := hardenedPod(access.ProxyAccount)
	if _, err := source.CoreV1().ConfigMaps("default").Create(ctx, configMap, dryCreate); err != nil {
		t.Errorf("control, a configmap elsewhere: %v", err)
	}
	if err := createRole(clusterRole("own-role", readPods))(ctx, source); err != nil {
		t.Errorf("control, a ClusterRole of its own: %v", err)
	}
	generated := clusterRole("", readPods)
	generated.GenerateName = rbac.RoleObject(prefix, "x", "")
	mine := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "default", Name: "default"}
	group := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: name}
	}
	// With a role of its own, the subject is what a binding is refused for.
	own, label := clusterRole("infer-own", readSecrets), map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}
	if _, err := source.RbacV1().ClusterRoles().Create(ctx, own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	labelled := own.DeepCopy()
	labelled.Name, labelled.Labels = "infer-labelled", label
	if _, err := dev.admin.RbacV1().ClusterRoles().Create(ctx, labelled, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{own.Name, labelled.Name} {
			if err := dev.admin.RbacV1().ClusterRoles().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	for _, s := range []rbacv1.Subject{mine, userSubject("system:serviceaccount:default:default"), userSubject("system:serviceaccount:" + ns + "-2:x"),
		group("system:serviceaccounts:default"), group("system:serviceaccounts:" + ns + "-2"), group("somebody")} {
		if err := createBinding(clusterRoleBinding("own", own.Name, s))(ctx, source); err != nil {
			t.Errorf("control, its own role to %s %s: %v", s.Kind, s.Name, err)
		}
	}
	grantTo := func(s rbacv1.Subject) attempt {
		return attempt{"grant to " + s.Kind + " " + s.Name, "policy", createBinding(clusterRoleBinding("own", own.Name, s))}
	}
	patchRole := func(name string) attempt {
		return attempt{"patch " + name, "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoles().Patch(ctx, name, "application/json-patch+json",
				[]byte(`[{"op":"add","path":"/rules/-","value":{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}}]`), metav1.PatchOptions{DryRun: dryUpdate.DryRun})
			return err
		}}
	}
	inSystem := clusterRole("", readPods)
	inSystem.GenerateName = "system:x-"
	aggregated := clusterRole("own-role")
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: label}}}
	withLabel := clusterRole("own-role", readSecrets)
	withLabel.Labels = label
	attempts := []attempt{
		{"pod", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod, dryCreate)
			return err
		}},
		{"configmap", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().ConfigMaps(ns).Create(ctx, configMap, dryCreate)
			return err
		}},
		{"secret", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Secrets(ns).Delete(ctx, "sallyport-join", dryDelete)
		}},
		{"service account", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().ServiceAccounts(ns).Delete(ctx, access.ProxyAccount, dryDelete)
		}},
		{"deployment", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.AppsV1().Deployments(ns).Patch(ctx, "sallyport-proxy", "application/merge-patch+json", []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
			return err
		}},
		{"exec", "policy", connect("exec", ns)},
		{"service proxy", "policy", connect("proxy", ns)},
		{"namespace", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Namespaces().Delete(ctx, ns, dryDelete)
		}},
		{"role of our name", "policy", createRole(clusterRole(rbac.RoleObject(prefix, "infer-1", "x"), readPods))},
		{"role of a generated name", "policy", createRole(generated)},
		{"the proxy's role", "policy", updateProxy(readPods)},
		{"the ceiling", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoles().Patch(ctx, rbac.CeilingRole, "application/merge-patch+json", []byte(`{"rules":[]}`), metav1.PatchOptions{})
			return err
		}},
		{"bind our role", "policy", createBinding(clusterRoleBinding("own", rbac.RoleObject(prefix, "infer-1", "inference-v1"), mine))},
		{"grant to another binding's user", "policy", createBinding(clusterRoleBinding("own", rbac.RoleObject(prefix, "infer-1", "inference-v1"), userSubject(prefix+":other")))},
		grantTo(userSubject(reconcilerUser)),
		grantTo(userSubject("system:serviceaccount:" + ns + ":" + access.ProxyAccount)),
		grantTo(userSubject("system:anonymous")),
		grantTo(group("system:serviceaccounts:" + ns)),
		grantTo(group("system:serviceaccounts")),
		grantTo(group("system:authenticated")),
		grantTo(group("system:unauthenticated")),
		grantTo(group("system:masters")),
		grantTo(group(prefix)),
		patchRole("system:basic-user"),
		patchRole("system:discovery"),
		patchRole("system:public-info-viewer"),
		patchRole(labelled.Name),
		{"patch a binding of Kubernetes", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoleBindings().Patch(ctx, "system:basic-user", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{DryRun: dryUpdate.DryRun})
			return err
		}},
		{"role of Kubernetes' names", "policy", createRole(clusterRole("system:x", readPods))},
		{"generated role of Kubernetes' names", "policy", createRole(inSystem)},
		{"role that aggregates to view", "policy", createRole(withLabel)},
		{"label its role so", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoles().Patch(ctx, own.Name, "application/merge-patch+json",
				[]byte(`{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-admin":"true"}}}`), metav1.PatchOptions{DryRun: dryUpdate.DryRun})
			return err
		}},
		{"delete a policy", "rbac", func(ctx context.Context, c kubernetes.Interface) error {
			return c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "sallyport-sources", dryDelete)
		}},
	}
	refused(t, source, "sallyport-sources", attempts)

	// A proxy that leaves the group out gains nothing.
	nameOnly := identity(b)
	nameOnly.Groups = nil
	refused(t, dev.proxyAs(t, nameOnly), "sallyport-sources", attempts[:2])

	// With the rights of an admin in addition, only the policy is in the way;
	// so these show the policy where inference-v1 lacks the verb.
	config := rest.CopyConfig(dev.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "x", Groups: []string{prefix, "system:masters"}}
	mighty, err := dev.client(config)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, mighty, "sallyport-sources", []attempt{
		{"mighty: delete the proxy's role", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().Delete(ctx, rbac.ProxyRole, dryDelete)
		}},
		{"mighty: delete our roles as a collection", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.RbacV1().ClusterRoles().DeleteCollection(ctx, dryDelete, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=sallyport"})
		}},
		{"mighty: delete secrets as a collection", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Secrets(ns).DeleteCollection(ctx, dryDelete, metav1.ListOptions{})
		}},
		{"mighty: aggregated role", "policy", createRole(aggregated)},
		{"mighty: rules of an aggregated role", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().ClusterRoles().Patch(ctx, "view", "application/merge-patch+json", []byte(`{"rules":[]}`), metav1.PatchOptions{DryRun: dryUpdate.DryRun})
			return err
		}},
		{"mighty: namespaced grant to every account", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "own"}, RoleRef: clusterRoleBinding("", own.Name, mine).RoleRef,
				Subjects: []rbacv1.Subject{mine, group("system:serviceaccounts")},
			}, dryCreate)
			return err
		}},
		{"mighty: bind the proxy's role", "policy", createBinding(clusterRoleBinding("own", rbac.ProxyRole, mine))},
		{"mighty: bind to the proxy's account", "policy", createBinding(clusterRoleBinding("own", "view", rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: access.ProxyAccount}))},
		{"mighty: token of the reconciler", "policy", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, access.ReconcilerAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}},
	})
}
