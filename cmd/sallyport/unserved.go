package main

import (
	"crypto/sha256"
	"log/slog"
	"net/http"
	"sync"

	"github.com/sallyport/sallyport/access"
)

// maxUnserved is how many requests unserved remembers; 32 KiB.
const maxUnserved = 1024

// unserved tells the log of requests that a part has no route for, each once:
// method, path and client, so that a user can report what a client of his
// wants. What it remembers is bounded: the oldest is forgotten, and may be told
// again. The query is never told, since some clients put secrets there.
type unserved struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool // guarded by mu
	ring [][sha256.Size]byte        // the same, oldest at next once it is full; guarded by mu
	next int                        // guarded by mu
}

// of returns what a part tells of its own.
func (u *unserved) of(part string) func(*http.Request) {
	return func(r *http.Request) {
		method, path, client := access.Clip(r.Method, 16), access.Clip(r.URL.EscapedPath(), 512), access.Clip(r.UserAgent(), 200)
		if u.first(sha256.Sum256([]byte(part + "\n" + method + "\n" + path + "\n" + client))) {
			u.log.Warn("a client asked for what is not served; please report this line", "part", part, "method", method, "path", path, "client", client)
		}
	}
}

func (u *unserved) first(key [sha256.Size]byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen[key] {
		return false
	}
	if u.seen == nil {
		u.seen = map[[sha256.Size]byte]bool{}
	}
	u.seen[key] = true
	if len(u.ring) < maxUnserved {
		u.ring = append(u.ring, key)
		return true
	}
	delete(u.seen, u.ring[u.next])
	u.ring[u.next], u.next = key, (u.next+1)%maxUnserved
	return true
}
