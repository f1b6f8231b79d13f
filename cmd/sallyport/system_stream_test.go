package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// streamProtocol is one of the two that kubectl and client-go speak for exec,
// attach and port-forward.
type streamProtocol struct {
	name      string
	webSocket bool
}

func streamProtocols() []streamProtocol {
	return []streamProtocol{{"WebSocket", true}, {"SPDY", false}}
}

// kubectl has it speak this protocol until the end of the test.
func (p streamProtocol) kubectl(t *testing.T) {
	for _, name := range []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"} {
		t.Setenv(name, fmt.Sprint(p.webSocket))
	}
}

// verb is what Kubernetes takes its request for: a WebSocket begins with a GET.
func (p streamProtocol) verb() string {
	if p.webSocket {
		return "get"
	}
	return "create"
}

// streaming is a system with a source that is bound with inference-v1, which
// holds pods/exec and pods/log, and an idle pod.
type streaming struct {
	*system
	kube       *kubeCluster
	cluster    string
	ml         source
	kubeconfig string
	config     *rest.Config
	client     *kubernetes.Clientset
}

func newStreaming(t *testing.T) *streaming {
	t.Helper()
	// Of a binary with the race detector, the credential plugin would rest a
	// second before it ends.
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	s := &streaming{system: newSystem(t)}
	s.cluster = s.register("private")
	s.install("private", "mlworkload,inference-v1").start()
	s.kube, s.ml = theCluster(t), s.source("ml")
	s.bind("private", "ml", s.ml.id, inference)
	s.kubeconfig, s.config, s.client = s.as(s.ml)
	s.pod("idle", false)
	return s
}

// as is what a source's user has: a kubeconfig, and what client-go makes of it.
func (s *streaming) as(w source) (string, *rest.Config, *kubernetes.Clientset) {
	s.t.Helper()
	file := w.kubeconfig("private")
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		s.t.Fatal(err)
	}
	config.QPS, config.Timeout = -1, time.Minute
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return file, config, client
}

