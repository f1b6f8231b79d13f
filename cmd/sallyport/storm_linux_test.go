package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

var stormSize = flag.Int("storm", 100, "how many agents TestItem34ReconnectStorm has")

// stormPatience bounds the wait for a storm's end.
const stormPatience = 10 * time.Minute

// What an agent's proxy half, its tunnel and its feed, may cost the server: far
// less than a leak, more than it does.
const (
	maxStormMemory     = 512 << 10 // bytes of heap and stacks
	maxStormGoroutines = 20
	maxStormFiles      = 2
)

// TestItem34ReconnectStorm has a fleet of real agents, in a process of their own,
// lose their connections to a real server at once, and then the server itself
// (checklist, item 34). They all come back, in few attempts and without a new
// certificate each; a neighbour is served meanwhile; and what they cost the server
// is bounded.
//
//	go test -count=1 -v -run TestItem34ReconnectStorm ./cmd/sallyport -storm 1000
//
// has so many of them. All share this machine's processors with the server: what
// 5,000 take to stay connected, on both sides, is more than two cores have.
func TestItem34ReconnectStorm(t *testing.T) {
	if dir := os.Getenv(stormMark); dir != "" {
		stormAgents(t, dir)
		return
	}
	n := *stormSize
	if most := raiseFileLimit(t); most < uint64(2*n+1000) {
		t.Skipf("%d agents need %d open files in each of two processes, and this user may have %d", n, 2*n+1000, most)
	}
	sys := newSystem(t)
	dir := sys.populate(n)
	s := bindOn(sys)
	s.await("the neighbour has its two tunnels", func() bool { return s.metric("sallyport_tunnel_connections") == 2 })
	before := costNow()
	f := s.fleet(dir, n)
	for _, loss := range []struct {
		of        string
		lose      func() (connects float64) // that the server counted before
		neighbour bool
	}{
		{"nothing, at the first start", func() float64 { return s.metric(stormConnects) }, true},
		{"the network", func() float64 { defer f.state("drop"); return s.metric(stormConnects) }, true},
		{"the server", func() float64 { s.stop(s.server); s.start(); return 0 }, false},
	} {
		f.retries = map[string]int{}
		certificates := s.certificates()
		stop := func() (int, time.Duration, time.Duration) { return 0, 0, 0 }
		if loss.neighbour {
			stop = s.neighbour()
		}
		began, cpu := time.Now(), processorTime(t)
		connects := loss.lose()
		f.await("every agent has its tunnel and its feed, after the loss of "+loss.of, n, func() bool {
			return s.metric(stormConnects) >= connects+float64(n) && s.metric("sallyport_tunnel_connections") == float64(n+2) && s.metric(stormFeeds) == float64(n+1)
		})
		took, cpu := time.Since(began), processorTime(t)-cpu
		asked, p50, p99 := stop()
		failed := 0
		for _, reason := range slices.Sorted(maps.Keys(f.retries)) {
			failed += f.retries[reason]
			t.Logf("%6d × %s", f.retries[reason], reason)
		}
		t.Logf("loss of %s: %d agents are back after %s, for %s of processor time; %.1f losses and failed attempts each; %d certificates; neighbour: %d requests, p50 %s, p99 %s",
			loss.of, n, took.Round(10*time.Millisecond), cpu.Round(10*time.Millisecond), float64(failed)/float64(n), s.certificates()-certificates, asked, p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond))
		if loss.neighbour && asked == 0 {
			t.Error("the neighbour made no request")
		}
		if connects > 0 {
			each := costNow().less(before, n)
			t.Logf("an agent costs the server %d KiB, %.1f goroutines, %.1f files", each.memory>>10, each.goroutines, each.files)
			if each.memory > maxStormMemory || each.goroutines > maxStormGoroutines || each.files > maxStormFiles+.5 {
				t.Errorf("that is more than %d KiB, %d goroutines, %d files", maxStormMemory>>10, maxStormGoroutines, maxStormFiles)
			}
		}
	}
}

