package main

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// load sends requests from n clients until stop, every other one with a body,
// and returns how many there were. None may fail.
func (s *bound) load(n int) (stop func() int64) {
	s.t.Helper()
	var sent atomic.Int64
	var clients sync.WaitGroup
	end := make(chan struct{})
	for range n {
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if _, err := s.client.CoreV1().Pods("default").List(s.t.Context(), metav1.ListOptions{}); err != nil {
					s.t.Errorf("list, request %d: %v", sent.Load(), err)
					return
				}
				review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"},
				}}
				if _, err := s.client.AuthorizationV1().SelfSubjectAccessReviews().Create(s.t.Context(), review, metav1.CreateOptions{}); err != nil {
					s.t.Errorf("create, request %d: %v", sent.Load(), err)
					return
				}
				sent.Add(2)
			}
		})
	}
	return func() int64 { close(end); clients.Wait(); return sent.Load() }
}

// tunnels counts the connections that the server ever had from agents.
func (s *system) tunnels() int { return strings.Count(s.server.log.String(), "agent connected") }

// TestSystemProxyReplaced replaces the proxy's process as a rolling update does,
// under load and with a watch, a log and an exec open: no request fails, and
// what was open goes on until it ends by itself.
func TestSystemProxyReplaced(t *testing.T) {
	s := newBound(t)
	s.pod("idle", false)
	path, talk := fifo(t)
	s.pod("talker", false, "sh", "-c", `while read -r line; do echo "$line"; done <`+path)
	io.WriteString(talk, "ready\n")
	logs := s.live("logs -f", "logs", "-f", "talker")
	logs.shows("ready\n")
	command, _ := echo(t)
	exec := s.live("exec", append([]string{"exec", "-i", "idle", "--"}, command...)...)
	exec.says("hello")
	exec.shows("hello\n")
	watch, err := s.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=news"})
	if err != nil {
		t.Fatal(err)
	}
	stop := s.load(8)

	old, before := s.agent.halves["proxy"], s.tunnels()
	s.agent.halves["proxy"] = s.process("agent proxy, the second", s.runAgent, s.agent.args["proxy"]...)
	s.await("the new proxy has its tunnels", func() bool { return s.tunnels() == before+2 })
	begin := time.Now()
	old.cancel()
	s.await("the old proxy's tunnels take nothing new", func() bool {
		return strings.Count(s.server.log.String(), "takes no new requests") == 2
	})
	if old.ended() {
		t.Error("the old proxy ended with streams open")
	}

	// What was open before is as alive as it was.
	io.WriteString(talk, "news\n")
	logs.shows("news\n")
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
	watch.Stop()
	talk.Close()
	if code := logs.ends(); code != 0 {
		t.Errorf("logs -f ended with %d", code)
	}
	if old.ended() {
		t.Error("the old proxy ended with an exec open")
	}
	exec.stdin.Close()
	if code := exec.ends(); code != 0 {
		t.Errorf("exec ended with %d", code)
	}
	s.stop(old)
	t.Logf("the old proxy ended after %s; %d requests, none failed", time.Since(begin).Round(time.Millisecond), stop())
}
