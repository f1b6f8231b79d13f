package main

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemItem24Constrained is the way of one consent with an agent that may
// impersonate in constrained mode only; beside it, that kubectl starts, what the
// proxy's role holds, and what explain says.
func TestSystemItem24Constrained(t *testing.T) {
	refusal := func(verb string) string {
		return `User "system:serviceaccount:sallyport-system:sallyport-proxy" cannot impersonate-on:user-info:` + verb
	}
	story(t, refusal, func(s *system, ml source, cluster string) {
		t.Helper()
		config := ml.kubeconfig("private")
		for _, c := range []struct {
			args []string
			says []string
		}{
			{[]string{"get", "services", "-n", "default"}, []string{"demo"}},
			{[]string{"version"}, []string{"Server Version: v1."}},
			{[]string{"api-resources"}, []string{"deployments", "clusterroles"}},
			{[]string{"explain", "pod.spec"}, []string{"containers"}},
			{[]string{"auth", "whoami", "-o", "yaml"}, []string{"username: aks:trustedaccess:ml", "- aks:trustedaccess\n", "sallyport.dev/binding-uid", "sallyport.dev/source"}},
			{[]string{"auth", "can-i", "--list", "-n", "default"}, []string{"services/proxy"}},
			{[]string{"auth", "can-i", "list", "services", "-n", "default"}, []string{"yes"}},
		} {
			out, stderr, err := kubectl(t, config, "", c.args...)
			if err != nil {
				t.Errorf("kubectl %v: %v\n%s", c.args, err, stderr)
			}
			contains(t, "kubectl "+c.args[0], out, c.says...)
		}
		_, stderr, err := kubectl(t, config, "", "get", "secrets", "-n", "default")
		if err == nil {
			t.Error("kubectl get secrets succeeds")
		}
		contains(t, "kubectl get secrets", stderr, refusal("list")+` resource "secrets"`)
		t.Log(stderr)

		explain := []string{"explain", "--cluster-name", "private", "--as", ml.id, "--verb", "list", "--namespace", "default", "--resource"}
		contains(t, "explain", s.must(append(explain, "services")...), `the cluster says yes to the user of binding "ml"`)
		s.refused(exitRefused, []string{"ml may not list secrets", "roles that would allow it: " + inference}, append(explain, "secrets")...)

		role, err := s.cluster().admin.RbacV1().ClusterRoles().Get(t.Context(), "sallyport:proxy", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(role.Rules) != 8 { // four to be the user, three that everybody has, one of mlworkload
			t.Errorf("the proxy's rules: %v", role.Rules)
		}
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				if verb == "impersonate" || verb == "*" {
					t.Errorf("the proxy has the verb %q: %v", verb, rule)
				}
			}
		}
	}, "--impersonation", "constrained")
	role, err := shared.admin.RbacV1().ClusterRoles().Get(t.Context(), "sallyport:proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(role.Rules) != 0 {
		t.Errorf("after withdrawal the proxy has %v", role.Rules)
	}
}
