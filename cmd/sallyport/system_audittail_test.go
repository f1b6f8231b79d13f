package main

import (
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/client"
)

// TestSystemAuditTail reads the audit log as an owner does, over rotations:
// each second the log is set aside.
func TestSystemAuditTail(t *testing.T) {
	s := newSystem(t, "--audit-max-age", "1s")
	cluster := s.register("private")
	s.register("other")
	s.install("private", "mlworkload,inference-v1").start()
	ml, stranger := s.source("ml"), s.source("stranger")
	s.bind("private", "ml", ml.id, inference)
	tail := s.process("tail", run, "audit", "tail", "-f", "-n", "1", "--cluster-name", "private", "--operator", s.dir+"/operator.json")
	s.await("tail has its first line", func() bool { return strings.Contains(tail.stdout.String(), "trustedAccessRoleBindings") })

	through := ml.client(cluster)
	if _, err := services(t, through); err != nil {
		t.Fatal(err)
	}
	if _, err := through.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("signing requests were listed")
	}
	if _, err := services(t, stranger.client(cluster)); err == nil {
		t.Error("a source without consent got through")
	}
	watch, err := through.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	live := func() bool { return strings.Count(tail.stdout.String(), "allowed") >= 4 }
	s.await("tail shows the consent, two requests and the watch that goes on", live)
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	s.await("tail shows the cut", func() bool { return strings.Contains(tail.stdout.String(), "cut") })
	s.stop(tail)

	shown := s.must("audit", "tail", "--cluster-name", "private", "--since", "1h")
	for _, text := range []string{tail.stdout.String(), shown} {
		contains(t, "audit tail", text, " allowed ", " REFUSED ", " cut ", " 403 ", " ml ", " stranger ", "no trusted access role binding")
	}
	if refused := s.must("audit", "tail", "--refused", "--binding", "ml", "--cluster-name", "private"); strings.Count(refused, "\n") != 3 {
		t.Errorf("with --refused of the binding there is a heading, what the cluster refused and the cut:\n%s", refused)
	}
	if other := s.must("audit", "tail", "--cluster-name", "other"); strings.Contains(other, "REFUSED") || strings.Count(other, "\n") != 2 {
		t.Errorf("of another cluster there is its registration:\n%s", other)
	}
	s.checkRecords(cluster)
}

// checkRecords reads the same as JSON, and each request by its id.
func (s *system) checkRecords(cluster string) {
	s.t.Helper()
	api, err := (&cli{operatorFile: s.dir + "/operator.json"}).connect()
	if err != nil {
		s.t.Fatal(err)
	}
	defer api.CloseIdleConnections()
	stages := map[string]string{}
	for line := range strings.Lines(s.must("audit", "tail", "-n", "1000", "--cluster-name", "private", "-o", "json")) {
		var r client.AuditRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatal(err)
		}
		if !strings.EqualFold(r.Cluster, cluster) {
			s.t.Errorf("a record of %q", r.Cluster)
		}
		stages[r.ID] += r.Stage + " "
	}
	kinds := map[string]int{}
	for id, want := range stages {
		kinds[want]++
		found, err := api.AuditRecord(s.t.Context(), mustParse(s.t, cluster[:len("/subscriptions/")+36]), id)
		got := ""
		for _, r := range found.Records {
			got += r.Stage + " "
		}
		if err != nil || got != want {
			s.t.Errorf("request %s has the records %q, %v; want %q", id, got, err, want)
		}
	}
	if kinds["decision complete "] < 3 || kinds["decision "] < 1 || kinds["consent "] < 3 {
		s.t.Errorf("records by request: %v", kinds)
	}
}
