package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// A node is a cluster with --kubelet, as a test's user sees it.
type node struct {
	dir    string
	admin  *rest.Config
	client *kubernetes.Clientset
}

func newNode(t *testing.T, dir string) *node {
	t.Helper()
	admin := restConfig(t, dir)
	return &node{dir: dir, admin: admin, client: clientFor(t, admin)}
}

// create makes a pod with one container, in the namespace default as all here.
func (n *node) create(ctx context.Context, t *testing.T, name string, change func(*corev1.Pod), command ...string) {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "ignored", Command: command}},
		},
	}
	if change != nil {
		change(p)
	}
	if _, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// await waits until the pod is as wanted, and returns it. A deleted pod is nil.
func (n *node) await(ctx context.Context, t *testing.T, name string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	pods := n.client.CoreV1().Pods(metav1.NamespaceDefault)
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	list, err := pods.List(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	var last *corev1.Pod
	if len(list.Items) == 1 {
		last = &list.Items[0]
	}
	if wanted(last) {
		return last
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, watchFunc(func(o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = options.FieldSelector
		return pods.Watch(ctx, o)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for {
		select {
		case event, ok := <-watcher.ResultChan():
			if !ok {
				t.Fatalf("the watch of pod %s ended", name)
			}
			last, _ = event.Object.(*corev1.Pod)
			if event.Type == watch.Deleted {
				last = nil
			}
			if wanted(last) {
				return last
			}
		case <-ctx.Done():
			t.Fatalf("waiting for pod %s; it is %+v", name, last)
		}
	}
}

type watchFunc func(metav1.ListOptions) (watch.Interface, error)

func (f watchFunc) WatchWithContext(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return f(o)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func isGone(p *corev1.Pod) bool { return p == nil }

func hasEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// executor makes a client of either protocol for an exec or attach request.
func (n *node) executor(t *testing.T, webSocket bool, pod, subresource string, options any) remotecommand.Executor {
	t.Helper()
	request := n.client.CoreV1().RESTClient().Post().Namespace(metav1.NamespaceDefault).
		Resource("pods").Name(pod).SubResource(subresource)
	switch o := options.(type) {
	case *corev1.PodExecOptions:
		request = request.VersionedParams(o, scheme.ParameterCodec)
	case *corev1.PodAttachOptions:
		request = request.VersionedParams(o, scheme.ParameterCodec)
	}
	var executor remotecommand.Executor
	var err error
	if webSocket {
		executor, err = remotecommand.NewWebSocketExecutor(n.admin, http.MethodGet, request.URL().String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(n.admin, http.MethodPost, request.URL())
	}
	if err != nil {
		t.Fatal(err)
	}
	return executor
}

// exec runs a command and returns what it wrote and its exit code.
func (n *node) exec(ctx context.Context, t *testing.T, webSocket bool, pod string, options remotecommand.StreamOptions, command ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	options.Stdout = &out
	if !options.Tty {
		options.Stderr = &errOut
	}
	err := n.executor(t, webSocket, pod, "exec", &corev1.PodExecOptions{
		Command: command, Stdin: options.Stdin != nil, Stdout: true, Stderr: !options.Tty, TTY: options.Tty,
	}).StreamWithContext(ctx, options)
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return out.String(), errOut.String(), exit.Code
	}
	if err != nil {
		t.Fatalf("exec %q: %v", command, err)
	}
	return out.String(), errOut.String(), 0
}

// TestKubelet runs pods of all kinds on one cluster.
func TestKubelet(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "cluster")
	cluster := startProcess(t, "--dir", dir, "--kubelet")
	n := newNode(t, dir)
	n.create(ctx, t, "idle", nil) // no command
	n.await(ctx, t, "idle", isReady)

	for _, protocol := range []struct {
		name      string
		webSocket bool
	}{{name: "SPDY"}, {name: "WebSocket", webSocket: true}} {
		t.Run(protocol.name, func(t *testing.T) {
			t.Run("exec", func(t *testing.T) { testExec(ctx, t, n, protocol.webSocket) })
			t.Run("attach", func(t *testing.T) { testAttach(ctx, t, n, protocol.webSocket) })
			t.Run("port-forward", func(t *testing.T) { testPortForward(ctx, t, n, protocol.webSocket) })
		})
	}
	t.Run("logs", func(t *testing.T) { testLogs(ctx, t, n) })
	t.Run("status", func(t *testing.T) { testStatus(ctx, t, n) })
	t.Run("delete", func(t *testing.T) { testDelete(ctx, t, n) })
	t.Run("endpoint", func(t *testing.T) { testEndpoint(ctx, t, n) })
	t.Run("kubectl", func(t *testing.T) { testKubectl(ctx, t, n) })
	cluster.stop(t)
}

func testExec(ctx context.Context, t *testing.T, n *node, webSocket bool) {
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, tt := range []struct {
		name           string
		options        remotecommand.StreamOptions
		command        []string
		stdout, stderr string
		code           int
	}{
		{name: "output", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", stderr: "err\n"},
		{name: "exit code", command: []string{"sh", "-c", "exit 3"}, code: 3},
		{name: "signal", command: []string{"sh", "-c", "kill -KILL $$"}, code: 137},
		{name: "input", options: remotecommand.StreamOptions{Stdin: strings.NewReader("hello")}, command: []string{"cat"}, stdout: "hello"},
		{name: "much input, and its end", options: remotecommand.StreamOptions{Stdin: bytes.NewReader(random)},
			command: []string{"sha256sum"}, stdout: fmt.Sprintf("%x  -\n", sha256.Sum256(random))},
		{name: "much output", command: []string{"sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"}, stdout: strings.Repeat("x", 1_000_000)},
		{name: "input that nobody reads", options: remotecommand.StreamOptions{Stdin: bytes.NewReader(random)}, command: []string{"true"}},
		{name: "background", command: []string{"sh", "-c", "sleep 1000 & echo done"}, stdout: "done\n"},
		{name: "terminal", options: remotecommand.StreamOptions{Tty: true, TerminalSizeQueue: &sizeOnce{width: 100, height: 30}},
			command: []string{"sh", "-c", "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.01; done; stty size; test -t 1"}, stdout: "30 100\r\n"},
		{name: "terminal's input ends", options: remotecommand.StreamOptions{Tty: true, Stdin: strings.NewReader("hello\n")},
			command: []string{"sh", "-c", "stty -echo; echo ready; wc -l"}, stdout: "1\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code := n.exec(ctx, t, webSocket, "idle", tt.options, tt.command...)
			// What a terminal echoes before stty -echo is a matter of luck.
			if !strings.HasSuffix(stdout, tt.stdout) || !tt.options.Tty && stdout != tt.stdout {
				t.Errorf("stdout %.80q, want %.80q", stdout, tt.stdout)
			}
			if stderr != tt.stderr || code != tt.code {
				t.Errorf("stderr %q, exit code %d; want %q, %d", stderr, code, tt.stderr, tt.code)
			}
		})
	}
}

// A sizeOnce is a terminal that is never resized.
type sizeOnce struct{ width, height uint16 }

func (s *sizeOnce) Next() *remotecommand.TerminalSize {
	if s.width == 0 {
		return nil
	}
	size := &remotecommand.TerminalSize{Width: s.width, Height: s.height}
	s.width = 0
	return size
}

func testAttach(ctx context.Context, t *testing.T, n *node, webSocket bool) {
	name := "attach-" + strconv.FormatBool(webSocket)
	n.create(ctx, t, name, func(p *corev1.Pod) {
		p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	}, "sh", "-c", "while read line; do echo out $line; echo err $line >&2; done")
	n.await(ctx, t, name, isReady)

	input, write := io.Pipe()
	read, output := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		err := n.executor(t, webSocket, name, "attach", &corev1.PodAttachOptions{Stdin: true, Stdout: true, Stderr: true}).
			StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input, Stdout: output, Stderr: &stderr})
		output.Close()
		ended <- err
	}()
	lines := bufio.NewReader(read)
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(write, word)
		if line, err := lines.ReadString('\n'); line != "out "+word+"\n" {
			t.Fatalf("read %q, %v", line, err)
		}
	}
	write.Close() // the end of the input, and so that of the container
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got, want := stderr.String(), "err one\nerr two\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	n.await(ctx, t, name, hasEnded)
}