// pod runs one, with something idle if there is no command, until the end of
// the test.
func (s *streaming) pod(name string, stdin bool, command ...string) {
	s.t.Helper()
	pods := s.kube.admin.CoreV1().Pods("default")
	_, err := pods.Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "none", Command: command, Stdin: stdin, StdinOnce: stdin}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Errorf("remove pod %s: %v", name, err)
		}
	})
	s.await("pod "+name+" runs", func() bool {
		p, err := pods.Get(s.t.Context(), name, metav1.GetOptions{})
		return err == nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
}

// grant has the cluster's admin give a binding's user more than its roles hold.
func (s *streaming) grant(name, user string, resources ...string) {
	s.t.Helper()
	rbac := s.kube.admin.RbacV1()
	meta := metav1.ObjectMeta{Name: name}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := errors.Join(rbac.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}), rbac.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			s.t.Errorf("remove what the admin granted: %v", err)
		}
	})
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: resources}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	if _, err := rbac.ClusterRoles().Create(s.t.Context(), role, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := rbac.ClusterRoleBindings().Create(s.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// fifo is a named pipe that the test and a process in a pod share.
func fifo(t *testing.T) (path string, f *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return path, f
}

// echo is a command that says what it reads, and says at the end, on a pipe to
// the test, that its input has ended.
func echo(t *testing.T) (command []string, ended *os.File) {
	t.Helper()
	path, f := fifo(t)
	return []string{"sh", "-c", "echo ready; cat; echo ended >" + path}, f
}

// inputEnded waits for an echo to say so.
func (s *streaming) inputEnded(what string, ended *os.File) {
	s.t.Helper()
	ended.SetReadDeadline(time.Now().Add(soon))
	line := make([]byte, len("ended\n"))
	if _, err := io.ReadFull(ended, line); err != nil || string(line) != "ended\n" {
		s.t.Errorf("%s: the process in the pod still has its input: %q, %v", what, line, err)
	}
}

func randomBytes(n int, seed byte) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

// liveKubectl is a kubectl that goes on.
type liveKubectl struct {
	s              *streaming
	what           string
	stdin          io.WriteCloser
	stdout, stderr buffer
	done           chan struct{}
	code           int // valid after done
}

// live starts kubectl as the source; it is killed with the test at the latest.
func (s *streaming) live(what string, args ...string) *liveKubectl {
	s.t.Helper()
	path, err := tool("kubectl")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &liveKubectl{s: s, what: what, done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig", s.kubeconfig, "--cache-dir", s.t.TempDir()}, args...)...)
	cmd.Stdout, cmd.Stderr = &k.stdout, &k.stderr
	if k.stdin, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(k.done)
		cmd.Wait() // what matters of its error is the code
		k.code = cmd.ProcessState.ExitCode()
	}()
	s.t.Cleanup(func() {
		cancel()
		<-k.done
	})
	return k
}

// shows waits until standard output has that text.
func (k *liveKubectl) shows(text string) {
	k.s.t.Helper()
	k.s.await(k.what+" shows "+text, func() bool {
		if strings.Contains(k.stdout.String(), text) {
			return true
		}
		if k.ended() {
			k.s.t.Fatalf("%s ended with %d without %q:\n%s%s", k.what, k.code, text, k.stdout.String(), k.stderr.String())
		}
		return false
	})
}

func (k *liveKubectl) says(line string) {
	k.s.t.Helper()
	if _, err := io.WriteString(k.stdin, line+"\n"); err != nil {
		k.s.t.Fatalf("%s: %v", k.what, err)
	}
}

func (k *liveKubectl) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// ends waits for its end, and returns the exit code.
func (k *liveKubectl) ends() int {
	k.s.t.Helper()
	k.s.await(k.what+" ends", k.ended)
	return k.code
}

// execute runs a command in a pod with client-go. What kubectl shows as an exit
// code is an error that names it.
func execute(ctx context.Context, p streamProtocol, config *rest.Config, client *kubernetes.Clientset, pod string, streams remotecommand.StreamOptions, command ...string) error {
	url := client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Command: command, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil, TTY: streams.Tty,
		}, scheme.ParameterCodec).URL()
	var executor remotecommand.Executor
	var err error
	if p.webSocket {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, url.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, url)
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, streams)
}

// forward has client-go forward a free port, whose address it returns, to one
// of 127.0.0.1; ended gets the outcome.
func (s *streaming) forward(p streamProtocol, port int) (address string, ended <-chan error) {
	s.t.Helper()
	url := s.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("idle").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	if p.webSocket {
		if dialer, err = portforward.NewSPDYOverWebsocketDialer(url, s.config); err != nil {
			s.t.Fatal(err)
		}
	}
	stop, ready, outcome, done := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(done)
		outcome <- forwarder.ForwardPorts()
	}()
	s.t.Cleanup(func() {
		close(stop)
		<-done
	})
	select {
	case <-ready:
	case err := <-outcome:
		s.t.Fatalf("port-forward: %v", err)
	case <-time.After(soon):
		s.t.Fatal("the port-forward is not ready")
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), outcome
}

// hashServer answers each connection with what it sent, and its hash, when the
// client has sent all; open counts those that have not ended.
func hashServer(t *testing.T) (port int, open func() int) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns sync.WaitGroup
	var count int
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			count++
			mu.Unlock()
			conns.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(2 * time.Minute))
				if data, err := io.ReadAll(conn); err == nil {
					conn.Write(append(data, fmt.Sprintf("%x", sha256.Sum256(data))...))
				}
				mu.Lock()
				defer mu.Unlock()
				count--
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port, func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// askHash sends data, ends sending, and checks the answer that comes after it.
func askHash(t *testing.T, address string, data []byte) {
	t.Helper()
	conn := dialForwarded(t, address)
	defer conn.Close()
	if _, err := conn.Write(data); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Errorf("half-close: %v", err)
	}
	answer, err := io.ReadAll(conn)
	if want := append(bytes.Clone(data), fmt.Sprintf("%x", sha256.Sum256(data))...); err != nil || !bytes.Equal(answer, want) {
		t.Errorf("the answer after the half-close has %d bytes, %v; want %d", len(answer), err, len(want))
	}
}

