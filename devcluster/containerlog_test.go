package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestContainerLogLines(t *testing.T) {
	long := strings.Repeat("x", maxLogLine+1)
	for _, tt := range []struct {
		name   string
		writes []string
		// want has the log's lines without their times.
		want string
	}{
		{name: "nothing"},
		{name: "lines", writes: []string{"one\ntwo\n"}, want: "stdout F one\nstdout F two\n"},
		{name: "a line in parts", writes: []string{"o", "ne", "\n"}, want: "stdout F one\n"},
		{name: "an empty line", writes: []string{"\n"}, want: "stdout F \n"},
		{name: "no end", writes: []string{"one\ntwo"}, want: "stdout F one\nstdout P two\n"},
		{name: "a long line", writes: []string{long + "\n"}, want: "stdout P " + long[1:] + "\nstdout F x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			l, err := newContainerLog(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.writes {
				if _, err := io.WriteString(&l.stdout, w); err != nil {
					t.Fatal(err)
				}
			}
			l.close()
			var got strings.Builder
			for line := range bytes.Lines(readFile(t, filepath.Dir(path), "log")) {
				_, rest, _ := bytes.Cut(line, []byte(" "))
				got.Write(rest)
			}
			if got.String() != tt.want {
				t.Errorf("the log is %.200q, want %.200q", got.String(), tt.want)
			}
			if len(tt.writes) == 0 {
				return
			}
			// What the kubelet's reader makes of it is what was written.
			var read bytes.Buffer
			ended := func() bool { return false }
			err = readLog(t.Context(), path, &corev1.PodLogOptions{Follow: true}, ended, &read, nil)
			if err != nil || read.String() != strings.Join(tt.writes, "") {
				t.Errorf("read %.80q, %v", read.String(), err)
			}
		})
	}
}

// TestContainerLogSlowReader has a reader who takes nothing: the container waits
// for it, until it is to be killed.
func TestContainerLogSlowReader(t *testing.T) {
	l, err := newContainerLog(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	l.attach()
	fast := l.attach()
	copied := make(chan error, 1)
	go func() { copied <- fast.copyTo(failingWriter{}, nil) }()
	if _, err := io.WriteString(&l.stdout, "one\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-copied; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that is gone ends with %v", err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for range 2 * cap(fast.chunks) {
			io.WriteString(&l.stdout, "more\n")
		}
	}()
	l.cutOff()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-written:
	case <-ctx.Done():
		t.Fatal("the container waits for a reader even though it is cut off")
	}
	l.close()
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