// testPortForward has a server that answers when the client has sent all, so it
// needs the end of the client's sending to arrive, and the answer after it.
func testPortForward(ctx context.Context, t *testing.T, n *node, webSocket bool) {
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				data, _ := io.ReadAll(conn)
				conn.Write(append(data, fmt.Sprintf("%x", sha256.Sum256(data))...))
			}()
		}
	}()
	local := forward(ctx, t, n, webSocket, "idle", server.Addr().(*net.TCPAddr).Port)
	var connections sync.WaitGroup
	for i := range 8 {
		connections.Go(func() {
			data := make([]byte, 300_000)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			conn, err := net.Dial("tcp4", local)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Write(data); err != nil {
				t.Error(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
			answer, err := io.ReadAll(conn)
			if want := append(data, fmt.Sprintf("%x", sha256.Sum256(data))...); err != nil || !bytes.Equal(answer, want) {
				t.Errorf("connection %d: %d bytes, %v; want %d", i, len(answer), err, len(want))
			}
		})
	}
	connections.Wait()
}

// forward forwards a free port, which it returns as an address, until the test's end.
func forward(ctx context.Context, t *testing.T, n *node, webSocket bool, pod string, port int) string {
	t.Helper()
	url := n.client.CoreV1().RESTClient().Post().Namespace(metav1.NamespaceDefault).
		Resource("pods").Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(n.admin)
	if err != nil {
		t.Fatal(err)
	}
	var dialer httpstream.Dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	if webSocket {
		if dialer, err = portforward.NewSPDYOverWebsocketDialer(url, n.admin); err != nil {
			t.Fatal(err)
		}
	}
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

func (n *node) logs(ctx context.Context, t *testing.T, pod string, options *corev1.PodLogOptions) io.ReadCloser {
	t.Helper()
	stream, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).GetLogs(pod, options).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// testLogs follows a log whose second line comes only when the first was read.
func testLogs(ctx context.Context, t *testing.T, n *node) {
	n.create(ctx, t, "talker", nil, "sh", "-c", "echo one; until [ -e go ]; do sleep 0.05; done; echo two >&2; printf three")
	n.await(ctx, t, "talker", isReady)
	stream := n.logs(ctx, t, "talker", &corev1.PodLogOptions{Follow: true})
	defer stream.Close()
	lines := bufio.NewReader(stream)
	if line, err := lines.ReadString('\n'); line != "one\n" {
		t.Fatalf("first line %q, %v", line, err)
	}
	n.exec(ctx, t, false, "talker", remotecommand.StreamOptions{}, "touch", "go")
	if rest, err := io.ReadAll(lines); string(rest) != "two\nthree" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	n.await(ctx, t, "talker", hasEnded)

	lastLine := int64(1)
	last := n.logs(ctx, t, "talker", &corev1.PodLogOptions{TailLines: &lastLine, Timestamps: true})
	defer last.Close()
	line, err := io.ReadAll(last)
	stamp, text, _ := strings.Cut(string(line), " ")
	if _, timeErr := time.Parse(time.RFC3339Nano, stamp); text != "three" || timeErr != nil {
		t.Errorf("last line %q, %v", line, err)
	}
}

func testStatus(ctx context.Context, t *testing.T, n *node) {
	for _, tt := range []struct {
		name    string
		change  func(*corev1.Pod)
		command []string
		phase   corev1.PodPhase
		code    int32
		message string
	}{
		{name: "succeeded", command: []string{"true"}, phase: corev1.PodSucceeded},
		{name: "failed", command: []string{"sh", "-c", "exit 7"}, phase: corev1.PodFailed, code: 7},
		{name: "no-such-command", command: []string{"no-such-command"}, phase: corev1.PodFailed, code: 128},
		{name: "bound", change: func(p *corev1.Pod) { p.Spec.NodeName = nodeName }, command: []string{"true"}, phase: corev1.PodSucceeded},
		{name: "environment", change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "GREETING", Value: "hello"}}
		}, command: []string{"sh", "-c", `test "$GREETING-$` + asDevcluster + `" = hello-`}, phase: corev1.PodSucceeded},
		{name: "two-containers", change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Command = []string{"sh", "-c", "until [ -e shared ]; do sleep 0.05; done"}
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Image: "ignored", Command: []string{"touch", "shared"}})
		}, phase: corev1.PodSucceeded},
		{name: "init-containers", change: func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "ignored"}}
		}, phase: corev1.PodFailed, message: "devcluster runs no init containers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.create(ctx, t, tt.name, tt.change, tt.command...)
			p := n.await(ctx, t, tt.name, hasEnded)
			if p.Status.Phase != tt.phase || p.Status.Message != tt.message {
				t.Errorf("phase %s, message %q; want %s, %q", p.Status.Phase, p.Status.Message, tt.phase, tt.message)
			}
			if tt.message != "" {
				return
			}
			end := p.Status.ContainerStatuses[0].State.Terminated
			if end == nil || end.ExitCode != tt.code {
				t.Errorf("ended with %+v, want exit code %d", end, tt.code)
			}
		})
	}
}

