package main

import (
	"context"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemCeiling: the API server holds the agent to the roles that the
// owner allowed at install, and says so to who asks for more.
func TestSystemCeiling(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)

	begin := time.Now()
	r := s.cli("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload+","+inference)
	if r.code == exitOK {
		t.Error("a role above the ceiling was granted")
	}
	contains(t, "rolebinding update", r.stderr, "RoleNotAllowed", "inference-v1", "agent manifest --roles")
	t.Logf("after %s: %s", time.Since(begin).Round(time.Millisecond), strings.TrimSpace(r.stderr))
	if state := s.state("private", "ml"); state != "Failed" {
		t.Errorf("the binding is %s", state)
	}
	if _, err := services(t, through); err != nil {
		t.Errorf("the role it had: %v", err)
	}
	_, err := through.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, "cannot watch")

	// The owner raises the ceiling by applying a new manifest; nothing else is
	// needed.
	s.install("private", "mlworkload,inference-v1")
	s.must("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload+","+inference)
	watchServices(t, through)
}

// TestSystemHandEdits: what is ours is put right, what is not is left alone.
func TestSystemHandEdits(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload")
	agent.start()
	ml, other := s.source("ml"), s.source("other")
	s.bind("private", "ml", ml.id, mlworkload)
	api := agent.kube.admin.RbacV1()
	const role, binding, foreign = "aks:trustedaccessrole:ml:mlworkload", "aks:trustedaccessrolebinding:ml:mlworkload", "aks:trustedaccessrole:other:mlworkload"

	want, err := api.ClusterRoles().Get(t.Context(), role, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edited := want.DeepCopy()
	edited.Rules = append(edited.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list"}})
	if _, err := api.ClusterRoles().Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("a rule added by hand was removed after %s", s.await("the role is repaired", func() bool {
		now, err := api.ClusterRoles().Get(t.Context(), role, metav1.GetOptions{})
		return err == nil && len(now.Rules) == len(want.Rules)
	}))
	if err := api.ClusterRoleBindings().Delete(t.Context(), binding, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	through := ml.client(cluster)
	t.Logf("a binding deleted by hand was back after %s", s.await("the binding is repaired", func() bool {
		_, err := api.ClusterRoleBindings().Get(t.Context(), binding, metav1.GetOptions{})
		return err == nil
	}))
	s.await("requests work again", func() bool { _, err := services(t, through); return err == nil })

	// A role of somebody else's that bears the name a binding needs.
	theirs, err := api.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: foreign},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	operation := s.put(cluster, "other", other.id, mlworkload)
	s.await("the status names the foreign object", func() bool {
		objects, _ := s.status("private", "other")["foreign"].([]any)
		return len(objects) == 1 && objects[0] == "ClusterRole "+foreign
	})
	s.await("the status says why the binding is not in force", func() bool {
		message, _ := s.status("private", "other")["message"].(string)
		return strings.Contains(message, foreign)
	})
	t.Logf("status: %v", s.status("private", "other"))
	if now, err := api.ClusterRoles().Get(t.Context(), foreign, metav1.GetOptions{}); err != nil || now.ResourceVersion != theirs.ResourceVersion {
		t.Errorf("the foreign role was touched: %v, %v", now, err)
	}
	if _, err := services(t, other.client(cluster)); err == nil {
		t.Error("the binding works with a foreign role")
	}
	if _, err := services(t, through); err != nil {
		t.Errorf("another binding suffers from it: %v", err)
	}
	if err := api.ClusterRoles().Delete(context.WithoutCancel(t.Context()), foreign, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await("the binding comes in force once the name is free", func() bool { return s.state("private", "other") == "Succeeded" })
	if status, failure := s.operation(operation); status == "InProgress" {
		t.Errorf("the operation goes on: %s", failure)
	}
}

// TestSystemOwnNames installs an agent under names of the owner's choice, as
// beside a real AKS, whose own objects have the default ones.
func TestSystemOwnNames(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload", "--prefix", "acme:access")
	agent.start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	if _, err := services(t, through); err != nil {
		t.Errorf("the binding does not work: %v", err)
	}
	_, err := through.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, `User "acme:access:ml" cannot list resource "secrets"`)
	api := agent.kube.admin.RbacV1()
	if _, err := api.ClusterRoleBindings().Get(t.Context(), "acme:accessrolebinding:ml:mlworkload", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	s.await("the cluster holds nothing of the binding", func() bool {
		_, err := api.ClusterRoles().Get(t.Context(), "acme:accessrole:ml:mlworkload", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestSystemRegisteredAgain: a cluster's registration is deleted with a watch
// open, and made again. What the first left in the cluster gives the second's
// binding of the same name nothing: it does not come in force until the owner
// has removed it.
func TestSystemRegisteredAgain(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload,inference-v1")
	agent.start()
	first, second := s.source("first"), s.source("second")
	s.bind("private", "ml", first.id, inference)
	old := first.client(cluster)
	events := watchServices(t, old)
	s.must("cluster", "delete", "-n", "private", "--yes")
	events.ends()
	if _, err := services(t, old); !apierrors.IsNotFound(err) {
		t.Errorf("a cluster that is not registered any more: %v", err)
	}
	agent.stop()

	s.register("private")
	s.install("private", "mlworkload,inference-v1").start()
	operation := s.put(cluster, "ml", second.id, mlworkload)
	const left = "aks:trustedaccessrolebinding:ml:inference-v1"
	s.await("the status names what is in the way", func() bool {
		message, _ := s.status("private", "ml")["message"].(string)
		return strings.Contains(message, left)
	})
	if _, err := services(t, second.client(cluster)); err == nil {
		t.Error("the binding works, with what an earlier one left")
	}
	if err := agent.kube.admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), left, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await("the operation ends", func() bool { status, _ := s.operation(operation); return status == "Succeeded" })
	_, err := second.client(cluster).CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, "cannot watch")
}
