package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/sallyport/sallyport/internal/idp"
)

// children runs command lines of ours as processes, which can be stopped.
type children struct {
	mu   sync.Mutex
	pids []int
}

// run serves [runner].
func (c *children) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := exec.CommandContext(ctx, "sallyport", args...) // which testscript put on the path
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = soon
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(stderr, "start: %v\n", err)
		return exitFailed
	}
	c.mu.Lock()
	c.pids = append(c.pids, cmd.Process.Pid)
	c.mu.Unlock()
	cmd.Wait() // what matters of its error is the code
	return cmd.ProcessState.ExitCode()
}

// signal sends one to all of them.
func (c *children) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	signalAll(t, c.pids, sig)
}

func signalAll(t *testing.T, pids []int, sig syscall.Signal) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("there is no process to signal")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Errorf("signal %s to %d: %v", sig, pid, err)
		}
	}
}

// apiServer is the process of a cluster's API server, which its shell started.
func (c *kubeCluster) apiServer(t *testing.T) []int {
	t.Helper()
	pid := c.child.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, child)
	}
	return pids
}

// TestSystemStuck stops, as SIGSTOP does, the API server of one cluster and then
// its agent, with every connection open. Waits have limits, answers say what
// happened, another cluster's users do not notice, and all goes on afterwards.
func TestSystemStuck(t *testing.T) {
	s := newSystem(t, "--agent-timeout", "15s")
	well := s.register("well")
	s.install("well", mlworkload).start()
	ml := s.source("ml")
	s.bind("well", "ml", ml.id, mlworkload)
	neighbour := ml.client(well)

	sick := &kubeCluster{}
	t.Cleanup(func() {
		if err := sick.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := sick.start(); err != nil {
		t.Fatal(err)
	}
	agents := &children{}
	stuck := s.register("stuck")
	healthy := s.kube
	s.kube, s.runAgent = sick, agents.run
	s.install("stuck", "mlworkload,inference-v1").start()
	s.kube = healthy
	s.bind("stuck", "ml", ml.id, inference)
	patient := ml.client(stuck)

	t.Run("API server", func(t *testing.T) {
		events := watchServices(t, patient)
		processes := sick.apiServer(t)
		signalAll(t, processes, syscall.SIGSTOP)
		t.Cleanup(func() { signalAll(t, processes, syscall.SIGCONT) })
		s.hurried(t, stuck, ml)
		s.neighbour(t, neighbour)
		// Whose patience ends first, the agent's or the server's, is not said.
		r := s.cli("rolebinding", "update", "--cluster-name", "stuck", "-n", "ml", "-r", inference+","+mlworkload)
		if late, failed := strings.Contains(r.stderr, "AgentNotResponding"), strings.Contains(r.stderr, "ApplyFailed"); !(late && r.code == exitUnavailable) && !(failed && r.code == exitFailed) {
			t.Errorf("an update that the API server cannot confirm: code %d\n%s", r.code, r.stderr)
		}
		if r := s.cli("explain", "--cluster-name", "stuck", "--as", ml.id, "--verb", "list", "--resource", "pods"); r.code == exitOK {
			t.Errorf("explain has an answer of an API server that is stopped:\n%s", r.stdout)
		}
		s.neighbour(t, neighbour)
		signalAll(t, processes, syscall.SIGCONT)
		addService(t, sick.admin, "after")
		events.sees("after")
		if _, err := services(t, patient); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		s.await("the update is in force", func() bool { return s.state("stuck", "ml") == "Succeeded" })
	})

	t.Run("agent", func(t *testing.T) {
		events := watchServices(t, patient)
		agents.signal(t, syscall.SIGSTOP)
		t.Cleanup(func() { agents.signal(t, syscall.SIGCONT) })
		events.ends() // no client waits for an agent that is gone
		// Each of its connections is found out for itself; until the last is, a
		// request may be lost on it.
		s.await("a request says that no agent is there", func() bool {
			_, err := services(t, patient)
			return apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), "no agent of cluster stuck is connected")
		})
		s.await("cluster show says so", func() bool { return !s.connected("stuck") })
		s.neighbour(t, neighbour)
		agents.signal(t, syscall.SIGCONT)
		s.await("the agent is back", func() bool { _, err := services(t, patient); return err == nil })
	})
}

// neighbour uses the other cluster.
func (s *system) neighbour(t *testing.T, client *kubernetes.Clientset) {
	t.Helper()
	var worst time.Duration
	for range 20 {
		begin := time.Now()
		if _, err := services(t, client); err != nil {
			t.Errorf("a user of another cluster: %v", err)
		}
		worst = max(worst, time.Since(begin))
	}
	t.Logf("another cluster's slowest of 20 requests took %s", worst.Round(time.Millisecond))
}

// hurried is a client with a deadline, at a cluster whose API server is stopped.
func (s *system) hurried(t *testing.T, cluster string, ml source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/k8s"+cluster+"/api/v1/namespaces/default/services", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+ml.token(idp.DataPlaneAudience))
	transport := s.transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		t.Errorf("an API server that is stopped answered %d", resp.StatusCode)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client with a deadline: %v", err)
	}
	s.await("the gateway is done with it", func() bool {
		for _, r := range s.records() {
			if r.Stage == "complete" && r.Cluster == cluster && r.Reason == context.Canceled.Error() {
				return true
			}
		}
		return false
	})
}
