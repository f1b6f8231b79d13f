package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// TestStatusWatch feeds a watch one status after the other: it says what is new,
// and no more.
func TestStatusWatch(t *testing.T) {
	const (
		away = `{"agent":{},"bindings":[]}`
		here = `{"agent":{"connected":true,"since":"2026-01-02T03:04:05Z"},"bindings":[]}`
		said = `{"agent":{"connected":true,"since":"2026-01-02T03:04:05Z"},"bindings":[{"name":"ml","status":{"state":"Waiting","generation":1,"waitingFor":"the agent"}}]}`
		done = `{"agent":{"connected":true,"since":"2026-01-02T03:04:05Z"},"bindings":[{"name":"ml","status":{"state":"InForce","generation":1,"appliedGeneration":1,"appliedAt":"2026-01-02T03:05:05Z","tookMs":1250}}]}`
		shut = `{"agent":{"connected":true,"since":"2026-01-02T03:04:05Z"},"accessPolicy":{"locked":true,"lockReason":"4711"},"bindings":[]}`
	)
	steps := []struct {
		status string
		err    error
		table  []string // what each new line says, without its time
		stderr string
	}{
		{status: away, table: []string{"WHAT STATE DETAIL", "agent NotConnected not connected"}},
		{status: away},
		{status: here, table: []string{"agent connected connected since 2026-01-02T03:04:05Z"}},
		{status: said, table: []string{"binding ml Waiting stored, not in force in the cluster (Waiting), waiting for the agent"}},
		{err: fmt.Errorf("connection refused: %w", access.ErrUnavailable), stderr: "the server cannot be reached, still trying: connection refused\n"},
		{err: fmt.Errorf("connection refused: %w", access.ErrUnavailable)},
		{status: done, table: []string{"binding ml InForce in force in the cluster after 1.25s (generation 1, since 2026-01-02T03:05:05Z)"}},
		{status: shut, table: []string{"cluster bounded cluster prod is LOCKED: 4711", "binding ml deleted"}},
		{status: here, table: []string{"cluster open"}},
	}
	id, err := access.ParseResourceID(testCluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []format{formatTable, formatJSON} {
		var stdout, stderr bytes.Buffer
		w := statusWatch{c: &cli{stdout: &stdout, stderr: &stderr, format: f}, id: id, lines: columns{20, 12, 16}}
		for i, step := range steps {
			stdout.Reset()
			stderr.Reset()
			var status client.ClusterStatus
			if step.err == nil {
				status.Raw = json.RawMessage(strings.ReplaceAll(step.status, ",", ",\n ")) // as the server indents it
				if err := json.Unmarshal(status.Raw, &status); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.take(status, step.err); err != nil {
				t.Errorf("step %d: %v", i, err)
			}
			if stderr.String() != step.stderr {
				t.Errorf("step %d: stderr %q, want %q", i, &stderr, step.stderr)
			}
			if f == formatJSON {
				want := ""
				if step.table != nil {
					want = step.status + "\n"
				}
				if stdout.String() != want {
					t.Errorf("step %d: JSON %q, want %q", i, &stdout, want)
				}
				continue
			}
			var got []string
			for line := range strings.Lines(stdout.String()) {
				got = append(got, strings.Join(strings.Fields(line)[1:], " "))
			}
			if strings.Join(got, "\n") != strings.Join(step.table, "\n") {
				t.Errorf("step %d: %q, want %q", i, got, step.table)
			}
		}
		if err := w.take(client.ClusterStatus{}, fmt.Errorf("gone: %w", access.ErrNotFound)); !errors.Is(err, access.ErrNotFound) {
			t.Errorf("a cluster that is gone: %v", err)
		}
	}
	w := statusWatch{c: &cli{}}
	if err := w.take(client.ClusterStatus{}, access.ErrUnavailable); err == nil {
		t.Error("a server that never answered is waited for")
	}
}