// A pulse is a named pipe that tells when its last writer has ended.
type pulse struct {
	path string
	read *os.File
}

func newPulse(t *testing.T) *pulse {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pulse")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	return &pulse{path: path, read: read}
}

// command holds the pipe open, in all processes that script starts, and refuses
// to end when it is asked to.
func (p *pulse) command(script string) []string {
	return []string{"sh", "-c", "trap '' TERM; exec 3>" + p.path + "; touch open; " + script}
}

// stopped waits until nobody holds the pipe.
func (p *pulse) stopped(t *testing.T) {
	t.Helper()
	p.read.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.ReadAll(p.read); err != nil {
		t.Errorf("a process of the pod goes on: %v", err)
	}
}

// started waits until the command has the pipe open.
func (p *pulse) started(ctx context.Context, t *testing.T, n *node, pod string) {
	t.Helper()
	n.await(ctx, t, pod, isReady)
	n.exec(ctx, t, false, pod, remotecommand.StreamOptions{}, "sh", "-c", "until [ -e open ]; do sleep 0.02; done")
}

func testDelete(ctx context.Context, t *testing.T, n *node) {
	for _, grace := range []int64{1, 0} {
		t.Run(fmt.Sprintf("grace %d", grace), func(t *testing.T) {
			name := fmt.Sprintf("stubborn-%d", grace)
			alive := newPulse(t)
			n.create(ctx, t, name, nil, alive.command("sleep 1000 & sleep 1000; sleep 1000")...)
			alive.started(ctx, t, n, name)
			executing := make(chan error, 1) // ends with the pod
			go func() {
				executing <- n.executor(t, false, name, "exec", &corev1.PodExecOptions{Command: alive.command("sleep 1000; true"), Stdout: true}).
					StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
			}()
			err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
			if err != nil {
				t.Fatal(err)
			}
			n.await(ctx, t, name, isGone)
			alive.stopped(t)
			if err := <-executing; err == nil {
				t.Error("exec in a deleted pod ended without an error")
			}
			_, err = n.client.CoreV1().Pods(metav1.NamespaceDefault).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
			if !apierrors.IsNotFound(err) {
				t.Errorf("logs of a deleted pod: %v", err)
			}
		})
	}
}

