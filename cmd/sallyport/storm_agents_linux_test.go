package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/agent"
)

// stormMark is in the environment of the process that plays a storm's agents,
// and names the folder with what they need.
const stormMark = "SALLYPORT_STORM"

// stormFleet says which agents to play.
type stormFleet struct {
	Gateway, CAHash string
	Agents          int
}

// stormState is how they fare.
type stormState struct {
	Ready   int            // agents whose tunnel and feed work
	Sockets int            // that they hold
	Retries map[string]int // attempts that failed and connections that were lost, by reason, since the last time
}

// stormCluster is one of the clusters that a storm's agents are in.
func stormCluster(i int) access.Cluster {
	id, err := access.ParseResourceID(fmt.Sprintf("/subscriptions/%s/resourceGroups/storm/providers/Microsoft.ContainerService/managedClusters/s%04d", testSubscription, i))
	if err != nil {
		panic(err) // a constant
	}
	return access.Cluster{ID: id, UID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Location: "eastus", TenantID: testSubscription, Generation: 1, JoinIssued: true}
}

// stormAgents runs the proxy halves of real agents, thousands in one process,
// and answers the test on the other end of its pipes.
func stormAgents(t *testing.T, dir string) {
	raiseFileLimit(t)
	data, err := os.ReadFile(filepath.Join(dir, "fleet.json"))
	var fleet stormFleet
	if err := errors.Join(err, json.Unmarshal(data, &fleet)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	retries := &stormLog{counts: map[string]int{}}
	health := make([]agent.Health, fleet.Agents)
	var running sync.WaitGroup
	for i := range health {
		running.Go(func() {
			err := agent.Run(ctx, agent.Config{
				Gateway: fleet.Gateway, CAHash: fleet.CAHash, Cluster: stormCluster(i).ID,
				ProxyAccount: filepath.Join(dir, "account"), APIServer: "https://127.0.0.1:1",
				Connections: 1, Logger: slog.New(retries), Health: &health[i],
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("agent %d: %v", i, err)
			}
		})
	}
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "drop" {
			for _, fd := range sockets() {
				syscall.Shutdown(fd, syscall.SHUT_RDWR) // of a listener or a pipe it fails
			}
		}
		state := stormState{Sockets: len(sockets()), Retries: retries.take()}
		for i := range health {
			if health[i].Ready(ctx) == nil {
				state.Ready++
			}
		}
		if err := out.Encode(state); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	running.Wait()
}

// sockets are the sockets that this process has open.
func sockets() (fds []int) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		panic(err) // every Linux has it
	}
	for _, e := range entries {
		var fd int
		if to, err := os.Readlink(dir + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			fmt.Sscan(e.Name(), &fd)
			fds = append(fds, fd)
		}
	}
	return fds
}

// raiseFileLimit lets this process open as many files as it may.
func raiseFileLimit(t *testing.T) (most uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Cur
}

// stormLog counts what agents say about failures.
type stormLog struct {
	mu     sync.Mutex
	counts map[string]int
}

var stormNumbers = regexp.MustCompile(`[0-9][0-9.:]*`)

// Enabled implements [slog.Handler].
func (l *stormLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements [slog.Handler].
func (l *stormLog) Handle(_ context.Context, r slog.Record) error {
	what := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" || a.Key == "error" {
			text := a.Value.String()
			// The end names what happened, the beginning whom it happened to.
			what += ": " + stormNumbers.ReplaceAllString(text[max(0, len(text)-80):], "#")
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
	return nil
}

// WithAttrs implements [slog.Handler].
func (l *stormLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l *stormLog) WithGroup(string) slog.Handler { return l }

func (l *stormLog) take() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.counts
	l.counts = map[string]int{}
	return taken
}

// fleet is that process, as its test sees it.
type fleet struct {
	t       *testing.T
	ask     func(what string) stormState
	retries map[string]int // since they were last asked for
}

// state asks how the agents fare; with "drop" every connection that they have is
// lost first.
func (f *fleet) state(what string) stormState {
	f.t.Helper()
	s := f.ask(what)
	for reason, n := range s.Retries {
		f.retries[reason] += n
	}
	return s
}

// await waits until each agent has a tunnel and a feed that work.
func (f *fleet) await(what string, n int, holds func() bool) time.Duration {
	f.t.Helper()
	began, tick := time.Now(), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for {
		s := f.state("state")
		if s.Ready == n && s.Sockets == 2*n && holds() {
			return time.Since(began)
		}
		if time.Since(began) > stormPatience {
			f.t.Fatalf("not within %s: %s; %+v, %v", stormPatience, what, s, f.retries)
		}
		<-tick.C
	}
}