// Names of metrics.
const (
	stormConnects = "sallyport_tunnel_connects_total"
	stormFeeds    = `sallyport_controlplane_connected_agents{half="proxy"}`
)

// metric is the sum of a metric's samples, as the server shows them.
func (s *system) metric(name string) (sum float64) {
	s.t.Helper()
	_, text := fetch(s.t, metricsURL(s.t, s.server)+"/metrics")
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			s.t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// certificates counts those that agents were given.
func (s *system) certificates() (n int) {
	for _, r := range s.records() {
		if r.Action == "agents/"+string(enroll.ActionCertificate) {
			n++
		}
	}
	return n
}

// populate has the server find n clusters more, as if their agents had enrolled,
// and returns a folder with what these need.
func (s *system) populate(n int) (dir string) {
	s.t.Helper()
	s.stop(s.server)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	const issuer = "https://kubernetes.default.svc"
	keys := fmt.Sprintf(`{"keys":[{"kty":"EC","kid":"k","alg":"ES256","crv":"P-256","x":%q,"y":%q}]}`,
		base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]))
	ring, err := keyring.Open(filepath.Join(s.dir, encryptionKeyFile))
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := store.Open(s.t.Context(), store.Config{Dir: filepath.Join(s.dir, "etcd"), Keys: ring})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range n {
		c := stormCluster(i)
		c.AgentIssuer, c.AgentKeys = issuer, []byte(keys)
		if _, err := st.Clusters.Put(s.t.Context(), c, 0); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.start()

	dir = s.t.TempDir()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": issuer, "sub": "system:serviceaccount:sallyport-system:sallyport-proxy", "aud": []string{enroll.Audience},
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "k"
	signed, err := token.SignedString(key)
	if err != nil {
		s.t.Fatal(err)
	}
	authority, err := enroll.OpenAuthority(filepath.Join(s.dir, "ca"), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	fleet, err := json.Marshal(stormFleet{Gateway: strings.TrimPrefix(s.url, "https://"), CAHash: authority.CAHash(), Agents: n})
	if err != nil {
		s.t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"fleet.json": fleet, "account/gateway-token": []byte(signed), "account/token": []byte("unused"), "account/ca.crt": authority.CACertPEM(),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

// fleet starts the process of the agents, until the end of the test.
func (s *system) fleet(dir string, n int) *fleet {
	s.t.Helper()
	program, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^"+s.t.Name()+"$")
	cmd.Env = append(os.Environ(), stormMark+"="+dir)
	cmd.Stderr = s.t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	out := bufio.NewScanner(pipe)
	s.t.Cleanup(func() {
		in.Close()
		var said strings.Builder
		for out.Scan() {
			said.WriteString(out.Text() + "\n")
		}
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("the agents: %v\n%s", err, said.String())
		}
	})
	return &fleet{t: s.t, retries: map[string]int{}, ask: func(what string) (state stormState) {
		s.t.Helper()
		if _, err := fmt.Fprintln(in, what); err != nil {
			s.t.Fatal(err)
		}
		if !out.Scan() {
			s.t.Fatal("the agents are gone")
		}
		if err := json.Unmarshal(out.Bytes(), &state); err != nil {
			s.t.Fatalf("the agents say %q: %v", out.Text(), err)
		}
		return state
	}}
}

// cost is what this process holds.
type cost struct {
	memory            int64 // bytes of heap and stacks
	goroutines, files float64
}

func costNow() cost {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return cost{int64(m.HeapInuse + m.StackInuse), float64(runtime.NumGoroutine()), float64(len(sockets()))}
}

// less is what each of n has added.
func (c cost) less(before cost, n int) cost {
	return cost{(c.memory - before.memory) / int64(n), (c.goroutines - before.goroutines) / float64(n), (c.files - before.files) / float64(n)}
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
