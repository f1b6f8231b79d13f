package controlplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
)

// agent is a fake peer on a real connection to the feed handler.
type agent struct {
	*fixture
	server *httptest.Server
}

func (f *fixture) agent(p peer) *agent {
	f.t.Helper()
	f.as(p)
	server := httptest.NewServer(f.cp.FeedHandler())
	f.t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return &agent{f, server}
}

func (f *fixture) as(p peer) { f.mu.Lock(); defer f.mu.Unlock(); f.peer = p }

func reconciler() peer { return peer{"cluster-uid-1", 1, "report"} }

// enrolled marks the fixture's cluster as one that has an agent.
func (f *fixture) enrolled(generation int64) {
	f.t.Helper()
	item, err := f.store.Clusters.Get(f.t.Context(), cluster)
	must(f.t, err)
	item.Value.JoinIssued, item.Value.Generation = true, generation
	_, err = f.store.Clusters.Put(f.t.Context(), item.Value, item.Version)
	must(f.t, err)
}

// stream is an open feed.
type stream struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
	resp   *http.Response
}

func (a *agent) open() (*stream, int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
	r, err := http.NewRequestWithContext(ctx, "GET", a.server.URL+"/v1/desired", nil)
	must(a.t, err)
	resp, err := a.server.Client().Do(r)
	must(a.t, err)
	s := &stream{a.t, bufio.NewScanner(resp.Body), cancel, resp}
	a.t.Cleanup(s.close)
	return s, resp.StatusCode
}

func (s *stream) close() { s.cancel(); s.resp.Body.Close() }

// until reads states until one fits.
func (s *stream) until(what string, fits func(access.Desired) bool) access.Desired {
	s.t.Helper()
	var last access.Desired
	for s.lines.Scan() {
		var d access.Desired
		must(s.t, json.Unmarshal(s.lines.Bytes(), &d))
		if d.Revision < last.Revision {
			s.t.Errorf("revision went back from %d to %d", last.Revision, d.Revision)
		}
		if last = d; fits(d) {
			return d
		}
	}
	s.t.Fatalf("feed ended before %s: %v; last: %+v", what, s.lines.Err(), last)
	return last
}

func (a *agent) report(want int, body string) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), "POST", a.server.URL+"/v1/report", strings.NewReader(body))
	must(a.t, err)
	resp, err := a.server.Client().Do(r)
	must(a.t, err)
	resp.Body.Close()
	if resp.StatusCode != want {
		a.t.Fatalf("report %s: status %d, want %d", body, resp.StatusCode, want)
	}
}

func (a *agent) says(b access.DesiredBinding, inForce, final bool, message string) {
	a.t.Helper()
	text, err := json.Marshal(access.Report{Bindings: []access.BindingReport{{UID: b.UID, Generation: b.Generation, InForce: inForce, Final: final, Message: message}}})
	must(a.t, err)
	a.report(204, string(text))
}

func (f *fixture) status() map[string]any {
	f.t.Helper()
	v, _ := f.want(200, "GET", binding+"/providers/Sallyport.Gateway/status/default"+version, "")
	return v["properties"].(map[string]any)
}

func (f *fixture) state() any {
	f.t.Helper()
	v, _ := f.want(200, "GET", binding+version, "")
	return at(v, "properties.provisioningState")
}

func has(n int) func(access.Desired) bool {
	return func(d access.Desired) bool { return len(d.Bindings) == n }
}

