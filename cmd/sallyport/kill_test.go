//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// TestKill holds the promises that a crash must not break: an acknowledged
// PUT is there afterwards, an acknowledged DELETE never serves again, and
// every operation ends. Server and agent are real processes and end by
// SIGKILL; the server keeps its ports and its folder.
func TestKill(t *testing.T) {
	r := newKillRig(t)
	t.Run("Operation", func(t *testing.T) { testKillOperation(t, r) })
	t.Run("UnderWrites", func(t *testing.T) { testKillUnderWrites(t, r) })
	r.checkLogs(t)
}

// testKillOperation kills the server while a write waits for an agent.
func testKillOperation(t *testing.T, r *killRig) {
	source, _ := r.source(t, killWorkspace, "operation")
	args := r.server.args
	defer func() { r.server.args = args }()
	restart := func(timeout string) {
		t.Helper()
		r.server.kill(t)
		r.server.args = append(slices.Clip(args), "--agent-timeout", timeout)
		r.server.start(t)
	}
	put := func(name string) (operation string) {
		t.Helper()
		_, _, err := r.api.PutRoleBinding(t.Context(), r.binding(t, name), client.RoleBindingProperties{
			SourceResourceID: source, Roles: []string{killMLWorkload},
		})
		if err != nil {
			t.Fatal(err)
		}
		return r.operations.last()
	}
	mustRun := func(operation string) {
		t.Helper()
		op, found, err := r.operation(t.Context(), operation)
		if err != nil || !found || op.Status != access.OperationInProgress {
			t.Fatalf("operation is %q, found %v, error %v; want it in progress", op.Status, found, err)
		}
	}
	mustEnd := func(operation string, want access.OperationStatus, code string) {
		t.Helper()
		if op, _ := r.ended(t, operation); op.Status != want || op.Error.Code != code {
			t.Errorf("operation ended %s %q, want %s %q", op.Status, op.Error.Code, want, code)
		}
	}

	// Its deadline passes while no server runs, or after: it fails. The new
	// server's own, longer timeout is for new operations.
	restart("500ms")
	failing := put("failing")
	restart("1h")
	mustEnd(failing, access.OperationFailed, client.CodeAgentNotConnected)

	// A long one survives two kills, and ends with the agent's report.
	long := put("long")
	restart("1h")
	mustRun(long)
	r.reconciler.start(t)
	r.server.kill(t) // before the agent can have reported, or after
	r.server.start(t)
	mustEnd(long, access.OperationSucceeded, "")

	// The write that failed took effect too, as its error promised.
	killPoll(t, "binding of the failed operation", func(ctx context.Context) error {
		b, err := r.api.RoleBinding(ctx, r.binding(t, "failing"))
		if err == nil && b.Properties.ProvisioningState != access.Succeeded {
			err = fmt.Errorf("it is %s", b.Properties.ProvisioningState)
		}
		return err
	})

	// A delete's operation ends without an agent, whatever was killed.
	r.reconciler.kill(t)
	for _, name := range []string{"failing", "long"} {
		if _, _, err := r.api.DeleteRoleBinding(t.Context(), r.binding(t, name)); err != nil {
			t.Fatal(err)
		}
		restart("1h")
		mustEnd(r.operations.last(), access.OperationSucceeded, "")
	}
}

// Kinds of sources, their roles, and for each role a list that it allows and
// no other role of its kind does.
const (
	killWorkspace  = "Microsoft.MachineLearningServices/workspaces"
	killVault      = "Microsoft.DataProtection/backupVaults"
	killDefender   = "Microsoft.Security/pricings"
	killMLWorkload = killWorkspace + "/mlworkload"
	killBackup     = killVault + "/backup-operator"
	killPolicy     = killDefender + "/microsoft-defender-policy-operator"
	killNetwork    = killDefender + "/microsoft-defender-network-policy-operator"
)

