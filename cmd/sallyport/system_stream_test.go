package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemStreams is exec, cp, logs, attach and port-forward, as users have them.
func TestSystemStreams(t *testing.T) {
	s := newStreaming(t)
	for _, p := range streamProtocols() {
		t.Run("kubectl exec "+p.name, func(t *testing.T) { s.testKubectlExec(t, p) })
		t.Run("client-go exec "+p.name, func(t *testing.T) { s.testExec(t, p) })
		t.Run("stalled "+p.name, func(t *testing.T) { s.testStalled(t, p) })
		t.Run("refused "+p.name, func(t *testing.T) { s.testRefused(t, p) })
		t.Run("aborted "+p.name, func(t *testing.T) { s.testAborted(t, p) })
	}
	t.Run("upgrade paths", s.testUpgradePaths)
	t.Run("unread input", s.testUnread)
	t.Run("parallel", s.testParallel)
	t.Run("cp", s.testCopy)
	t.Run("logs", s.testLogs)

	// No role has these. That the admin can give them to the binding's user
	// shows that Kubernetes decides what, and Sallyport who.
	t.Run("not granted", func(t *testing.T) {
		for resource, args := range map[string][]string{"pods/attach": {"attach", "idle"}, "pods/portforward": {"port-forward", "idle", ":1"}} {
			_, stderr, err := kubectl(t, s.kubeconfig, "", args...)
			if err == nil {
				t.Errorf("%s worked", args[0])
			}
			contains(t, "kubectl", stderr, `User "aks:trustedaccess:ml" cannot create resource "`+resource+`"`)
		}
	})
	s.grant("streams", "aks:trustedaccess:ml", podRule("pods/attach", "pods/portforward"))
	for _, p := range streamProtocols() {
		t.Run("attach "+p.name, func(t *testing.T) { s.testAttach(t, p) })
		t.Run("port-forward "+p.name, func(t *testing.T) { s.testPortForward(t, p) })
	}
}

func (s *streaming) testKubectlExec(t *testing.T, p streamProtocol) {
	p.kubectl(t)
	stdout, stderr, err := kubectl(t, s.kubeconfig, "", "exec", "idle", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("kubectl exec ended with %v, want exit code 3", err)
	}
	if stdout != "out\n" || !strings.HasPrefix(stderr, "err\n") || strings.Contains(stderr, "out") {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	data := string(randomBytes(1<<20, 1))
	stdout, stderr, err = kubectl(t, s.kubeconfig, data, "exec", "-i", "idle", "--", "cat")
	if err != nil || stdout != data {
		t.Errorf("1 MiB through cat: %d bytes, equal: %t, %v\n%s", len(stdout), stdout == data, err, stderr)
	}
	r := s.exchange(t, "/exec")
	if want := int64(len(data)); r.Status != http.StatusSwitchingProtocols || r.Bytes < want {
		t.Errorf("the completion of the exec says %+v, want at least %d bytes", r, want)
	}
}

func (s *streaming) testExec(t *testing.T, p streamProtocol) {
	random := randomBytes(1<<20, 2)
	for _, c := range []struct {
		name    string
		stdin   io.Reader
		tty     remotecommand.TerminalSizeQueue
		command string
		stdout  string
		stderr  string
		code    int
	}{
		{name: "output and exit code", command: "echo out; echo err >&2; exit 7", stdout: "out\n", stderr: "err\n", code: 7},
		{name: "a pipe and its end", stdin: bytes.NewReader(random), command: "sha256sum", stdout: fmt.Sprintf("%x  -\n", sha256.Sum256(random))},
		{name: "much output", command: `head -c 3000000 /dev/zero | tr '\0' x`, stdout: strings.Repeat("x", 3_000_000)},
		{name: "terminal", tty: &terminal{width: 100, height: 30},
			command: `until [ "$(stty size)" = '30 100' ]; do sleep 0.01; done; stty size; test -t 1`, stdout: "30 100\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			var stdout, stderr bytes.Buffer
			streams := remotecommand.StreamOptions{Stdin: c.stdin, Stdout: &stdout, Stderr: &stderr}
			if c.tty != nil {
				streams.Stderr, streams.Tty, streams.TerminalSizeQueue = nil, true, c.tty
			}
			err := execute(ctx, p, s.config, s.client, "idle", streams, "sh", "-c", c.command)
			var exit utilexec.CodeExitError
			if errors.As(err, &exit) {
				err = nil
			}
			if err != nil || exit.Code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
				t.Errorf("code %d, %v, stdout %.80q, stderr %.80q; want %d, %.80q, %.80q", exit.Code, err, stdout.String(), stderr.String(), c.code, c.stdout, c.stderr)
			}
		})
	}
}