// TestFeed is the life of a binding with an agent: sent, applied, updated,
// superseded, deleted, cleaned up.
func TestFeed(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	a := f.agent(reconciler())
	feed, code := a.open()
	if code != 200 {
		t.Fatalf("feed: status %d", code)
	}
	d := feed.until("the first state", has(0))
	if d.ClusterUID != "cluster-uid-1" || d.Generation != 1 || d.Cluster.String() != cluster {
		t.Errorf("first state: %+v", d)
	}
	if v, _ := f.want(200, "GET", cluster+"/providers/Sallyport.Gateway/agents/default"+version, ""); at(v, "properties.reconciler.connected") != true || at(v, "properties.reconciler.since") == nil {
		t.Errorf("agent status: %v", v)
	}

	_, put := f.want(201, "PUT", binding+version, consentV)
	b := feed.until("the binding", has(1)).Bindings[0]
	if b.Name != "b1" || b.Generation != 1 || b.Retired != 0 || len(b.Roles) != 1 || len(b.Roles[0].Rules) == 0 {
		t.Errorf("desired binding: %+v", b)
	}
	if op := f.operation(put); op["status"] != "InProgress" {
		t.Errorf("operation before the report: %v", op)
	}
	if s := f.status(); s["state"] != "Waiting" || s["waitingFor"] == nil {
		t.Errorf("status before the report: %v", s)
	}
	a.says(b, false, false, "webhook is down")
	if s := f.status(); s["state"] != "Waiting" || s["message"] != "webhook is down" {
		t.Errorf("status while it is tried: %v", s)
	}
	f.clock.Advance(1500 * time.Millisecond)
	a.says(b, true, false, "")
	if op := f.operation(put); op["status"] != "Succeeded" {
		t.Errorf("operation after the report: %v", op)
	}
	if s := f.status(); f.state() != "Succeeded" || s["state"] != "InForce" || s["tookMs"] != 1500.0 || s["appliedGeneration"] != 1.0 {
		t.Errorf("after the report: %v %v", f.state(), s)
	}
	feed.until("the retired generation", func(d access.Desired) bool { return d.Bindings[0].Retired == 1 })

	// Two updates in a row: the second takes the place of the first, and a
	// late report on the first ends nothing.
	_, first := f.want(201, "PUT", binding+version, consentV)
	_, second := f.want(201, "PUT", binding+version, consentV)
	if op := f.operation(first); op["status"] != "Canceled" || at(op, "error.code") != "Canceled" {
		t.Errorf("superseded operation: %v", op)
	}
	stale := b
	stale.Generation = 2
	a.says(stale, true, false, "")
	if op := f.operation(second); op["status"] != "InProgress" || f.state() != "Updating" {
		t.Errorf("after a report on the superseded generation: %v %v", op, f.state())
	}
	b = feed.until("generation 3", func(d access.Desired) bool { return d.Bindings[0].Generation == 3 }).Bindings[0]
	a.says(b, true, false, "")
	if op := f.operation(second); op["status"] != "Succeeded" {
		t.Errorf("newest operation: %v", op)
	}

	// Delete: gone at once, a tombstone until the agent has cleaned up; the
	// name used again is another binding.
	f.want(202, "DELETE", binding+version, "")
	d = feed.until("the tombstone", func(d access.Desired) bool { return len(d.Bindings) == 0 && len(d.Tombstones) == 1 })
	if d.Tombstones[0].UID != b.UID || d.Tombstones[0].Name != "b1" {
		t.Errorf("tombstone: %+v", d.Tombstones[0])
	}
	f.want(201, "PUT", binding+version, consentV)
	again := feed.until("the binding again", has(1)).Bindings[0]
	if again.UID == b.UID || again.Generation != 1 || again.Retired != 0 {
		t.Errorf("created again: %+v", again)
	}
	a.report(204, `{"bindings":[],"removed":["`+b.UID+`"],"foreign":["aks:trustedaccessrole:b1:x","aks:trustedaccessrole:b10:x"]}`)
	feed.until("no tombstone", func(d access.Desired) bool { return len(d.Tombstones) == 0 })
	if s := f.status(); len(s["foreign"].([]any)) != 1 {
		t.Errorf("foreign objects: %v", s)
	}
}

// TestFinalFailure: above the ceiling that the owner set at install.
func TestFinalFailure(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	a := f.agent(reconciler())
	feed, _ := a.open()
	_, put := f.want(201, "PUT", binding+version, consentV)
	b := feed.until("the binding", has(1)).Bindings[0]
	a.says(b, false, true, "role backup-operator is not among the roles allowed at install")
	op := f.operation(put)
	if op["status"] != "Failed" || at(op, "error.code") != "RoleNotAllowed" || !strings.Contains(at(op, "error.message").(string), "allowed at install") {
		t.Errorf("operation: %v", op)
	}
	if s := f.status(); f.state() != "Failed" || s["state"] != "Failed" {
		t.Errorf("binding: %v %v", f.state(), s)
	}
	a.says(b, true, false, "") // the owner installed the agent anew
	if op := f.operation(put); op["status"] != "Failed" || f.state() != "Succeeded" {
		t.Errorf("after it came into force: %v %v", op, f.state())
	}
}

