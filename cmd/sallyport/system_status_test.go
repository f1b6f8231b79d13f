package main

import (
	"strings"
	"testing"
)

// TestSystemStatus follows a cluster by `cluster show --watch` while its agent
// comes, a binding is put in force, locked, found to be above the ceiling and
// withdrawn, the server restarts, and the agent goes.
func TestSystemStatus(t *testing.T) {
	s := newSystem(t)
	s.register("private")
	follow := s.process("cluster show --watch", s.run, "cluster", "show", "-n", "private", "--watch", "--operator", s.dir+"/operator.json")
	lines := s.process("cluster show --watch -o json", s.run, "cluster", "show", "-n", "private", "-w", "-o", "json", "--operator", s.dir+"/operator.json")
	shows := func(words ...string) {
		t.Helper()
		s.await("the watch shows "+strings.Join(words, ", "), func() bool {
			for line := range strings.Lines(follow.stdout.String()) {
				found := true
				for _, word := range words {
					found = found && strings.Contains(line, word)
				}
				if found {
					return true
				}
			}
			return false
		})
	}
	shows("agent ", "NotConnected")
	agent := s.install("private", "mlworkload")
	agent.start()
	shows("agent ", "connected since 20")

	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	shows("binding ml", "InForce", "in force in the cluster after ", "(generation 1, since 20")
	contains(t, "rolebinding show", s.cli("rolebinding", "show", "--cluster-name", "private", "-n", "ml").stderr,
		"in force in the cluster after ", "(generation 1, since 20", "agent: connected since 20")
	contains(t, "cluster show", s.must("cluster", "show", "-n", "private"), "connected since 20", "ml        InForce      generation 1   generation 1   20")

	s.must("lock", "--cluster-name", "private", "-n", "ml", "--reason", "incident 4711")
	shows("binding ml", "binding ml is LOCKED: incident 4711")
	s.await("the JSON lines have the lock", func() bool { return strings.Contains(lines.stdout.String(), `"lockReason":"incident 4711"`) })
	s.must("unlock", "--cluster-name", "private", "-n", "ml")

	// What the owner did not allow at install stays away, and the old roles stay.
	s.refused(exitRefused, []string{"RoleNotAllowed"}, "rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload+","+inference)
	shows("binding ml", "Failed", "still in force is what was written before (generation 1, since 20")
	contains(t, "rolebinding show", s.cli("rolebinding", "show", "--cluster-name", "private", "-n", "ml").stderr, "(Failed): ", "(generation 1, since 20")

	s.stop(s.server)
	s.await("the watch says that the server is away", func() bool { return strings.Contains(follow.log.String(), "still trying") })
	s.start()
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	shows("binding ml", "deleted")
	s.await("the agent is back", func() bool { return s.connected("private") })
	agent.stop()
	s.await("the watch shows that the agent is gone", func() bool { return strings.Count(follow.stdout.String(), "NotConnected") > 1 })

	s.stop(follow)
	s.stop(lines)
	for line := range strings.Lines(lines.stdout.String()) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}\n") {
			t.Errorf("not one JSON object a line: %s", line)
		}
	}
	contains(t, "the JSON lines", lines.stdout.String(), `"connected":true`, `"InForce"`)
}