// terminal is one that is never resized.
type terminal struct{ width, height uint16 }

// Next serves [remotecommand.TerminalSizeQueue].
func (q *terminal) Next() *remotecommand.TerminalSize {
	if q.width == 0 {
		return nil
	}
	size := &remotecommand.TerminalSize{Width: q.width, Height: q.height}
	q.width = 0
	return size
}

// slowReader takes its first bytes, and the rest when it may.
type slowReader struct {
	first chan struct{} // closed with the first bytes
	once  sync.Once
	may   chan struct{}
	n     int
	size  int
	all   func() error // called with size bytes
}

// Write serves [io.Writer].
func (r *slowReader) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.first) })
	<-r.may
	r.n += len(p)
	if r.n == r.size {
		return len(p), r.all()
	}
	return len(p), nil
}

// testStalled has a client that does not read what a command writes: neighbours
// do not notice, and nothing is lost when it reads on (checklist, item 32). The
// command ends when all is read: of one that ends before, the API server closes
// its connection at once, and if the client pings then, the rest is gone, with
// or without a gateway.
func (s *streaming) testStalled(t *testing.T, p streamProtocol) {
	const size, gets = 48 << 20, 50
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	written, read := filepath.Join(t.TempDir(), "written"), filepath.Join(t.TempDir(), "read")
	reader := &slowReader{first: make(chan struct{}), may: make(chan struct{}), size: size, all: func() error { return os.WriteFile(read, nil, 0o600) }}
	outcome := make(chan error, 1)
	go func() {
		outcome <- execute(ctx, p, s.config, s.client, "idle", remotecommand.StreamOptions{Stdout: reader},
			"sh", "-c", fmt.Sprintf("head -c %d /dev/zero; touch %s; until test -e %s; do sleep 0.02; done", size, written, read))
	}()
	select {
	case <-reader.first:
	case err := <-outcome:
		t.Fatalf("the exec ended: %v", err)
	}
	var worst time.Duration
	for i := range gets {
		begin := time.Now()
		if _, err := services(t, s.client); err != nil {
			t.Errorf("GET %d beside a stalled exec: %v", i, err)
		}
		worst = max(worst, time.Since(begin))
	}
	if _, err := os.Stat(written); err == nil {
		t.Errorf("all of %d bytes went somewhere while nobody read them", size)
	}
	close(reader.may)
	if err := <-outcome; err != nil || reader.n != size {
		t.Errorf("the stalled exec gave %d bytes of %d in the end: %v", reader.n, size, err)
	}
	t.Logf("%d GETs beside a stalled exec, the slowest took %s", gets, worst.Round(time.Millisecond))
}

// testAborted kills kubectl in the middle of an exec: the process in the pod
// loses its input, and the API server is done with it.
func (s *streaming) testAborted(t *testing.T, p streamProtocol) {
	p.kubectl(t)
	command, ended := echo(t)
	k := s.live("exec over "+p.name, append([]string{"exec", "-i", "idle", "--"}, command...)...)
	k.shows("ready\n")
	k.kill()
	k.ends()
	s.inputEnded("the exec whose kubectl was killed", ended)
	r := s.exchange(t, "/pods/idle/exec")
	s.await("the API server is done with it", func() bool { return s.kubeCompleted(r.ID) })
	if r.Subresource != "exec" || r.Resource != "pods" || r.Namespace != "default" || r.Name != "idle" || r.Status != http.StatusSwitchingProtocols {
		t.Errorf("recorded as %+v", r)
	}
}