func killProbes() map[string]string {
	return map[string]string{
		killMLWorkload: "/api/v1/namespaces/default/services",
		killBackup:     "/api/v1/namespaces/default/configmaps",
		killPolicy:     "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
		killNetwork:    "/apis/networking.k8s.io/v1/networkpolicies",
	}
}

// killSource is a resource that sends requests.
type killSource struct {
	id       access.ResourceID
	token    string // had before the first kill; it must stay good
	roles    []string
	bindings []*killBinding
}

// killBinding is a binding's name; one goroutine writes it.
type killBinding struct {
	name   string
	id     access.ResourceID
	source *killSource
	// possible are the contents it may have: that of the last acknowledged
	// write, and those of writes since whose outcome is unknown. A content is
	// its sorted roles, or "" for no binding.
	possible []string
	unsure   int    // the server's instance at the last unknown outcome
	seen     string // the content last read
}

// killLoad is what writes and reads while others kill.
type killLoad struct {
	t        *testing.T
	r        *killRig
	sources  []*killSource
	bindings []*killBinding
	consents *killConsents
	http     *http.Client
	gate     killGate

	acks    chan struct{} // one for each acknowledged write
	refused sync.Map      // what writes ended with, by text: *atomic.Int64
	waited  atomic.Int64  // operations that a writer saw the end of

	mu     sync.Mutex
	sent   []time.Time // start of each read, by its number
	served []killRead  // reads with a 2xx
	missed map[int]int // others, by status; 0 is no reply
}

// killRead is a request of a source that the cluster answered with 2xx.
type killRead struct {
	source     *killSource
	role       string
	start, end time.Time
}

// testKillUnderWrites kills at random moments, each a few acknowledged writes
// after the last.
func testKillUnderWrites(t *testing.T, r *killRig) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	servers, halves := 20, 6
	switch {
	case os.Getenv("SALLYPORT_CHAOS") != "":
		servers, halves = 200, 50
	case testing.Short():
		servers, halves = 6, 2
	}
	victims := slices.Concat(slices.Repeat([]*killChild{r.server}, servers),
		slices.Repeat([]*killChild{r.proxy}, halves), slices.Repeat([]*killChild{r.reconciler}, halves))
	rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })

	r.server.kill(t)
	r.server.args = append(r.server.args, "--agent-timeout", "5s")
	r.server.start(t)
	l := newKillLoad(t, r)
	r.proxy.start(t)
	r.reconciler.start(t)

	var writers, readers sync.WaitGroup
	defer readers.Wait()
	reading, stopReading := context.WithCancel(t.Context())
	defer stopReading()
	defer writers.Wait()
	writing, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	for i, b := range l.bindings {
		rng := rand.New(rand.NewPCG(seed, uint64(1+i)))
		writers.Go(func() { l.write(writing, b, rng) })
	}
	for i, s := range l.sources {
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		readers.Go(func() { l.read(reading, s, rng) })
	}
	begin := time.Now()
	starts := l.killAll(victims, rng)
	took := time.Since(begin)
	stopWriting()
	writers.Wait()
	l.checkEnd()
	stopReading()
	readers.Wait()
	l.checkGrants()

	slices.Sort(starts)
	t.Logf("%d kills in %s; start of the server: median %s, longest %s", len(victims), took.Round(time.Millisecond),
		starts[len(starts)/2].Round(time.Millisecond), starts[len(starts)-1].Round(time.Millisecond))
	l.report()
}

