package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

// liveStream is one that a revocation has to end.
type liveStream struct {
	name   string
	path   string // end of its path, unique among the live ones
	status int
	ended  func() bool // at the client
	gone   func()      // waits for its end in the pod; nil if that has none
}

// openStreams opens one of each kind.
func (s *streaming) openStreams(t *testing.T) []liveStream {
	t.Helper()
	path, talk := fifo(t)
	s.pod("talker", false, "sh", "-c", `while read -r line; do echo "$line"; done <`+path)
	io.WriteString(talk, "ready\n")
	logs := s.live("logs -f", "logs", "-f", "talker")
	logs.shows("ready\n")
	streams := []liveStream{{name: "logs -f", path: "/pods/talker/log", status: http.StatusOK, ended: logs.ended}}
	for _, p := range streamProtocols() {
		p.kubectl(t)
		for _, kind := range []string{"exec", "attach"} {
			pod := kind + "-" + strings.ToLower(p.name)
			command, ended := echo(t)
			var k *liveKubectl
			if kind == "exec" {
				s.pod(pod, false)
				k = s.live("exec over "+p.name, append([]string{"exec", "-i", pod, "--"}, command...)...)
				k.shows("ready\n")
			} else {
				s.pod(pod, true, command...)
				k = s.live("attach over "+p.name, "attach", "-i", pod)
			}
			k.says("hello")
			k.shows("hello\n")
			streams = append(streams, liveStream{
				name: k.what, path: "/pods/" + pod + "/" + kind, status: http.StatusSwitchingProtocols, ended: k.ended,
				gone: func() { s.inputEnded(k.what, ended) },
			})
		}
		pod := "forward-" + strings.ToLower(p.name)
		s.pod(pod, false)
		port, open := hashServer(t)
		k := s.live("port-forward over "+p.name, "port-forward", pod, fmt.Sprintf(":%d", port))
		k.shows("Forwarding from 127.0.0.1:")
		conn := dialForwarded(t, forwarding.FindStringSubmatch(k.stdout.String())[1])
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte("half a request")); err != nil {
			t.Fatal(err)
		}
		s.await("the server has the connection", func() bool { return open() == 1 })
		streams = append(streams, liveStream{
			name: k.what, path: "/pods/" + pod + "/portforward", status: http.StatusSwitchingProtocols, ended: k.ended,
			gone: func() { s.await(k.what+"'s connection in the pod has ended", func() bool { return open() == 0 }) },
		})
	}
	return streams
}

// TestSystemItem26StreamsRevoked withdraws the consent under one stream of each kind.
func TestSystemItem26StreamsRevoked(t *testing.T) {
	s := newStreaming(t)
	s.grant("streams", "aks:trustedaccess:ml", podRule("pods/attach", "pods/portforward"))
	streams := s.openStreams(t)
	for _, l := range streams {
		if l.ended() {
			t.Errorf("%s ended before it was cut", l.name)
		}
	}
	begin := time.Now()
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	t.Logf("withdrawal to acknowledged: %s", time.Since(begin).Round(time.Millisecond))
	for _, l := range streams {
		s.await(l.name+" ends", l.ended)
		t.Logf("%s: its client has ended after %s", l.name, time.Since(begin).Round(time.Millisecond))
		if l.gone != nil {
			l.gone()
		}
		r := s.exchange(t, l.path)
		if r.Status != l.status || r.Bytes == 0 {
			t.Errorf("the completion of %s says %+v, want status %d and bytes", l.name, r, l.status)
		}
		s.await("the API server is done with "+l.name, func() bool { return s.kubeCompleted(r.ID) })
		t.Logf("%s: pod and API server after %s; recorded: %d, %d bytes, %q", l.name, time.Since(begin).Round(time.Millisecond), r.Status, r.Bytes, r.Reason)
	}
	if err := execute(t.Context(), streamProtocols()[0], s.config, s.client, "idle", remotecommand.StreamOptions{Stdout: io.Discard}, "true"); err == nil ||
		!strings.Contains(err.Error(), "no trusted access role binding") {
		t.Errorf("exec after withdrawal: %v", err)
	}
}

// TestSystemStreamsNarrowed takes the role that holds pods/exec away under an
// exec of either protocol.
func TestSystemStreamsNarrowed(t *testing.T) {
	s := newStreaming(t)
	update := func(roles string) {
		t.Helper()
		s.must("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", roles)
	}
	for _, p := range streamProtocols() {
		t.Run(p.name, func(t *testing.T) {
			p.kubectl(t)
			update(inference + "," + mlworkload)
			command, ended := echo(t)
			k := s.live("exec over "+p.name, append([]string{"exec", "-i", "idle", "--"}, command...)...)
			k.shows("ready\n")
			begin := time.Now()
			update(mlworkload)
			k.ends()
			s.inputEnded(k.what, ended)
			t.Logf("narrowing to the exec's end: %s", time.Since(begin).Round(time.Millisecond))
		})
	}
	if _, err := services(t, s.client); err != nil {
		t.Errorf("the role that stays: %v", err)
	}
}
