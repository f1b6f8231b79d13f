package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemRestarts stops and starts the server and the agent, and nothing is
// lost.
func TestSystemRestarts(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload,inference-v1")
	agent.start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	works := func() bool { _, err := services(t, through); return err == nil }
	if !works() {
		t.Fatal("it does not work before any restart")
	}

	before := agent.kube.versions(t)
	begin := time.Now()
	s.stop(s.server)
	t.Logf("server stopped after %s", time.Since(begin).Round(time.Millisecond))
	s.start()
	if state := s.state("private", "ml"); state != "Succeeded" {
		t.Errorf("after a restart the binding is %s", state)
	}
	t.Logf("server ready to first answer: %s", s.await("requests work after a restart of the server", works))
	if after := agent.kube.versions(t); !slices.Equal(before, after) {
		t.Errorf("the restart touched the cluster:\n%v\n%v", before, after)
	}

	// An operation that waits for the agent outlives the server.
	agent.stop()
	operation := s.put(cluster, "ml", ml.id, mlworkload, inference)
	s.stop(s.server)
	s.start()
	if status, _ := s.operation(operation); status != "InProgress" {
		t.Errorf("after a restart the pending operation is %s", status)
	}
	agent.start()
	s.await("the operation ends", func() bool { status, _ := s.operation(operation); return status == "Succeeded" })

	// With no agent it fails, and is made good when the agent comes.
	agent.stop()
	s.stop(s.server)
	s.start("--agent-timeout", "2s")
	s.refused(exitUnavailable, []string{"AgentNotConnected", "No agent of cluster 'private' is connected after 2s"},
		"rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload)
	if state := s.state("private", "ml"); state != "Failed" {
		t.Errorf("with no agent the binding is %s", state)
	}
	agent.start()
	took := s.await("the binding is made good", func() bool { return s.state("private", "ml") == "Succeeded" })
	t.Logf("agent connected to Succeeded: %s", took)
	if !works() {
		t.Error("the binding that was made good does not work")
	}
}

// TestSystemDeletedWhileAway deletes a binding while its agent is away and
// gives its name to another source with a lesser role: not for one request does
// that source have what the old binding had.
func TestSystemDeletedWhileAway(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload,inference-v1")
	agent.start()
	first, second := s.source("first"), s.source("second")
	s.bind("private", "ml", first.id, inference)
	old, next := first.client(cluster), second.client(cluster)
	if _, err := services(t, old); err != nil {
		t.Fatal(err)
	}

	agent.stop()
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	if _, err := services(t, old); !apierrors.IsForbidden(err) {
		t.Errorf("after the delete: %v", err)
	}
	if len(agent.kube.objects(t)) != 2 {
		t.Errorf("the cluster holds %v, though nobody was there to clean up", agent.kube.objects(t))
	}
	operation := s.put(cluster, "ml", second.id, mlworkload)
	agent.start()
	attempts := 0
	s.await("the new binding works", func() bool {
		attempts++
		w, err := next.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
		if err == nil {
			w.Stop()
			t.Error("the new binding has a right of the deleted one")
		}
		_, err = services(t, next)
		return err == nil
	})
	t.Logf("%d attempts until the new binding was in force", attempts)
	s.await("the operation ends", func() bool { status, _ := s.operation(operation); return status == "Succeeded" })
	s.await("only the new binding's objects are left", func() bool {
		return slices.Equal(agent.kube.objects(t), []string{
			"ClusterRole aks:trustedaccessrole:ml:mlworkload", "ClusterRoleBinding aks:trustedaccessrolebinding:ml:mlworkload",
		})
	})
	if _, err := services(t, old); !apierrors.IsForbidden(err) {
		t.Errorf("the first source, after all: %v", err)
	}
}

// TestSystemSuperseded: a write takes the place of one that still waits for the
// agent, and a delete of both.
func TestSystemSuperseded(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.must("cluster", "join-token", "-n", "private") // from now on writes wait
	ml := s.source("ml")
	first := s.put(cluster, "ml", ml.id, mlworkload)
	second := s.put(cluster, "ml", ml.id, inference)
	if status, _ := s.operation(first); status != "Canceled" {
		t.Errorf("the first operation is %s", status)
	}
	if status, _ := s.operation(second); status != "InProgress" {
		t.Errorf("the second operation is %s", status)
	}
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	if status, _ := s.operation(second); status != "Canceled" {
		t.Errorf("after the delete the second operation is %s", status)
	}
}

// put writes a binding and returns the path of its operation, without waiting.
func (s *system) put(cluster, binding, source string, roles ...string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"properties": map[string]any{"sourceResourceId": source, "roles": roles}})
	if err != nil {
		s.t.Fatal(err)
	}
	resp, text := s.send(http.MethodPut, cluster+"/trustedAccessRoleBindings/"+binding+"?api-version=2025-10-01", s.operatorToken(), string(body))
	operation, ok := strings.CutPrefix(resp.Header.Get("Azure-AsyncOperation"), s.url)
	if resp.StatusCode != http.StatusCreated || !ok {
		s.t.Fatalf("PUT of binding %s: %d %s", binding, resp.StatusCode, text)
	}
	return operation
}

// operation asks for the status of an operation, and its error as text.
func (s *system) operation(path string) (status, failure string) {
	s.t.Helper()
	resp, text := s.send(http.MethodGet, path, s.operatorToken(), "")
	var body struct {
		Status string          `json:"status"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("GET of %s: %d %s", path, resp.StatusCode, text)
	}
	return body.Status, string(body.Error)
}

// versions lists the bindings' objects and the proxy's role with their
// resource versions, so that any write shows.
func (c *kubeCluster) versions(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	roles, err := c.admin.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bindings, err := c.admin.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, o := range roles.Items {
		if strings.HasPrefix(o.Name, "aks:trustedaccess") || strings.HasPrefix(o.Name, "sallyport") {
			all = append(all, o.Name+" "+o.ResourceVersion)
		}
	}
	for _, o := range bindings.Items {
		if strings.HasPrefix(o.Name, "aks:trustedaccess") || strings.HasPrefix(o.Name, "sallyport") {
			all = append(all, o.Name+" "+o.ResourceVersion)
		}
	}
	return all
}
