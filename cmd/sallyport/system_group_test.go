package main

import (
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemGroupDeletion deletes the resource group under a live watch: that
// is cut, nobody is admitted any more, and nothing is left.
func TestSystemGroupDeletion(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("doomed")
	agent := s.install("doomed", "mlworkload,inference-v1")
	agent.start()
	ml := s.source("ml")
	s.bind("doomed", "ml", ml.id, workspaceType+"/mlworkload,"+workspaceType+"/inference-v1")
	client := ml.client(cluster)
	live, err := client.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Stop()
	if ended(live) {
		t.Fatal("the watch ended by itself")
	}

	group, _, _ := strings.Cut(cluster, "/providers/")
	token := s.operatorToken()
	resp, body := s.send(http.MethodDelete, group+"?api-version=2024-03-01", token, "")
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("delete the group: %d %s", resp.StatusCode, body)
	}
	location := strings.TrimPrefix(resp.Header.Get("Location"), s.url)
	s.await("the operation has ended", func() bool {
		resp, body := s.send(http.MethodGet, location, token, "")
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
			t.Fatalf("result: %d %s", resp.StatusCode, body)
		}
		return resp.StatusCode == http.StatusOK
	})
	s.await("the watch was cut", func() bool { return ended(live) })
	if _, err := services(t, client); err == nil {
		t.Error("the source is still admitted")
	}
	for _, path := range []string{group, cluster, ml.id} {
		if resp, body := s.send(http.MethodGet, path+"?api-version=2025-10-01", token, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
		}
	}
	if resp, body := s.send(http.MethodGet, "/subscriptions?api-version=2022-12-01", token, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("subscriptions: %d %s", resp.StatusCode, body)
	}
}