// TestFailedNarrowing: an update ends Failed, and takes a role away all the
// same. The live requests are cut once the cluster has lost the role.
func TestFailedNarrowing(t *testing.T) {
	const source = "Microsoft.MachineLearningServices/workspaces"
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.Catalogue = append(slices.Clone(cfg.Catalogue), access.Role{SourceResourceType: source, Name: "above", Rules: cfg.Catalogue[0].Rules})
	})
	f.enrolled(1)
	a := f.agent(reconciler())
	feed, _ := a.open()
	put := func(generation int64, roles ...string) (access.DesiredBinding, http.Header) {
		t.Helper()
		for i, role := range roles {
			roles[i] = `"` + source + "/" + role + `"`
		}
		_, header := f.want(201, "PUT", binding+version, `{"properties":{"sourceResourceId":"`+sub+"/resourceGroups/RG/providers/"+source+`/ml1","roles":[`+strings.Join(roles, ",")+`]}}`)
		d := feed.until("the generation", func(d access.Desired) bool { return len(d.Bindings) == 1 && d.Bindings[0].Generation == generation })
		return d.Bindings[0], header
	}
	var revoked []string
	index := authorize.NewIndex(authorize.Config{Revoked: func(_, cause string) { revoked = append(revoked, cause) }})
	says := func(uid string, said access.BindingReport, retired int64, state access.State, cut ...string) {
		t.Helper()
		said.UID = uid
		text, err := json.Marshal(access.Report{Bindings: []access.BindingReport{said}})
		must(t, err)
		a.report(204, string(text))
		item, err := f.store.Bindings.Get(t.Context(), binding)
		must(t, err)
		index.UpdateBindings(authorize.Update[access.RoleBinding]{Changed: []access.RoleBinding{item.Value}})
		if b := item.Value; b.Applied.Retired != retired || b.State != state || !slices.Equal(revoked, cut) {
			t.Errorf("after %+v: retired %d, %s, revoked %q; want %d, %s, %q", said, b.Applied.Retired, b.State, revoked, retired, state, cut)
		}
	}

	b, _ := put(1, "mlworkload", "inference-v1")
	says(b.UID, access.BindingReport{Generation: 1, InForce: true}, 1, access.Succeeded) // which implies it
	_, op := put(2, "mlworkload", "above")
	says(b.UID, access.BindingReport{Generation: 2, Retired: 3}, 1, access.Updating) // never sent
	says(b.UID, access.BindingReport{Generation: 2, Final: true, Message: "above the ceiling"}, 1, access.Failed)
	const removed = "a role was removed from the binding"
	says(b.UID, access.BindingReport{Generation: 2, Final: true, Message: "above the ceiling", Retired: 2}, 2, access.Failed, removed)
	if op := f.operation(op); op["status"] != "Failed" {
		t.Errorf("operation: %v", op)
	}
	if s := f.status(); s["appliedGeneration"] != 1.0 {
		t.Errorf("status: %v", s)
	}
	feed.until("the retired generation", func(d access.Desired) bool { return d.Bindings[0].Retired == 2 })
	says(b.UID, access.BindingReport{Generation: 2, Final: true, Message: "above the ceiling"}, 2, access.Failed, removed) // a new reconciler, which has not looked yet

	// A late word on a superseded generation counts, and is no reason to cut.
	put(3, "mlworkload")
	put(4, "mlworkload")
	says(b.UID, access.BindingReport{Generation: 3, Retired: 3}, 3, access.Updating, removed)
	says(b.UID, access.BindingReport{Generation: 1, InForce: true}, 3, access.Updating, removed)
}

// TestFeedEnds: what an agent hears when it must go, and what it may not do.
func TestFeedEnds(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	a := f.agent(reconciler())
	old, _ := a.open()
	old.until("the first state", has(0))
	f.enrolled(2)
	if err := drain(old); err != nil {
		t.Errorf("feed of the superseded enrolment: %v", err)
	}
	a.report(410, `{"bindings":[]}`)
	for _, c := range []struct {
		name string
		peer peer
		want int
	}{
		{"superseded", peer{"cluster-uid-1", 1, "report"}, 410},
		{"newest", peer{"cluster-uid-1", 2, "report"}, 200},
		{"newest, proxy", peer{"cluster-uid-1", 2, "serve"}, 200},
		{"another cluster", peer{"cluster-uid-2", 2, "report"}, 410},
		{"unknown role", peer{"cluster-uid-1", 2, "admin"}, 403},
		{"no certificate", peer{}, 401},
	} {
		f.as(c.peer)
		s, code := a.open()
		if s.close(); code != c.want {
			t.Errorf("%s: status %d, want %d", c.name, code, c.want)
		}
	}
	f.as(peer{"cluster-uid-1", 2, "serve"})
	a.report(403, `{"bindings":[]}`)
	f.as(peer{"cluster-uid-1", 2, "report"})
	a.report(400, `{"bindings":[],"admin":true}`)
	a.report(400, `{"bindings":[],"Bindings":[]}`)
	a.report(413, `{"bindings":[],"removed":["`+strings.Repeat("x", 1<<20)+`"]}`)
	// A report on a binding of another cluster, or of no generation ever
	// sent, changes nothing.
	_, put := f.want(201, "PUT", binding+version, consentV)
	item, err := f.store.Bindings.Get(t.Context(), binding)
	must(t, err)
	a.says(access.DesiredBinding{UID: "another", Generation: 1}, true, false, "")
	a.says(access.DesiredBinding{UID: item.Value.UID, Generation: 2}, true, false, "")
	if op := f.operation(put); op["status"] != "InProgress" {
		t.Errorf("operation: %v", op)
	}

	s, _ := a.open()
	s.until("the first state", has(1))
	f.want(202, "DELETE", cluster+version, "")
	if err := drain(s); err != nil {
		t.Errorf("feed of the deleted cluster: %v", err)
	}
	a.report(410, `{"bindings":[]}`)
	if op := f.operation(put); op["status"] != "Canceled" {
		t.Errorf("operation of the deleted cluster: %v", op)
	}
	// Registered again under its name it is another cluster (item 19).
	f.want(201, "PUT", cluster+version, `{"location":"eastus"}`)
	f.enrolled(2)
	a.report(410, `{"bindings":[]}`)
	if items, _, err := f.store.Pending.List(t.Context(), ""); err != nil || len(items) > 0 {
		t.Errorf("pending: %v %v", items, err)
	}
}