func newKillLoad(t *testing.T, r *killRig) *killLoad {
	l := &killLoad{
		t: t, r: r, consents: newKillConsents(), missed: map[int]int{},
		http: &http.Client{Transport: r.transport(t), Timeout: 10 * time.Second},
		// Roomy enough that no writer ever waits for the killer.
		acks: make(chan struct{}, 1<<20),
	}
	l.gate.open()
	defender := []string{killPolicy, killNetwork}
	for _, s := range []struct {
		kind, name string
		roles      []string
		bindings   []string
	}{
		{killDefender, "defender1", defender, []string{"a1"}},
		{killDefender, "defender2", defender, []string{"a2"}},
		{killDefender, "defender3", defender, []string{"b1", "b2"}}, // two bindings of one source
		{killVault, "vault1", []string{killBackup}, []string{"c1"}},
		{killWorkspace, "ml1", []string{killMLWorkload}, []string{"d1"}},
	} {
		source := &killSource{roles: s.roles}
		source.id, source.token = r.source(t, s.kind, s.name)
		for _, name := range s.bindings {
			b := &killBinding{name: name, id: r.binding(t, name), source: source, possible: []string{""}}
			source.bindings = append(source.bindings, b)
			l.bindings = append(l.bindings, b)
			l.consents.withdrawn(b, nil)
		}
		l.sources = append(l.sources, source)
	}
	return l
}

// killAll kills and starts again at once, one victim after the other. It
// returns how long the server's starts took.
func (l *killLoad) killAll(victims []*killChild, rng *rand.Rand) (starts []time.Duration) {
	for i, victim := range victims {
		for range 1 + rng.IntN(5) {
			select {
			case <-l.acks:
			case <-time.After(killPatience):
				l.report()
				l.t.Fatalf("no write was acknowledged after kill %d; the server's log ends:\n%s", i, l.r.server.tail())
			}
		}
		if victim != l.r.server {
			victim.kill(l.t)
			victim.start(l.t)
			continue
		}
		l.gate.shut()
		victim.kill(l.t)
		begin := time.Now()
		victim.start(l.t)
		starts = append(starts, time.Since(begin))
		for len(l.acks) > 0 {
			<-l.acks // of before the kill
		}
		l.gate.open()
	}
	return starts
}

// killGate is open while the server is up.
type killGate struct {
	mu       sync.Mutex
	up       chan struct{} // closed while open
	instance int           // of the server
}

func (g *killGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up == nil {
		g.up = make(chan struct{})
	}
	close(g.up)
}

func (g *killGate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up = make(chan struct{})
	g.instance++
}

