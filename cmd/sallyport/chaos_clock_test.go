package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// steppedClock is a wall clock that somebody sets. As with the real one, the
// monotonic part of its times is not touched by that.
type steppedClock struct{ seconds atomic.Int64 }

// now is [time.Now], with the wall clock's seconds moved. The time package has
// no way to say that: Add moves both clocks. So the field is written to: in a
// time with a monotonic part, the seconds stand above 30 bits of nanoseconds.
func (c *steppedClock) now() time.Time {
	t := time.Now()
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(c.seconds.Load()) << 30
	return t
}

func (c *steppedClock) step(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

// TestChaosClock sets the server's clock an hour forward and an hour back, with
// a watch open: consent that has ended or was withdrawn never serves, nor does it when the clock is set back before its end, what was
// acknowledged stays, and requests under way go on.
func TestChaosClock(t *testing.T) {
	clock := &steppedClock{}
	real := time.Now()
	if drift := clock.now().Sub(real); drift < 0 || drift > time.Minute {
		t.Fatalf("the clock is %s off before it is set", drift)
	}
	before := clock.now()
	clock.step(time.Hour)
	if after := clock.now(); after.Sub(before) > time.Minute || after.Unix()-before.Unix() < 3600 {
		t.Fatalf("a step of an hour moves the monotonic clock by %s, and the wall clock by %d s", after.Sub(before), after.Unix()-before.Unix())
	}
	clock.step(-time.Hour)

	sys := &system{t: t, runAgent: run, run: func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
		if args[0] != "server" {
			return run(ctx, args, stdin, stdout, stderr)
		}
		cfg := defaultServerConfig()
		cfg.now = clock.now
		cmd := serverCommand(cfg)
		cmd.SetArgs(args[1:])
		cmd.SetOut(stdout)
		cmd.SetErr(stderr)
		if err := cmd.ExecuteContext(ctx); err != nil {
			return exitFailed
		}
		return exitOK
	}}
	sys.begin()
	s := bindOn(sys)
	brief, withdrawn, ended := s.source("brief"), s.source("withdrawn"), s.source("ended")
	s.bind("private", "ended", ended.id, inference)
	s.bind("private", "brief", brief.id, inference)
	s.bind("private", "withdrawn", withdrawn.id, inference)
	s.must("expire", "--cluster-name", "private", "-n", "brief", "--in", "30m")
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "withdrawn", "--yes")
	token := map[string]string{"ml": s.ml.token(idp.DataPlaneAudience), "brief": brief.token(idp.DataPlaneAudience), "withdrawn": withdrawn.token(idp.DataPlaneAudience), "ended": ended.token(idp.DataPlaneAudience)}
	wants := func(when, who string, want int, says ...string) {
		t.Helper()
		resp, text := s.send(http.MethodGet, "/k8s"+s.clusterID+"/api/v1/namespaces/default/pods", token[who], "")
		if resp.StatusCode != want {
			t.Errorf("%s, %s: status %d, want %d: %s", when, who, resp.StatusCode, want, text)
		}
		contains(t, when+", "+who, text, says...)
	}
	wants("before", "ml", http.StatusOK)
	wants("before", "brief", http.StatusOK)
	watch, err := s.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=news"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()

	wants("before", "ended", http.StatusOK)
	s.must("expire", "--cluster-name", "private", "-n", "ended", "--in", "1s")
	s.await("access ends", func() bool {
		resp, _ := s.send(http.MethodGet, "/k8s"+s.clusterID+"/api/v1/namespaces/default/pods", token["ended"], "")
		return resp.StatusCode == http.StatusForbidden
	})

	clock.step(time.Hour)
	wants("an hour ahead", "ml", http.StatusOK)
	wants("an hour ahead", "brief", http.StatusForbidden, "expired")
	wants("an hour ahead", "withdrawn", http.StatusForbidden)
	if resp, text := s.send(http.MethodGet, "/graph/v1.0/groups", s.ml.token(idp.GraphAudiences()[0]), ""); resp.StatusCode != http.StatusOK {
		t.Errorf("an hour ahead, a token of now for Graph: status %d: %s", resp.StatusCode, text)
	}
	s.must("rolebinding", "show", "--cluster-name", "private", "-n", "brief")
	s.bind("private", "ahead", brief.id, inference) // a write comes into force

	clock.step(-2 * time.Hour)
	wants("an hour behind", "ml", http.StatusOK) // its token is of the future by this clock, and was verified before
	wants("an hour behind", "withdrawn", http.StatusForbidden)
	wants("an hour behind", "ended", http.StatusForbidden, "expired") // by what has passed
	if r := decisionOn(s.system, ended.id); r.Allowed == nil || *r.Allowed {
		t.Errorf("an hour behind, the gateway left it to the agent, which has a clock of its own: %+v", r)
	}
	for who, source := range map[string]source{"ml": s.ml, "withdrawn": withdrawn} {
		s.await("a token of the new time", func() bool {
			r := s.cli("token", "get", "--identity-file", source.identity, "--resource", idp.DataPlaneAudience)
			token[who] = strings.TrimSpace(r.stdout)
			return r.code == exitOK
		})
	}
	wants("an hour behind, with a new token", "withdrawn", http.StatusForbidden)
	s.must("rolebinding", "show", "--cluster-name", "private", "-n", "ahead")
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ahead", "--yes")

	clock.step(time.Hour)
	wants("back in time", "withdrawn", http.StatusForbidden)
	s.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "private", "-n", "ahead")
	s.pod("news", false)
	select {
	case event, open := <-watch.ResultChan():
		if !open {
			t.Error("the watch was cut, though its consent held all the time")
		}
		_ = event
	case <-time.After(soon):
		t.Error("the watch says nothing")
	}
}

// decisionOn is the gateway's last one on a source's requests.
func decisionOn(s *system, source string) (last audit.Record) {
	for _, r := range s.records() {
		if r.Stage == audit.Decision && r.Source == source {
			last = r
		}
	}
	return last
}
