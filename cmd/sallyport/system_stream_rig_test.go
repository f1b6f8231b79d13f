package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
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

// streaming is what streams need: the rights that inference-v1 holds, pods/exec
// and pods/log, and an idle pod.
type streaming struct{ *bound }

func newStreaming(t *testing.T) *streaming {
	t.Helper()
	s := &streaming{newBound(t)}
	s.pod("idle", false)
	return s
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