// testUnread has commands end while their input still comes. The end of the
// output and the exit code arrive all the same, as they do without a gateway.
// Over SPDY the API server itself loses them now and then.
func (s *streaming) testUnread(t *testing.T) {
	const execs = 30
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	random := randomBytes(1<<20, 4)
	for i := range execs {
		var stdout bytes.Buffer
		err := execute(ctx, streamProtocols()[0], s.config, s.client, "idle",
			remotecommand.StreamOptions{Stdin: bytes.NewReader(random), Stdout: &stdout}, "sh", "-c", "echo done; exit 9")
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 9 || stdout.String() != "done\n" {
			t.Errorf("exec %d: %q, %v", i, stdout.String(), err)
		}
	}
}

func (s *streaming) testParallel(t *testing.T) {
	const execs = 20
	begin := time.Now()
	var all sync.WaitGroup
	for i := range execs {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			data, stdout := randomBytes(100_000, byte(i)), bytes.Buffer{}
			err := execute(ctx, streamProtocols()[i%2], s.config, s.client, "idle", remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: &stdout}, "cat")
			if err != nil || !bytes.Equal(stdout.Bytes(), data) {
				t.Errorf("exec %d: %d bytes of %d, %v", i, stdout.Len(), len(data), err)
			}
		})
	}
	all.Wait()
	t.Logf("%d execs at once: %s", execs, time.Since(begin).Round(time.Millisecond))
}

func (s *streaming) testCopy(t *testing.T) {
	data, dir := randomBytes(3_000_000, 3), t.TempDir()
	for _, p := range streamProtocols() {
		t.Run(p.name, func(t *testing.T) {
			p.kubectl(t)
			there, back := filepath.Join(dir, p.name), filepath.Join(dir, p.name+".back")
			if err := os.WriteFile(there, data, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"cp", there, "idle:" + p.name}, {"cp", "idle:" + p.name, back}} {
				if _, stderr, err := kubectl(t, s.kubeconfig, "", args...); err != nil {
					t.Fatalf("kubectl %q: %v\n%s", args, err, stderr)
				}
			}
			if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
			}
		})
	}
}

// testLogs follows a log whose next line is said only when the last was read.
func (s *streaming) testLogs(t *testing.T) {
	path, talk := fifo(t)
	s.pod("talker", false, "sh", "-c", `while read -r line; do [ "$line" = quit ] && exit; echo "$line"; done <`+path)
	follow := s.live("logs -f", "logs", "-f", "talker")
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		io.WriteString(talk, line)
		follow.shows(line)
	}
	io.WriteString(talk, "quit\n")
	if code := follow.ends(); code != 0 || follow.stdout.String() != "one\ntwo\nthree\n" {
		t.Errorf("logs -f ended with %d: %q %s", code, follow.stdout.String(), follow.stderr.String())
	}
}

func (s *streaming) testAttach(t *testing.T, p streamProtocol) {
	p.kubectl(t)
	name := "attach-" + strings.ToLower(p.name)
	s.pod(name, true, "sh", "-c", "while read -r line; do echo out $line; echo err $line >&2; done")
	attach := s.live("attach", "attach", "-i", name)
	for _, word := range []string{"one", "two"} {
		attach.says(word)
		attach.shows("out " + word + "\n")
	}
	attach.stdin.Close() // the end of the input, and so of the container
	if code := attach.ends(); code != 0 || attach.stdout.String() != "out one\nout two\n" {
		t.Errorf("attach ended with %d: %q", code, attach.stdout.String())
	}
	contains(t, "attach, on standard error,", attach.stderr.String(), "err one\n", "err two\n")
}

func (s *streaming) testPortForward(t *testing.T, p streamProtocol) {
	p.kubectl(t)
	port, open := hashServer(t)
	k := s.live("port-forward", "port-forward", "idle", fmt.Sprintf(":%d", port))
	k.shows("Forwarding from 127.0.0.1:")
	byKubectl := forwarding.FindStringSubmatch(k.stdout.String())[1]
	byClient, _ := s.forward(p, port)
	for name, address := range map[string]string{"kubectl": byKubectl, "client-go": byClient} {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() { askHash(t, address, randomBytes(200_000, byte(i))) })
		}
		all.Wait()
		// A client that goes away does not take the others with it.
		conn := dialForwarded(t, address)
		if _, err := conn.Write([]byte("half a request")); err != nil {
			t.Error(err)
		}
		s.await("the server has the connection", func() bool { return open() == 1 })
		conn.SetLinger(0)
		conn.Close()
		s.await(name+"'s aborted connection has ended", func() bool { return open() == 0 })
		askHash(t, address, []byte("the next"))
	}
}

