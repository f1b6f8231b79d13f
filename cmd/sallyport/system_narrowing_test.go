package main

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemFailedNarrowing replaces a role under a live watch by one that the
// owner no longer allows: the update fails, and the watch is cut all the same.
func TestSystemFailedNarrowing(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload,inference-v1").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, inference)
	through := ml.client(cluster)
	events := watchServices(t, through)
	s.install("private", "backup-operator")

	begin := time.Now()
	r := s.cli("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload)
	if r.code == exitOK {
		t.Error("a role above the ceiling was granted")
	}
	contains(t, "rolebinding update", r.stderr, "RoleNotAllowed", "mlworkload")
	events.ends()
	t.Logf("failed narrowing to the live watch's end: %s", time.Since(begin).Round(time.Millisecond))
	_, err := through.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, "cannot watch")
}