func dialForwarded(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(soon))
	return conn.(*net.TCPConn)
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

// TestSystemStreams is exec, cp, logs, attach and port-forward, as users have them.
func TestSystemStreams(t *testing.T) {
	s := newStreaming(t)
	for _, p := range streamProtocols() {
		t.Run("kubectl exec "+p.name, func(t *testing.T) { s.testKubectlExec(t, p) })
		t.Run("client-go exec "+p.name, func(t *testing.T) { s.testExec(t, p) })
		t.Run("stalled "+p.name, func(t *testing.T) { s.testStalled(t, p) })
		t.Run("refused "+p.name, func(t *testing.T) { s.testRefused(t, p) })
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
	s.grant("streams", "aks:trustedaccess:ml", "pods/attach", "pods/portforward")
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

// exchange returns the completion of the latest request whose path ends so,
// when it is there.
func (s *streaming) exchange(t *testing.T, suffix string) audit.Record {
	t.Helper()
	var complete audit.Record
	s.await("the completion of "+suffix, func() bool {
		var decision audit.Record
		complete = audit.Record{}
		for _, r := range s.records() {
			switch {
			case r.Stage == audit.Decision && strings.HasSuffix(r.Path, suffix):
				decision = r
			case r.Stage == audit.Complete && r.ID == decision.ID:
				complete = r
			}
		}
		return complete.ID != "" && complete.ID == decision.ID
	})
	return complete
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
}

// Write serves [io.Writer].
func (r *slowReader) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.first) })
	<-r.may
	r.n += len(p)
	return len(p), nil
}

// testStalled has a client that does not read what a command writes: neighbours
// do not notice, and nothing is lost when it reads on (checklist, item 32).
func (s *streaming) testStalled(t *testing.T, p streamProtocol) {
	const size, gets = 48 << 20, 50
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	finished := filepath.Join(t.TempDir(), "finished")
	reader := &slowReader{first: make(chan struct{}), may: make(chan struct{})}
	outcome := make(chan error, 1)
	go func() {
		outcome <- execute(ctx, p, s.config, s.client, "idle", remotecommand.StreamOptions{Stdout: reader},
			"sh", "-c", fmt.Sprintf("head -c %d /dev/zero; touch %s", size, finished))
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
	if _, err := os.Stat(finished); err == nil {
		t.Errorf("all of %d bytes went somewhere while nobody read them", size)
	}
	close(reader.may)
	if err := <-outcome; err != nil || reader.n != size {
		t.Errorf("the stalled exec gave %d bytes of %d in the end: %v", reader.n, size, err)
	}
	t.Logf("%d GETs beside a stalled exec, the slowest took %s", gets, worst.Round(time.Millisecond))
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
	s.grant(name, "aks:trustedaccess:"+name, "pods")
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
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/k8s"+s.cluster+path, nil)
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

// TestSystemStreamsRevoked withdraws the consent under one stream of each kind.
func TestSystemStreamsRevoked(t *testing.T) {
	s := newStreaming(t)
	s.grant("streams", "aks:trustedaccess:ml", "pods/attach", "pods/portforward")
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

// kubeCompleted reports whether the API server has recorded the end of a
// request, not only of its answer's header.
func (s *streaming) kubeCompleted(id string) bool {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.kube.dir, "audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, `"auditID":"`+id+`"`) && strings.Contains(line, `"stage":"ResponseComplete"`) {
			return true
		}
	}
	return false
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
