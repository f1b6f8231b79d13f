package tunnel

import (
	"context"
	"sync"
)

// Live holds the requests under way by the uid of their binding, so that a
// revocation can cut them. Gateway and agent each keep one and act on their
// own knowledge. The zero value is ready.
type Live struct {
	mu    sync.Mutex
	byUID map[string]map[*context.CancelCauseFunc]struct{}
}

// Register enters a request and returns its context, which [Live.Cut] cancels.
// The caller must call release when the request has ended.
func (l *Live) Register(ctx context.Context, bindingUID string) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	entry := &cancel
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byUID == nil {
		l.byUID = map[string]map[*context.CancelCauseFunc]struct{}{}
	}
	if l.byUID[bindingUID] == nil {
		l.byUID[bindingUID] = map[*context.CancelCauseFunc]struct{}{}
	}
	l.byUID[bindingUID][entry] = struct{}{}
	return ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.byUID[bindingUID], entry)
		if len(l.byUID[bindingUID]) == 0 {
			delete(l.byUID, bindingUID)
		}
		cancel(nil)
	}
}

// Cut cancels every live request of a binding with the cause and returns how
// many there were. It does not wait for them to end, and it forgets them, so
// that a second cut counts none of them again.
func (l *Live) Cut(bindingUID string, cause error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	cut := l.byUID[bindingUID]
	delete(l.byUID, bindingUID)
	for cancel := range cut {
		(*cancel)(cause)
	}
	return len(cut)
}

// UIDs returns the bindings that have live requests.
func (l *Live) UIDs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	uids := make([]string, 0, len(l.byUID))
	for uid := range l.byUID {
		uids = append(uids, uid)
	}
	return uids
}