// testRefused is what Kubernetes, and the gateway, do not let happen.
func (s *streaming) testRefused(t *testing.T, p streamProtocol) {
	p.kubectl(t)
	run := func(config *rest.Config, client *kubernetes.Clientset, pod string) error {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		return execute(ctx, p, config, client, pod, remotecommand.StreamOptions{Stdout: io.Discard}, "true")
	}
	if err := run(s.config, s.client, "nobody"); err == nil || !strings.Contains(err.Error(), `pods "nobody" not found`) {
		t.Errorf("exec in a pod that does not exist: %v", err)
	}
	if r := s.exchange(t, "/nobody/exec"); r.Status != http.StatusNotFound {
		t.Errorf("exec in a pod that does not exist is recorded as %+v", r)
	}
	_, stderr, err := kubectl(t, s.kubeconfig, "", "exec", "nobody", "--", "true")
	if err == nil {
		t.Error("exec in a pod that does not exist worked")
	}
	contains(t, "kubectl", stderr, `Error from server (NotFound): pods "nobody" not found`)

	name := "weak-" + strings.ToLower(p.name)
	weak := s.source(name)
	s.bind("private", name, weak.id, mlworkload)
	file, config, client := s.as(weak)
	const forbidden = `User "aks:trustedaccess:%s" cannot %s resource "pods/exec" in API group "" in the namespace "default"`
	if err := run(config, client, "idle"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf(forbidden, name, p.verb())) {
		t.Errorf("exec without pods/exec: %v", err)
	}
	// kubectl reads the pod first, which mlworkload does not hold either.
	_, stderr, err = kubectl(t, file, "", "exec", "idle", "--", "true")
	if err == nil {
		t.Error("exec without pods/exec worked")
	}
	contains(t, "kubectl", stderr, `Error from server (Forbidden)`, `cannot get resource "pods"`)
	s.grant(name, "aks:trustedaccess:"+name, podRule("pods"))
	s.await("the admin's grant holds", func() bool {
		_, err := client.CoreV1().Pods("default").Get(t.Context(), "idle", metav1.GetOptions{})
		return err == nil
	})
	_, stderr, err = kubectl(t, file, "", "exec", "idle", "--", "true")
	if err == nil {
		t.Error("exec without pods/exec worked")
	}
	// After a refused WebSocket kubectl tries SPDY, a POST, and shows that answer.
	contains(t, "kubectl", stderr, fmt.Sprintf(forbidden, name, streamProtocol{}.verb()))
}

// testUpgradePaths tries to upgrade what is no stream of a pod (checklist, item 9).
func (s *streaming) testUpgradePaths(t *testing.T) {
	token := s.ml.token(idp.DataPlaneAudience)
	transport := s.transport()
	defer transport.CloseIdleConnections()
	transport.ForceAttemptHTTP2 = false // upgrades are of HTTP/1.1
	for _, path := range []string{
		"/api/v1/pods?watch=1", "/api/v1/namespaces/default/pods/idle", "/api/v1/namespaces/default/pods/idle/log?follow=1",
		"/api/v1/nodes/devnode/proxy/exec/default/idle/main", "/apis/apps/v1/namespaces/default/deployments/d/exec",
		"/api/v1/namespaces/default/pods/idle/exec/more", "/version",
	} {
		for _, p := range []string{"websocket", "SPDY/3.1"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/k8s"+s.clusterID+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Authorization": {"Bearer " + token}, "Connection": {"Upgrade"}, "Upgrade": {p}}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest || err != nil {
				t.Errorf("upgrade of %s to %s: %d %s, %v; want 400", path, p, resp.StatusCode, body, err)
			}
			contains(t, path, string(body), "can be upgraded")
		}
	}
}