// testEndpoint has who is not the API server knock at the kubelet's door.
func testEndpoint(ctx context.Context, t *testing.T, n *node) {
	object, err := n.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := tls.X509KeyPair(n.admin.CertData, n.admin.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	apiServer, err := tls.LoadX509KeyPair(filepath.Join(n.dir, kubeletClientName+".crt"), filepath.Join(n.dir, kubeletClientName+".key"))
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("https://127.0.0.1:%d/containerLogs/default/idle/main", object.Status.DaemonEndpoints.KubeletEndpoint.Port)
	for _, tt := range []struct {
		name    string
		certs   []tls.Certificate
		refused bool
	}{
		{name: "nobody", refused: true},
		{name: "the admin", certs: []tls.Certificate{admin}, refused: true},
		{name: "the API server", certs: []tls.Certificate{apiServer}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: n.admin.CAData}})
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = tt.certs
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 10 * time.Second}
			defer client.CloseIdleConnections()
			answer, err := client.Get(url)
			if err == nil {
				answer.Body.Close()
			}
			if (err != nil) != tt.refused {
				t.Errorf("the answer is %v, %v", answer, err)
			}
		})
	}
}

// testKubectl does what a user would type.
func testKubectl(ctx context.Context, t *testing.T, n *node) {
	program := filepath.Join("..", "bin", "kubectl")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("no ../bin/kubectl: make build makes it")
	}
	work := t.TempDir()
	kubectl := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig", filepath.Join(n.dir, kubeconfigFile)}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		return string(out), err
	}
	must := func(want string, args ...string) {
		t.Helper()
		if out, err := kubectl("", args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("kubectl %q: %q, %v; want %q", args, out, err, want)
		}
	}
	must("created", "run", "hello", "--image=none", "--", "sh", "-c", "echo hello; sleep 1000")
	must("condition met", "wait", "--for=condition=Ready", "--timeout=20s", "pod/hello")
	must("Ready", "get", "node", nodeName)
	must("hello\n", "exec", "hello", "--", "echo", "hello")
	if out, err := kubectl("hello", "exec", "-i", "hello", "--", "sh", "-c", "cat; exit 5"); out != "hello" || err == nil || err.Error() != "exit status 5" {
		t.Errorf("exec -i: %q, %v", out, err)
	}
	must("hello\n", "logs", "hello")

	big := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{}).Read(big)
	there, back := filepath.Join(work, "there"), filepath.Join(work, "back")
	if err := os.WriteFile(there, big, 0o600); err != nil {
		t.Fatal(err)
	}
	must("", "cp", there, "hello:big")
	must(fmt.Sprintf("%x", sha256.Sum256(big)), "exec", "hello", "--", "sha256sum", "big")
	must("", "cp", "hello:big", back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, big) {
		t.Errorf("cp and back: %d bytes, %v; want %d", len(got), err, len(big))
	}

	out, err := kubectl("word\n", "run", "reader", "--image=none", "--restart=Never", "--rm", "-i", "--quiet", "--", "sh", "-c", "read word; echo got $word")
	if err != nil || !strings.Contains(out, "got word\n") {
		t.Errorf("run -i: %q, %v", out, err)
	}
	must("deleted", "delete", "pod", "hello", "--timeout=20s")
}

// TestKubeletRestart ends devcluster the hard way and the soft way, and wants no
// process to be left, and the pod to be run again.
func TestKubeletRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "cluster")
	alive := newPulse(t)
	first := startProcess(t, "--dir", dir, "--kubelet")
	n := newNode(t, dir)
	n.create(ctx, t, "lasting", nil, alive.command("exec sleep 1000")...)
	alive.started(ctx, t, n, "lasting")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.cmd.Wait() // an error that says it was killed
	alive.stopped(t)

	second := startProcess(t, "--dir", dir, "--kubelet")
	n = newNode(t, dir)
	alive.started(ctx, t, n, "lasting")
	forward(ctx, t, n, false, "lasting", 1) // a stop does not wait for it
	second.stop(t)
	alive.stopped(t)
}
