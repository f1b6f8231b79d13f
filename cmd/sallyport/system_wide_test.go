package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// ended reads what a watch has told, and reports whether that was all.
func ended(w watch.Interface) bool {
	for {
		select {
		case _, open := <-w.ResultChan():
			if !open {
				return true
			}
		default:
			return false
		}
	}
}

// claims asks for something that the role may list.
func claims(t *testing.T, client *kubernetes.Clientset) (int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	list, err := client.CoreV1().PersistentVolumeClaims("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(list.Items), nil
}

// TestSystemWide has every workspace of the subscription act by one binding of
// the preview API, and shows that it ends with the workspace, with the binding,
// and with the setting.
func TestSystemWide(t *testing.T) {
	s := newSystem(t, "--preview-role-bindings")
	cluster := s.register("wide")
	agent := s.install("wide", "inference-v1")
	agent.start()
	early := s.source("early")
	s.must("rolebinding", "create", "--cluster-name", "wide", "-n", "all", "--role", "inference-v1")
	contains(t, "rolebinding show", s.must("rolebinding", "show", "--cluster-name", "wide", "-n", "all"), "/subscriptions/"+strings.Split(cluster, "/")[2], "inference-v1")

	if _, err := claims(t, early.client(cluster)); err != nil {
		t.Errorf("one that was there: %v", err)
	}
	late := s.source("late")
	lateClient := late.client(cluster)
	s.await("one that came later may act", func() bool { _, err := claims(t, lateClient); return err == nil })
	s.must("resource", "create", "-n", "vault", "--type", "Microsoft.DataProtection/backupVaults", "-l", "eastus", "--identity-file", t.TempDir()+"/v")

	// The audit log has who acted, not whom the binding names.
	var sources []string
	for _, r := range s.records() {
		if r.Binding == "all" && r.Allowed != nil && *r.Allowed && strings.HasPrefix(r.Path, "/api") {
			sources = append(sources, r.Source)
		}
	}
	contains(t, "sources in the records", strings.Join(sources, "\n"), early.id, late.id)

	// One that is deleted is cut, at once and for good.
	live, err := lateClient.CoreV1().PersistentVolumeClaims("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Stop()
	s.must("resource", "delete", "-n", "late", "--type", workspaceType, "--yes")
	s.await("its watch has ended", func() bool { return ended(live) })
	if _, err := claims(t, lateClient); !apierrors.IsForbidden(err) {
		t.Errorf("deleted, it lists claims: %v", err)
	}
	earlyClient := early.client(cluster)
	s.await("the other acts as before", func() bool { _, err := claims(t, earlyClient); return err == nil })

	// Without the setting the binding is there and admits nobody.
	s.stop(s.server)
	s.flags = nil
	s.start()
	s.await("the agent is back", func() bool { return s.connected("wide") })
	if _, err := claims(t, earlyClient); !apierrors.IsForbidden(err) {
		t.Errorf("with the setting off: %v", err)
	}
	resp, body := s.send(http.MethodGet, cluster+"/azureResourceRoleBindings?api-version=2025-10-01", s.operatorToken(), "")
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("the preview API with the setting off: %d %s", resp.StatusCode, body)
	}
	s.refused(exitNotFound, []string{"--preview-role-bindings"}, "rolebinding", "create", "--cluster-name", "wide", "-n", "more", "--role", "inference-v1")
}
