package gateway

import (
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport/sallyport/access"
)

// Limits bound what one cluster, or one binding, takes of a gateway that others
// share (checklist, item 38). 0 is no limit.
type Limits struct {
	// Streams is how many requests, watches and upgraded streams may be under way
	// at once. One more is refused.
	Streams int
	// Requests is how many may begin in a second; after a quiet time, in two
	// seconds' worth at once. One more is refused.
	Requests int
	// Bytes is how many of bodies and of upgraded streams may pass in a second,
	// both directions together. More is not refused, but waits; at least
	// [MinBytes].
	Bytes int64
}

// MinBytes is the least limit of bytes per second that there can be: smaller
// ones would cut what is read at once into crumbs.
const MinBytes = 64 << 10

// The times of limits.
const (
	// burst is how many seconds' worth of requests may begin at once.
	burst = 2
	// streamRetry is what whoever has too many streams is told to wait. They end
	// when somebody ends them, so it is a guess.
	streamRetry = 5 * time.Second
	// sweepEvery is how often shares that nobody uses are forgotten. In that
	// time every bucket is full again, so nothing is lost.
	sweepEvery = time.Minute
)

func (l Limits) check() error {
	if l.Streams < 0 || l.Requests < 0 || l.Bytes < 0 || l.Bytes > 0 && l.Bytes < MinBytes {
		return fmt.Errorf("limits %+v must not be negative, and bytes not below %d: %w", l, MinBytes, access.ErrInvalid)
	}
	return nil
}

// level is whose limit one is; it begins the names of its limits.
type level string

const (
	ofBinding level = "binding"
	ofCluster level = "cluster"
)

// share is what one cluster or binding has under way.
type share struct {
	level  level
	limits Limits
	// requests and bytes are nil where there is no limit.
	requests, bytes *rate.Limiter

	streams int       // guarded by throttle.mu
	used    time.Time // guarded by throttle.mu
}

func newShare(of level, l Limits) *share {
	s := &share{level: of, limits: l}
	if l.Requests > 0 {
		s.requests = rate.NewLimiter(rate.Limit(l.Requests), burst*l.Requests)
	}
	if l.Bytes > 0 {
		s.bytes = rate.NewLimiter(rate.Limit(l.Bytes), int(min(l.Bytes, math.MaxInt)))
	}
	return s
}

// throttle holds requests to the limits of their binding and cluster.
type throttle struct {
	limits  map[level]Limits
	metrics *metrics

	mu     sync.Mutex
	shares map[shareKey]*share
	swept  time.Time
}

type shareKey struct {
	level level
	uid   string
}

func newThrottle(binding, cluster Limits, m *metrics) *throttle {
	return &throttle{limits: map[level]Limits{ofBinding: binding, ofCluster: cluster}, metrics: m, shares: map[shareKey]*share{}}
}

// enter takes a stream and a request of both limits, or of neither. The error
// is a [*limitError]. Who enters must leave.
func (t *throttle) enter(g access.Grant, now time.Time) (lease, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now)
	// The binding first: what it is refused costs the cluster nothing.
	of := []*share{t.shareLocked(shareKey{ofBinding, g.BindingUID}), t.shareLocked(shareKey{ofCluster, g.ClusterUID})}
	var taken []*rate.Reservation
	for _, s := range of {
		s.used = now
		r, err := s.admitLocked(now)
		if r != nil {
			taken = append(taken, r)
		}
		if err != nil {
			for _, r := range taken {
				r.CancelAt(now)
			}
			t.metrics.throttled.WithLabelValues(err.limit).Inc()
			return lease{}, err
		}
	}
	for _, s := range of {
		s.streams++
	}
	return lease{t, of}, nil
}

// admitLocked takes a request, if it and a stream are to be had.
func (s *share) admitLocked(now time.Time) (*rate.Reservation, *limitError) {
	if most := s.limits.Streams; most > 0 && s.streams >= most {
		return nil, &limitError{
			limit: string(s.level) + "_streams", retry: streamRetry,
			text: fmt.Sprintf("the %s has %d requests, watches and streams under way, which is its limit", s.level, most),
		}
	}
	if s.requests == nil {
		return nil, nil
	}
	r := s.requests.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		return r, &limitError{
			limit: string(s.level) + "_requests", retry: wait,
			text: fmt.Sprintf("the %s may begin %d requests a second, and there were more", s.level, s.limits.Requests),
		}
	}
	return r, nil
}

func (t *throttle) shareLocked(key shareKey) *share {
	s := t.shares[key]
	if s == nil {
		s = newShare(key.level, t.limits[key.level])
		t.shares[key] = s
	}
	return s
}

func (t *throttle) sweepLocked(now time.Time) {
	if now.Sub(t.swept) < sweepEvery {
		return
	}
	t.swept = now
	for key, s := range t.shares {
		if s.streams == 0 && now.Sub(s.used) >= sweepEvery {
			delete(t.shares, key)
		}
	}
}

// lease is one request's place within its limits. The zero value has none.
type lease struct {
	throttle *throttle
	of       []*share // of the binding, then of the cluster
}

// leave gives the place back.
func (l lease) leave(now time.Time) {
	if l.throttle == nil {
		return
	}
	l.throttle.mu.Lock()
	defer l.throttle.mu.Unlock()
	for _, s := range l.of {
		s.streams--
		s.used = now
	}
}

// limitError refuses what is beyond a limit; it is answered with 429 (RFC 6585,
// 4) and when to come back.
type limitError struct {
	limit string // the metric's label
	text  string
	retry time.Duration
}

// Error says which limit it is.
func (e *limitError) Error() string { return e.text }

// seconds to wait, whole ones, as Retry-After has them (RFC 9110, 10.2.3).
func (e *limitError) seconds() int { return max(1, int(math.Ceil(e.retry.Seconds()))) }
