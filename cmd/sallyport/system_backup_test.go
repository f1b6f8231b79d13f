package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemBackup takes a backup, withdraws consent, loses the server, and
// restores: what was withdrawn is not given again without saying so.
func TestSystemBackup(t *testing.T) {
	s := newBound(t) // cluster "private", whose consent is withdrawn
	for _, name := range []string{"narrowed", "untouched"} {
		s.register(name)
		s.bind(name, "ml", s.ml.id, mlworkload+","+inference)
	}
	token := s.ml.token(idp.DataPlaneAudience)
	wants := func(want int, says ...string) {
		t.Helper()
		var text string
		s.await(fmt.Sprintf("status %d", want), func() bool { // the agent comes back in its own time
			resp, body := s.send(http.MethodGet, "/k8s"+s.clusterID+"/api/v1/namespaces/default/pods", token, "")
			text = body
			return resp.StatusCode == want
		})
		contains(t, "the gateway", text, says...)
	}
	locked := func(names ...string) {
		t.Helper()
		for _, name := range []string{"private", "narrowed", "untouched"} {
			is := strings.Contains(s.cli("cluster", "show", "-n", name).stderr, "restored from the backup of")
			if want := slices.Contains(names, name); is != want {
				t.Errorf("cluster %s is locked: %v, want %v", name, is, want)
			}
		}
	}
	wants(http.StatusOK)

	file := filepath.Join(t.TempDir(), "sallyport.backup")
	if r := s.cli("backup", file, "--data-dir", s.dir); r.code != exitOK || !strings.Contains(r.stderr, "whoever reads it can act as the server") {
		t.Fatalf("backup: %d %s", r.code, r.stderr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup is %v, %v, want mode 0600", info, err)
	}
	s.refused(exitConflict, []string{"exists already"}, "backup", file, "--data-dir", s.dir)

	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	s.must("rolebinding", "update", "--cluster-name", "narrowed", "-n", "ml", "-r", mlworkload)
	wants(http.StatusForbidden)
	s.stop(s.server)
	lost := s.dir
	restore := func(flags ...string) string {
		t.Helper()
		s.dir = filepath.Join(t.TempDir(), "restored")
		out := s.must(slices.Concat([]string{"restore", file, "--data-dir", s.dir, "-o", "json"}, flags)...)
		s.start()
		s.private()
		return out
	}

	// Without its audit log, everything is locked until the owner has looked.
	restore()
	locked("private", "narrowed", "untouched")
	s.await("the agent is back", func() bool { return s.connected("private") })
	wants(http.StatusForbidden, "restored from the backup of", "look before you unlock")
	s.must("unlock", "--cluster-name", "private")
	locked("narrowed", "untouched")
	wants(http.StatusOK)
	s.refused(exitConflict, []string{"is not empty", "hint: restore into a new folder"}, "restore", file, "--data-dir", s.dir)
	s.stop(s.server)

	// With it, what was withdrawn stays so, and what is unsure is locked.
	var done restored
	if err := json.Unmarshal([]byte(restore("--audit-log", lost)), &done); err != nil {
		t.Fatal(err)
	}
	if len(done.Removed) != 1 || len(done.Locked) != 1 || !strings.Contains(done.Removed[0], "private") {
		t.Errorf("restored %+v", done)
	}
	locked("narrowed")
	s.await("the agent is back", func() bool { return s.connected("private") })
	wants(http.StatusForbidden)
	s.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "private", "-n", "ml")
	s.await("the agent has cleared the roles away", func() bool {
		_, err := s.kube.admin.RbacV1().ClusterRoles().Get(t.Context(), "aks:trustedaccessrole:ml:inference-v1", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	s.stop(s.server)

	// By the word of who restores it is as it was.
	restore("--keep-consents")
	locked()
	s.agent.stop()
	s.stop(s.server)
	refuseBackups(t, s.system, file)
}

// refuseBackups: what is no whole backup, or no log of its server's, leaves no
// folder that could pass for a restored one.
func refuseBackups(t *testing.T, s *system, file string) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	target := filepath.Join(dir, "restored")
	for name, path := range map[string]string{
		"half":      write("half", whole[:len(whole)/2]),
		"all but 1": write("short", whole[:len(whole)-1]),
		"flipped":   write("flipped", flipped),
		"no backup": write("none", []byte("hello")),
	} {
		s.refused(exitFailed, []string{"the backup is not whole"}, "restore", path, "--data-dir", target)
		if _, err := os.Stat(target); err == nil {
			t.Errorf("%s left a data folder", name)
		}
	}
	foreign := write("audit.log", nil)
	s.refused(exitFailed, []string{"has no record", "everything is restored locked"}, "restore", file, "--data-dir", target, "--audit-log", foreign)
	entries, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "restored") }) {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
