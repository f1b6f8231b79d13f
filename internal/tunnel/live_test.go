package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

func TestLiveCutsOneBinding(t *testing.T) {
	var live tunnel.Live
	if n := live.Cut("none", errors.New("x")); n != 0 || len(live.UIDs()) != 0 {
		t.Errorf("cut %d of none", n)
	}
	one, releaseOne := live.Register(t.Context(), "u1")
	two, releaseTwo := live.Register(t.Context(), "u1")
	other, releaseOther := live.Register(t.Context(), "u2")
	uids := live.UIDs()
	if slices.Sort(uids); !slices.Equal(uids, []string{"u1", "u2"}) {
		t.Errorf("live: %q", uids)
	}
	cause := errors.New("withdrawn")
	if n := live.Cut("u1", cause); n != 2 {
		t.Errorf("cut %d", n)
	}
	if context.Cause(one) != cause || context.Cause(two) != cause || other.Err() != nil {
		t.Errorf("causes %v, %v, %v", context.Cause(one), context.Cause(two), other.Err())
	}
	if n := live.Cut("u1", errors.New("again")); n != 0 || context.Cause(one) != cause {
		t.Errorf("a second cut counted %d, cause %v", n, context.Cause(one))
	}
	// One that comes later is another, whatever ends before it.
	late, releaseLate := live.Register(t.Context(), "u1")
	releaseOne()
	releaseTwo()
	if n := live.Cut("u1", cause); n != 1 || context.Cause(late) != cause {
		t.Errorf("cut %d of the late one", n)
	}
	releaseLate()
	releaseOther()
	releaseOther() // twice does no harm
	if uids := live.UIDs(); len(uids) != 0 {
		t.Errorf("left: %q", uids)
	}
}

func TestLiveEndsWithItsParent(t *testing.T) {
	var live tunnel.Live
	parent, cancel := context.WithCancelCause(t.Context())
	ctx, release := live.Register(parent, "u1")
	defer release()
	gone := errors.New("client gone")
	cancel(gone)
	if context.Cause(ctx) != gone {
		t.Error(context.Cause(ctx))
	}
}

// Each request is counted by one cut at most, and none is missed that was
// registered before the last cut.
func TestLiveConcurrently(t *testing.T) {
	var live tunnel.Live
	var cut, ended atomic.Int64
	withdrawn := errors.New("withdrawn")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				ctx, release := live.Register(t.Context(), fmt.Sprint("u", i%2))
				if i%4 == 0 {
					cut.Add(int64(live.Cut("u0", withdrawn)))
				}
				live.UIDs()
				release()
				if context.Cause(ctx) == withdrawn {
					ended.Add(1)
				}
			}
		})
	}
	all.Wait()
	if cut.Load() != ended.Load() || len(live.UIDs()) != 0 {
		t.Errorf("counted %d, ended %d, left %q", cut.Load(), ended.Load(), live.UIDs())
	}
}
