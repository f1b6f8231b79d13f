package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// The agent refuses and cuts on its own knowledge: the claims are as a gateway
// sends them that was never told.
func TestBoundedBindings(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	with := func(locked bool, expires time.Time) access.Desired {
		b := desired(t, "B1", "u1", 1, 1, "a")
		b.Locked, b.ExpiresOn = locked, expires
		return state(b, desired(t, "B2", "u2", 1, 1, "a"))
	}
	for _, tc := range []struct {
		name  string
		state access.Desired
		says  string // "" when it stays
	}{
		{"unbounded", with(false, time.Time{}), ""},
		{"locked", with(true, time.Time{}), `binding "B1" is locked`},
		{"expired", with(false, now), `access to binding "B1" expired on 2026-11-21T12:00:00Z`},
		{"not yet", with(false, now.Add(1)), ""},
		{"locked before its end", with(true, now.Add(time.Hour)), `binding "B1" is locked`},
	} {
		live := &tunnel.Live{}
		k := agent.NewKnown(live, func() time.Time { return now })
		k.Update(with(false, time.Time{}))
		ctx, release := live.Register(t.Context(), "u1")
		other, releaseOther := live.Register(t.Context(), "u2")
		k.Update(tc.state)
		claim := tunnel.Claim{Binding: "B1", BindingUID: "u1", Source: workspace(t, "ml1")}
		for what, err := range map[string]error{"check": k.Check(claim), "live": context.Cause(ctx)} {
			if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%s: %s: %v", tc.name, what, err)
			}
		}
		if other.Err() != nil {
			t.Errorf("%s: cut a bystander", tc.name)
		}
		k.Update(with(false, time.Time{}))
		if err := k.Check(claim); err != nil {
			t.Errorf("%s: not back: %v", tc.name, err)
		}
		release()
		releaseOther()
	}
}

// What is live ends with its time, though nothing more is heard of anybody.
func TestRunCutsWithoutTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		live := &tunnel.Live{}
		k := agent.NewKnown(live, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		synctest.Wait() // it has nothing to wait for yet
		b := desired(t, "B1", "u1", 1, 1, "a")
		b.ExpiresOn = began.Add(90 * time.Minute)
		k.Update(state(b, desired(t, "B2", "u2", 1, 1, "a")))
		mine, release := live.Register(t.Context(), "u1")
		defer release()
		other, releaseOther := live.Register(t.Context(), "u2")
		defer releaseOther()
		<-mine.Done()
		if after := time.Since(began); after != 90*time.Minute {
			t.Errorf("cut after %s", after)
		}
		if cause := context.Cause(mine); !strings.Contains(cause.Error(), "expired") {
			t.Error(cause)
		}
		if other.Err() != nil {
			t.Error("cut a bystander")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
