package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	utilexec "k8s.io/utils/exec"
)

const (
	// streamIdleTimeout and streamCreationTimeout are a real kubelet's.
	streamIdleTimeout     = 4 * time.Hour
	streamCreationTimeout = 30 * time.Second
	dialTimeout           = 10 * time.Second
)

// routes has the paths that the API server asks a kubelet for. The protocols
// are the work of k8s.io/cri-streaming: SPDY, and WebSockets up to v4.
func (k *kubelet) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", k.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", k.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.servePortForward)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	return mux
}

func (k *kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c, ok := k.requestedContainer(w, r)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r, streams{container: c}, "", "", "", r.URL.Query()["command"], options,
		streamIdleTimeout, streamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c, ok := k.requestedContainer(w, r)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r, streams{container: c}, "", "", "", options,
		streamIdleTimeout, streamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := k.pod(r.PathValue("namespace"), r.PathValue("pod")); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	portforward.ServePortForward(w, r, streams{}, r.PathValue("pod"), "", options,
		streamIdleTimeout, streamCreationTimeout, portforward.SupportedProtocols)
}

func (k *kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	options := &corev1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		http.Error(w, fmt.Sprintf("reading the query: %v", err), http.StatusBadRequest)
		return
	}
	c, ok := k.requestedContainer(w, r)
	if !ok {
		return
	}
	if options.Previous {
		http.Error(w, fmt.Sprintf("previous terminated container %q not found: devcluster restarts none", c.spec.Name), http.StatusBadRequest)
		return
	}
	flushing := &flushWriter{to: w, flush: http.NewResponseController(w).Flush}
	var stdout, stderr io.Writer = flushing, flushing
	if options.Stream != nil {
		switch *options.Stream {
		case corev1.LogStreamStdout:
			stderr = nil
		case corev1.LogStreamStderr:
			stdout = nil
		}
	}
	if err := readLog(r.Context(), c.logPath, options, c.running, stdout, stderr); err != nil && !flushing.began {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// requestedContainer answers with 404 itself if there is none.
func (k *kubelet) requestedContainer(w http.ResponseWriter, r *http.Request) (*container, bool) {
	c, err := k.container(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, false
	}
	return c, true
}

// A flushWriter sends each write on at once.
type flushWriter struct {
	to    io.Writer
	flush func() error
	began bool
}

func (w *flushWriter) Write(data []byte) (int, error) {
	w.began = true
	n, err := w.to.Write(data)
	if err != nil {
		return n, err
	}
	return n, w.flush()
}

// streams is what cri-streaming calls when the streams of one request are open.
// The container is that of the request already; the names are not looked at.
type streams struct{ container *container }

// ExecInContainer runs a command. Its exit code other than zero is an error that
// cri-streaming knows.
func (s streams) ExecInContainer(_ context.Context, _, _, _ string, args []string, stdin io.Reader, stdout, stderr io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize, _ time.Duration) error {
	code, err := s.container.exec(args, stdin, stdout, stderr, tty, sizes)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: errors.New("exit code " + strconv.Itoa(code)), Code: code}
	}
	return nil
}

// AttachContainer joins the container's main command.
func (s streams) AttachContainer(_ context.Context, _, _, _ string, stdin io.Reader, stdout, stderr io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize) error {
	return s.container.attach(stdin, stdout, stderr, sizes)
}

// PortForward carries one connection. The client's end of sending is passed on,
// and the answer to it still arrives; the server's end of sending is the end, as
// kubectl takes it for that, too.
func (s streams) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { // ends with the client's stream, which its caller closes
		io.Copy(conn, stream) // an error shows in the other direction
		conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}
