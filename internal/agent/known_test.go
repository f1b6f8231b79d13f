package agent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const group = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa/resourceGroups/rg"

func workspace(t *testing.T, name string) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(group + "/providers/Microsoft.MachineLearningServices/workspaces/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// desired is a binding of ml1 with roles by their short names. Whether it is in
// force is not said: what was retired decides.
func desired(t *testing.T, name, uid string, generation, retired int64, roles ...string) access.DesiredBinding {
	b := access.DesiredBinding{Name: name, UID: uid, Generation: generation, Retired: retired, Source: workspace(t, "ml1")}
	for _, r := range roles {
		b.Roles = append(b.Roles, access.Role{SourceResourceType: "NS/type", Name: r})
	}
	return b
}

func state(bindings ...access.DesiredBinding) access.Desired {
	return access.Desired{Bindings: bindings}
}

func TestCheck(t *testing.T) {
	now := time.Now()
	k := agent.NewKnown(&tunnel.Live{}, func() time.Time { return now })
	good := tunnel.Claim{Binding: "B1", BindingUID: "u1", Source: workspace(t, "ml1")}
	if err := k.Check(good); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("before the first state: %v", err)
	}
	k.Update(state(desired(t, "B1", "u1", 1, 1, "a"), desired(t, "B2", "u2", 1, 0, "a")))
	for _, tc := range []struct {
		name   string
		change func(*tunnel.Claim)
		kind   error
	}{
		{"as it is", func(*tunnel.Claim) {}, nil},
		{"source in capitals", func(c *tunnel.Claim) { c.Source = workspace(t, "ML1") }, nil},
		{"nothing retired yet", func(c *tunnel.Claim) { c.Binding, c.BindingUID = "B2", "u2" }, nil},
		{"unknown uid", func(c *tunnel.Claim) { c.BindingUID = "u3" }, access.ErrForbidden},
		{"no uid", func(c *tunnel.Claim) { c.BindingUID = "" }, access.ErrForbidden},
		{"name of another", func(c *tunnel.Claim) { c.Binding = "B2" }, access.ErrForbidden},
		{"uid of another", func(c *tunnel.Claim) { c.BindingUID = "u2" }, access.ErrForbidden},
		{"name in other casing", func(c *tunnel.Claim) { c.Binding = "b1" }, access.ErrForbidden}, // Kubernetes is case-sensitive
		{"other source", func(c *tunnel.Claim) { c.Source = workspace(t, "ml2") }, access.ErrForbidden},
		{"no source", func(c *tunnel.Claim) { c.Source = access.ResourceID{} }, access.ErrForbidden},
	} {
		claim := good
		tc.change(&claim)
		if err := k.Check(claim); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}

	now = now.Add(agent.MaxSilence)
	if err := k.Check(good); err != nil {
		t.Errorf("after %s: %v", agent.MaxSilence, err)
	}
	now = now.Add(1)
	if err := k.Check(good); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("after more: %v", err)
	}
	k.Update(state(desired(t, "B1", "u1", 1, 1, "a")))
	if err := k.Check(good); err != nil {
		t.Errorf("heard again: %v", err)
	}
	k.Update(state(desired(t, "B1", "u1-again", 1, 0, "a")))
	if err := k.Check(good); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("created again: %v", err)
	}
}

// TestWideBinding: a binding to a whole subscription is used by the sources that
// the feed lists, and a source that goes is cut.
func TestWideBinding(t *testing.T) {
	live := &tunnel.Live{}
	k := agent.NewKnown(live, time.Now)
	b := desired(t, "B1", "u1", 1, 1, "a")
	var err error
	if b.Source, err = access.ParseResourceID("/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	check := func(source access.ResourceID) error {
		return k.Check(tunnel.Claim{Binding: "B1", BindingUID: "u1", Source: source})
	}
	k.Update(state(b))
	for _, source := range []access.ResourceID{workspace(t, "ml1"), b.Source} {
		if err := check(source); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("no sources: %s: %v", source, err)
		}
	}
	b.Sources = []access.ResourceID{workspace(t, "ml1"), workspace(t, "ml2")}
	k.Update(state(b))
	ctx, release := live.Register(t.Context(), "u1")
	defer release()
	for name, want := range map[string]error{"ml1": nil, "ML2": nil, "ml3": access.ErrForbidden} {
		if err := check(workspace(t, name)); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.Sources = append(b.Sources, workspace(t, "ml3"))
	if k.Update(state(b)); ctx.Err() != nil {
		t.Errorf("cut by a new source: %v", context.Cause(ctx))
	}
	b.Sources = b.Sources[1:]
	if k.Update(state(b)); !errors.Is(context.Cause(ctx), access.ErrForbidden) {
		t.Errorf("a source went: %v", context.Cause(ctx))
	}
	if err := check(workspace(t, "ml1")); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("gone: %v", err)
	}
}

func TestUpdateCuts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		states []access.Desired // the first is there when the request starts
		cut    bool
	}{
		{"nothing new", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state(desired(t, "B1", "u1", 1, 1, "a"))}, false},
		{"deleted", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state()}, true},
		{"created again", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state(desired(t, "B1", "u2", 1, 0, "a"))}, true},
		{"another deleted", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a"), desired(t, "B2", "u2", 1, 1, "a")), state(desired(t, "B1", "u1", 1, 1, "a"))}, false},
		{"a role more", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state(desired(t, "B1", "u1", 2, 1, "a", "b")), state(desired(t, "B1", "u1", 2, 2, "a", "b"))}, false},
		{"order and casing", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a", "b")), state(desired(t, "B1", "u1", 2, 2, "B", "A"))}, false},
		{"a role less, not gone", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a", "b")), state(desired(t, "B1", "u1", 2, 1, "a"))}, false},
		{"a role less, gone", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a", "b")), state(desired(t, "B1", "u1", 2, 1, "a")), state(desired(t, "B1", "u1", 2, 2, "a"))}, true},
		{"another role, the first gone", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state(desired(t, "B1", "u1", 2, 2, "b"))}, true},
		{"first retired", []access.Desired{state(desired(t, "B1", "u1", 1, 0, "a")), state(desired(t, "B1", "u1", 1, 1, "a"))}, false},
		{"a role added and withdrawn before the report", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a")), state(desired(t, "B1", "u1", 2, 1, "a", "b")), state(desired(t, "B1", "u1", 3, 3, "a"))}, true},
		{"failed after its generation lost a role", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a", "b")), state(desired(t, "B1", "u1", 2, 1, "a", "c")), state(desired(t, "B1", "u1", 2, 2, "a", "c"))}, true},
		{"an older generation lost a role", []access.Desired{state(desired(t, "B1", "u1", 1, 1, "a", "b")), state(desired(t, "B1", "u1", 3, 2, "a"))}, false},
		{"first seen between two generations", []access.Desired{state(desired(t, "B1", "u1", 2, 1, "a")), state(desired(t, "B1", "u1", 2, 2, "a"))}, true},
	} {
		live := &tunnel.Live{}
		k := agent.NewKnown(live, time.Now)
		k.Update(tc.states[0])
		ctx, release := live.Register(t.Context(), "u1")
		bystander, releaseOther := live.Register(t.Context(), "u9")
		for _, s := range tc.states[1:] {
			k.Update(s)
		}
		if cause := context.Cause(ctx); (cause != nil) != tc.cut || cause != nil && !errors.Is(cause, access.ErrForbidden) {
			t.Errorf("%s: cause %v", tc.name, cause)
		}
		if bystander.Err() != nil {
			t.Errorf("%s: cut a bystander", tc.name)
		}
		release()
		releaseOther()
	}
}