// wait returns the server's instance once it is up.
func (g *killGate) wait(ctx context.Context) (instance int, err error) {
	g.mu.Lock()
	up := g.up
	g.mu.Unlock()
	select {
	case <-up:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.instance, nil
}

// write writes one binding until stop ends, and looks after each write at
// what there is. Half of the writes wait for their operation's end.
func (l *killLoad) write(stop context.Context, b *killBinding, rng *rand.Rand) {
	for stop.Err() == nil {
		if !l.check(b) {
			return
		}
		instance, err := l.gate.wait(stop)
		if err != nil {
			return
		}
		var roles []string // none to delete
		if rng.IntN(5) < 3 {
			roles = l.someRoles(b.source.roles, rng)
		}
		p, err := l.send(b, roles)
		if err != nil {
			l.unknown(b, roles, instance, err)
			continue
		}
		b.possible = []string{killContent(roles)}
		l.acks <- struct{}{}
		switch {
		case roles == nil:
			l.try(b)
		case rng.IntN(2) == 0:
			l.await(stop, b, roles, p)
		}
	}
}

// await waits for the end of a PUT's operation.
func (l *killLoad) await(stop context.Context, b *killBinding, roles []string, p *client.Poller) {
	err := p.Wait(stop, nil)
	if err == nil {
		// In force: the roles it lacks are withdrawn.
		l.consents.withdrawn(b, roles)
		l.waited.Add(1)
		l.try(b)
	} else if e := (*client.Error)(nil); errors.As(err, &e) && e.Operation != "" {
		l.count("operation " + string(e.Operation) + " " + e.Code)
		l.waited.Add(1)
	}
}

// try uses what was just withdrawn, and what was not, at the first moment
// that the promise is for. checkGrants looks at the outcome.
func (l *killLoad) try(b *killBinding) {
	for _, role := range b.source.roles {
		l.get(l.t.Context(), b.source, role)
	}
}

func (l *killLoad) someRoles(from []string, rng *rand.Rand) []string {
	roles := slices.Clone(from)
	rng.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
	return roles[:1+rng.IntN(len(roles))]
}

// send makes one write. It is not cut short when the writing stops: its
// outcome counts.
func (l *killLoad) send(b *killBinding, roles []string) (p *client.Poller, err error) {
	if roles == nil {
		_, _, err = l.r.api.DeleteRoleBinding(l.t.Context(), b.id)
		if err == nil {
			l.consents.withdrawn(b, nil)
			l.consents.ended(b)
		}
		return nil, err
	}
	l.consents.given(b, roles)
	_, p, err = l.r.api.PutRoleBinding(l.t.Context(), b.id, client.RoleBindingProperties{SourceResourceID: b.source.id, Roles: roles})
	return p, err
}

// unknown takes a write that may have happened.
func (l *killLoad) unknown(b *killBinding, roles []string, instance int, err error) {
	b.possible = append(b.possible, killContent(roles))
	b.unsure = instance
	if e := (*client.Error)(nil); errors.As(err, &e) {
		l.count("write " + strconv.Itoa(e.Status) + " " + e.Code)
		if e.Status < 500 {
			l.t.Errorf("write of %s refused: %v", b.name, err)
		}
		return
	}
	l.count("write without an answer")
}

// check reads the binding until there is an answer, which must be possible.
func (l *killLoad) check(b *killBinding) bool {
	return killPoll(l.t, "read of "+b.name, func(ctx context.Context) error {
		instance, err := l.gate.wait(ctx)
		if err != nil {
			return err
		}
		have := ""
		got, err := l.r.api.RoleBinding(ctx, b.id)
		if err == nil {
			have = killContent(got.Properties.Roles)
		} else if !errors.Is(err, access.ErrNotFound) {
			return err
		}
		if !slices.Contains(b.possible, have) {
			l.t.Errorf("%s holds %q after writes that leave %q possible", b.name, have, b.possible)
		}
		b.seen = have
		if instance > b.unsure { // what was on its way went down with the server
			b.possible = []string{have}
		}
		return nil
	})
}

func killContent(roles []string) string {
	return strings.Join(slices.Sorted(slices.Values(roles)), " ")
}

// read sends requests as a source, until stop ends.
func (l *killLoad) read(stop context.Context, s *killSource, rng *rand.Rand) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := l.gate.wait(stop); err != nil {
			return
		}
		l.get(stop, s, s.roles[rng.IntN(len(s.roles))])
		select {
		case <-tick.C:
		case <-stop.Done():
			return
		}
	}
}

// get sends one request, which carries its number to the cluster's audit log,
// and returns the status, 0 for no reply.
func (l *killLoad) get(ctx context.Context, s *killSource, role string) int {
	l.mu.Lock()
	n := len(l.sent)
	start := time.Now()
	l.sent = append(l.sent, start)
	l.mu.Unlock()
	status := 0
	u := l.r.base + "/k8s" + l.r.cluster.String() + killProbes()[role] + "?labelSelector=n%3D" + strconv.Itoa(n)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		l.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	if resp, err := l.http.Do(req); err == nil {
		status = resp.StatusCode
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if status/100 == 2 {
		l.served = append(l.served, killRead{s, role, start, time.Now()})
	} else {
		l.missed[status]++
	}
	return status
}

func (l *killLoad) count(what string) {
	n, _ := l.refused.LoadOrStore(what, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// report says what there was, so that a run that tested little is seen.
func (l *killLoad) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("%d writes acknowledged with an operation, %d seen to their end; %d reads served, others by status %v",
		len(l.r.operations.all()), l.waited.Load(), len(l.served), l.missed)
	l.refused.Range(func(what, n any) bool {
		l.t.Logf("%d times: %s", n.(*atomic.Int64).Load(), what)
		return true
	})
}
