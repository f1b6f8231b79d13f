package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemHelm installs the agent by the chart, with real Helm and the values
// that `agent manifest --helm-values` prints; enrols and uses it; and upgrades
// the release, which must not shut out the bindings there are.
func TestSystemHelm(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	kube := s.cluster()
	helm := func(values string, args ...string) string {
		t.Helper()
		path, err := tool("helm")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, append(args, "--kubeconfig", kube.kubeconfig(), "-n", "sallyport-system")...)
		cmd.Env = append(os.Environ(), "HOME="+s.dir)
		cmd.Stdin = strings.NewReader(values)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("helm %s: %v\n%s", args[0], err, out)
		}
		return string(out)
	}
	chart := filepath.Join("..", "..", "deploy", "helm", "sallyport-agent")
	values := s.must("agent", "manifest", "-n", "private", "--roles", "mlworkload", "--image", "example/sallyport:v1", "--helm-values")
	// The cluster is shared: other tests have applied the same objects.
	helm(values, "install", "agent", chart, "-f", "-", "--create-namespace", "--take-ownership", "--force-conflicts")
	t.Cleanup(func() { helm("", "uninstall", "agent") })

	agent := s.pods("private")
	agent.start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	if _, err := services(t, through); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.admin.PolicyV1().PodDisruptionBudgets("sallyport-system").Get(t.Context(), "sallyport-proxy", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}

	// Enrolled, it needs no token; the ceiling is raised; the proxy's role, which
	// the reconciler has filled, stays as it is.
	before, err := kube.admin.RbacV1().ClusterRoles().Get(t.Context(), "sallyport:proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	values = s.must("agent", "manifest", "-n", "private", "--roles", "mlworkload,inference-v1", "--image", "example/sallyport:v1", "--helm-values")
	if strings.Contains(values, "joinToken") {
		t.Errorf("the values of an enrolled cluster hold a join token:\n%s", values)
	}
	helm(values, "upgrade", "agent", chart, "-f", "-", "--force-conflicts")
	after, err := kube.admin.RbacV1().ClusterRoles().Get(t.Context(), "sallyport:proxy", metav1.GetOptions{})
	if err != nil || len(before.Rules) == 0 || len(after.Rules) != len(before.Rules) {
		t.Errorf("the upgrade left the proxy %d of %d rules (%v)", len(after.Rules), len(before.Rules), err)
	}
	if _, err := kube.admin.CoreV1().Secrets("sallyport-system").Get(t.Context(), "sallyport-join", metav1.GetOptions{}); err == nil {
		t.Error("the used join token is still in a Secret")
	}
	s.must("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", inference)
	if _, err := through.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("by the role that the upgrade allowed: %v", err)
	}
}
