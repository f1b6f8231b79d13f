package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// maxLogLine is where a longer line is split; containerd does it here.
const maxLogLine = 16 << 10

// A containerLog takes a container's output: to a file in the format of
// container runtimes, which the kubelet's own code reads, and to those attached.
type containerLog struct {
	file *os.File
	// cut is closed when the container must end, whoever is still reading.
	cut     chan struct{}
	cutOnce sync.Once

	mu       sync.Mutex
	closed   bool
	stdout   logStream
	stderr   logStream
	attached []*attachment
}

// A logStream is one of a container's two outputs.
type logStream struct {
	log  *containerLog
	name runtimeapi.LogStreamType
	// rest is the begin of a line that has not ended; under log.mu.
	rest []byte
}

// An attachment is a reader of output as it comes.
type attachment struct {
	// chunks is closed at the end of the output.
	chunks chan chunk
	// gone is closed by the reader when it has had enough.
	gone chan struct{}
}

// A chunk is output of one stream.
type chunk struct {
	stream runtimeapi.LogStreamType
	data   []byte
}

func newContainerLog(path string) (*containerLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a container's log: %w", err)
	}
	l := &containerLog{file: file, cut: make(chan struct{})}
	l.stdout = logStream{log: l, name: runtimeapi.Stdout}
	l.stderr = logStream{log: l, name: runtimeapi.Stderr}
	return l, nil
}

// Write never fails for the sake of a reader. It waits for slow ones, and so
// does the container, until cutOff.
func (s *logStream) Write(data []byte) (int, error) {
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	s.rest = append(s.rest, data...)
	var lines bytes.Buffer
	for {
		line, rest, tag := cutLine(s.rest)
		if tag == "" {
			break
		}
		s.format(&lines, tag, line)
		s.rest = rest
	}
	s.rest = bytes.Clone(s.rest)
	if _, err := l.file.Write(lines.Bytes()); err != nil {
		return 0, fmt.Errorf("writing a container's log: %w", err)
	}
	l.send(chunk{stream: s.name, data: bytes.Clone(data)})
	return len(data), nil
}

// cutLine takes the first line, or the most of a long one, from data. The tag is
// empty if neither is there yet.
func cutLine(data []byte) (line, rest []byte, tag runtimeapi.LogTag) {
	end := bytes.IndexByte(data, '\n')
	if end >= 0 && end <= maxLogLine {
		return data[:end], data[end+1:], runtimeapi.LogTagFull
	}
	if len(data) > maxLogLine {
		return data[:maxLogLine], data[maxLogLine:], runtimeapi.LogTagPartial
	}
	return nil, data, ""
}

func (s *logStream) format(w *bytes.Buffer, tag runtimeapi.LogTag, line []byte) {
	fmt.Fprintf(w, "%s %s %s %s\n", time.Now().Format(time.RFC3339Nano), s.name, tag, line)
}

// send hands output to those attached, and forgets those that left.
func (l *containerLog) send(c chunk) {
	kept := l.attached[:0]
	for _, a := range l.attached {
		select {
		case a.chunks <- c:
			kept = append(kept, a)
		case <-a.gone:
		case <-l.cut:
			kept = append(kept, a)
		}
	}
	l.attached = kept
}

// attach returns the output from now on.
func (l *containerLog) attach() *attachment {
	a := &attachment{chunks: make(chan chunk, 16), gone: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		close(a.chunks)
		return a
	}
	l.attached = append(l.attached, a)
	return a
}

// copyTo writes output, either writer may be nil, until its end or an error.
func (a *attachment) copyTo(stdout, stderr io.Writer) error {
	defer close(a.gone)
	for c := range a.chunks {
		w := stdout
		if c.stream == runtimeapi.Stderr {
			w = stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(c.data); err != nil {
			return err
		}
	}
	return nil
}

// cutOff lets go of slow readers.
func (l *containerLog) cutOff() {
	l.cutOnce.Do(func() { close(l.cut) })
}

// close ends the log after the last Write.
func (l *containerLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last bytes.Buffer
	for _, s := range []*logStream{&l.stdout, &l.stderr} {
		if len(s.rest) > 0 {
			s.format(&last, runtimeapi.LogTagPartial, s.rest)
			s.rest = nil
		}
	}
	l.file.Write(last.Bytes()) // a line without an end, at the end: nobody to tell
	l.file.Close()
	l.closed = true
	for _, a := range l.attached {
		close(a.chunks)
	}
	l.attached = nil
}

// readLog writes the log in path as options want it. With Follow, it ends within
// a second of running saying no.
func readLog(ctx context.Context, path string, options *corev1.PodLogOptions, running func() bool, stdout, stderr io.Writer) error {
	read := &logs.LogOptions{
		TailLines:  options.TailLines,
		LimitBytes: options.LimitBytes,
		Follow:     options.Follow,
		Timestamp:  options.Timestamps,
	}
	if options.SinceSeconds != nil {
		read.Since = time.Now().Add(-time.Duration(*options.SinceSeconds) * time.Second)
	}
	if options.SinceTime != nil {
		read.Since = options.SinceTime.Time
	}
	return logs.ReadLogs(ctx, path, "", read, logRuntime{running: running}, stdout, stderr)
}

// logRuntime is all that reading a log asks of a container runtime. The embedded
// interface is nil: a call of anything else would panic.
type logRuntime struct {
	internalapi.RuntimeService
	running func() bool
}

// ContainerStatus says whether the container is running.
func (r logRuntime) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if r.running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}
