package rbac_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/access"
)

// TestItem24ConstrainedImpersonation measures what the API server makes of
// constrained impersonation (KEP-5284, on by default since Kubernetes 1.36) with
// an identity such as the proxy's, in an account of its own that has no legacy
// impersonate. Decision 0022 says what follows from it. Should one of these
// change, the decision is to be looked at again.
func TestItem24ConstrainedImpersonation(t *testing.T) {
	ctx := t.Context()
	const (
		account = "constrained"
		user    = prefix + ":" + account
		ownUID  = "sallyport.dev/binding-uid" // as constrained impersonation wants extras to be named
	)
	constrained := func(resource string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"impersonate:user-info"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{resource}, ResourceNames: names}
	}
	may := clusterRole("test-constrained",
		constrained("users", user), constrained("groups", prefix), constrained("userextras/"+ownUID, "u1"), constrained("userextras/"+access.ExtraBindingUID, "u1"),
		rbacv1.PolicyRule{Verbs: []string{"impersonate-on:user-info:list"}, APIGroups: []string{""}, Resources: []string{"services"}})
	// The binding's user has its role, and a right that an admin gave it beside.
	has := clusterRole("test-constrained-user", rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"services", "configmaps"}})
	api := dev.admin.RbacV1()
	t.Cleanup(func() {
		ctx := context.Background()
		err := dev.admin.CoreV1().ServiceAccounts("default").Delete(ctx, account, metav1.DeleteOptions{})
		for _, name := range []string{may.Name, has.Name} {
			err = errors.Join(err, api.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}), api.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}))
		}
		if err != nil {
			t.Error(err)
		}
	})
	if _, err := dev.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for role, subject := range map[*rbacv1.ClusterRole]rbacv1.Subject{may: {Kind: "ServiceAccount", Namespace: "default", Name: account}, has: userSubject(user)} {
		if _, err := api.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := api.ClusterRoleBindings().Create(ctx, clusterRoleBinding(role.Name, role.Name, subject), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	token, err := dev.admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(id rest.ImpersonationConfig, path string) error {
		config := dev.as(token.Status.Token)
		config.Impersonate = id
		client, err := dev.client(config)
		if err != nil {
			t.Fatal(err)
		}
		return client.CoreV1().RESTClient().Get().AbsPath(path).Do(ctx).Error()
	}
	as := func(extra string) rest.ImpersonationConfig {
		return rest.ImpersonationConfig{UserName: user, Groups: []string{prefix}, Extra: map[string][]string{extra: {"u1"}}}
	}
	const services = "/api/v1/namespaces/default/services"
	if err := until(ctx, func() error { return ask(as(ownUID), services) }); err != nil {
		t.Fatalf("what the role has, under an extra with a domain and a path: %v", err)
	}
	for _, c := range []struct{ what, path, says string }{
		{"a right that the user has beside its role", "/api/v1/namespaces/default/configmaps", "system:serviceaccount:default:" + account},
		{"discovery", "/version", "system:serviceaccount:default:" + account},
		{"beyond all rights: the refusal does not name the user", "/api/v1/secrets", "system:serviceaccount:default:" + account},
	} {
		if err := ask(as(ownUID), c.path); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// The extra's present name has no path, and so is not accepted, though RBAC
	// would allow it: the refusal is that of the legacy verb, which is tried last.
	if err := ask(as(access.ExtraBindingUID), services); !apierrors.IsForbidden(err) {
		t.Errorf("an extra without a path: %v", err)
	}
	admin := rest.ImpersonationConfig{UserName: "kubernetes-admin", Groups: []string{"system:masters"}}
	if err := ask(admin, services); !apierrors.IsForbidden(err) {
		t.Errorf("an admin: %v", err)
	}
}
