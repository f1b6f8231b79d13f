package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSystemCAReplaced replaces the CA of a running system under load, with a
// watch and an exec open: no request fails, and what was open goes on. Then an
// agent that was installed for the old CA does not find the server any more,
// and one with a new manifest's hash does; and while it is away its CA stays.
func TestSystemCAReplaced(t *testing.T) {
	s := newBound(t)
	s.pod("idle", false)
	command, _ := echo(t)
	exec := s.live("exec", append([]string{"exec", "-i", "idle", "--"}, command...)...)
	exec.says("hello")
	exec.shows("hello\n")
	watch, err := s.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=news"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	stop := s.load(2)
	keys := func(args ...string) []string {
		return slices.Concat([]string{"keys"}, args, []string{"--data-dir", s.dir})
	}

	s.refused(exitConflict, []string{"is the only one"}, keys("retire", "ca")...)
	begin := time.Now()
	s.must(keys("rotate", "ca")...)
	moved := s.await("the agent has moved to the new CA", func() bool { return s.cli(keys("retire", "ca")...).code == exitOK })
	t.Logf("replaced %s after the new CA was made; the agent had moved after %s",
		time.Since(begin).Round(time.Millisecond), moved.Round(time.Millisecond))

	exec.says("still there")
	exec.shows("still there\n")
	s.pod("news", false)
	select {
	case event := <-watch.ResultChan():
		if pod, ok := event.Object.(*corev1.Pod); !ok || pod.Name != "news" {
			t.Errorf("the watch says %v", event)
		}
	case <-time.After(soon):
		t.Error("the watch says nothing")
	}
	t.Logf("%d requests, none failed", stop())
	watch.Stop()
	exec.stdin.Close()
	if code := exec.ends(); code != 0 {
		t.Errorf("the exec ended with %d", code)
	}

	// Clients take the new ca.crt.
	_, _, client := s.as(s.ml)
	if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("with the new CA alone: %v", err)
	}

	s.agent.stop()
	old := s.process("agent of an old manifest", s.runAgent, s.agent.args["reconciler"]...)
	s.await("the old manifest's agent is told what to do", func() bool { return strings.Contains(old.log.String(), "apply a new manifest") })
	s.stop(old)
	var list keyList
	if err := json.Unmarshal([]byte(s.must(keys("list", "-o", "json")...)), &list); err != nil {
		t.Fatal(err)
	}
	hash := list.Keys[len(list.Keys)-1].ID // the CA's
	for half, args := range s.agent.args {
		s.agent.args[half] = slices.Clone(args)
		s.agent.args[half][slices.Index(args, "--ca-hash")+1] = hash
	}
	s.agent.start()

	// The CA of an agent that is away is not taken from it.
	s.agent.stop()
	s.must(keys("rotate", "ca")...)
	s.refused(exitConflict, []string{"1 agents have not connected under the new CA", "--force"}, keys("retire", "ca")...)
}