// drain reads a feed to its end.
func drain(s *stream) error {
	for s.lines.Scan() {
	}
	return s.lines.Err()
}

// TestHeartbeat: an unchanged state is sent again.
func TestHeartbeat(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	feed, _ := f.agent(reconciler()).open()
	n := 0
	feed.until("the second heartbeat", func(access.Desired) bool { n++; return n == 3 })
}

// TestDeadline: without an agent, and with a silent one.
func TestDeadline(t *testing.T) {
	for _, c := range []struct {
		name      string
		connected bool
		said      string
		want      string
	}{
		{"not connected", false, "", "AgentNotConnected"},
		{"only the proxy", false, "", "AgentNotConnected"},
		{"silent", true, "", "AgentNotResponding"},
		{"trying", true, "quota exceeded", "ApplyFailed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.enrolled(1)
			_, put := f.want(201, "PUT", binding+version, consentV)
			var a *agent
			var b access.DesiredBinding
			if c.name == "only the proxy" {
				feed, _ := f.agent(peer{"cluster-uid-1", 1, "serve"}).open()
				feed.until("the binding", has(1))
			}
			if c.connected {
				a = f.agent(reconciler())
				feed, _ := a.open()
				b = feed.until("the binding", has(1)).Bindings[0]
			}
			if c.said != "" {
				a.says(b, false, false, c.said)
			}
			f.clock.Advance(59 * time.Second)
			if op := f.operation(put); op["status"] != "InProgress" {
				t.Fatalf("before the deadline: %v", op)
			}
			f.clock.Advance(2 * time.Second)
			op := f.awaitOperation(put)
			if op["status"] != "Failed" || at(op, "error.code") != c.want || !strings.Contains(at(op, "error.message").(string), c.said) {
				t.Errorf("operation: %v", op)
			}
			if f.state() != "Failed" {
				t.Errorf("binding: %v", f.state())
			}
			if !c.connected {
				return
			}
			a.says(b, true, false, "")
			if op := f.operation(put); op["status"] != "Failed" || f.state() != "Succeeded" || f.status()["message"] != nil {
				t.Errorf("after a late report: %v %v %v", op, f.state(), f.status())
			}
		})
	}
}

// TestRestart: a second control plane takes up what the first left.
func TestRestart(t *testing.T) {
	f := newStopped(t)
	stop := f.start(nil)
	f.enrolled(1)
	_, put := f.want(201, "PUT", binding+version, consentV)
	stop()
	f.clock.Advance(2 * time.Minute)
	f.start(nil)
	if op := f.awaitOperation(put); at(op, "error.code") != "AgentNotConnected" {
		t.Errorf("operation: %v", op)
	}
	if items, _, err := f.store.Pending.List(t.Context(), ""); err != nil || len(items) > 0 {
		t.Errorf("pending: %v %v", items, err)
	}
	f.clock.Advance(25 * time.Hour) // ended long ago: forgotten
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := f.store.Operations.Follow(ctx, "", func(u store.Update[access.Operation]) {
		if len(u.Deleted) > 0 || u.Reset && len(u.Changed) == 0 {
			cancel()
		}
	})
	if ctx.Err() == context.DeadlineExceeded {
		t.Errorf("the old operation stays: %v", err)
	}
}
