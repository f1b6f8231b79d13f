package agent

import (
	"errors"
	"sync"
)

// errNewCA ends a feed that is to be opened anew, because the gateway's CA is
// being replaced.
var errNewCA = errors.New("the gateway's CA is being replaced")

// trust takes from the feed which CAs the gateway is known by from now on, and
// has connections made anew when the newest is another. The feed came over a
// connection that the CAs trusted so far vouched for.
func (a *agent) trust(hashes []string) {
	if len(hashes) == 0 {
		return // a gateway from before CAs could be replaced
	}
	renew, err := a.gateway.Trust(hashes)
	switch {
	case err != nil:
		a.cfg.Logger.Error("the gateway names CAs that cannot be", "error", err)
	case renew:
		a.cfg.Logger.Info("the gateway's CA is being replaced; connecting anew", "trusted", hashes)
		a.renew.now()
	}
}

// renewal tells whoever keeps connections that they are to be replaced. The
// zero value works.
type renewal struct {
	mu     sync.Mutex
	dueNow chan struct{}
}

// due is closed when connections made after this call are to be replaced.
func (r *renewal) due() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dueNow == nil {
		r.dueNow = make(chan struct{})
	}
	return r.dueNow
}

func (r *renewal) now() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dueNow != nil {
		close(r.dueNow)
	}
	r.dueNow = make(chan struct{})
}

// before reports whether a replacement fell due since *seen was asked for, and
// asks again if so.
func (r *renewal) before(seen *<-chan struct{}) bool {
	select {
	case <-*seen:
		*seen = r.due()
		return true
	default:
		return false
	}
}
