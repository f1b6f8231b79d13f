package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// stallTicks is how many progress intervals a watch may stay silent while
	// it owes an answer, before it is given up and the state listed again.
	stallTicks = 10
)

// Update is what [Kind.Follow] hands to its consumer.
type Update[T any] struct {
	// Reset says that Changed is the whole state: what the consumer holds and
	// Changed does not name is gone.
	Reset bool
	// Changed and Deleted say how the records they name are at Revision, each
	// named once; states in between are left out. A record that was deleted
	// and created again is in Changed, with new contents.
	Changed []Item[T]
	Deleted []string // keys, as in Item.Key
	// Revision of the store that the consumer's state now is. It never goes
	// back, except in a Reset after an external cluster was restored from an
	// older backup.
	Revision int64
	// AsOf is the latest moment, on this process's clock, for which the state
	// is proven to be complete. A consumer that must not decide on old state
	// compares it with now, and not the time at which it was called.
	AsOf time.Time
}

// Follow keeps a consumer's copy of the records under a prefix (see
// [Kind.List]) right. It calls f first with a Reset that holds them all, then
// with each change, in order, one call after the other. About every
// [Config].ProgressInterval it proves that nothing was missed and calls f with
// an Update that changes nothing but AsOf; when it cannot, f is not called.
// When the watch breaks or was compacted away it backs off, lists again and
// sends a Reset.
//
// It returns only when ctx ends, with its error, except that a faulty prefix
// is [access.ErrInvalid] at once and closing the store is
// [access.ErrUnavailable]. A stored record that cannot be read is left out,
// or deleted if it was there before, and logged: no decision is made on it.
func (k Kind[T]) Follow(ctx context.Context, prefix string, f func(Update[T])) error {
	path, err := k.prefixPath(prefix)
	if err != nil {
		return err
	}
	caller := ctx
	ctx, done, err := k.store.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	backoff := minBackoff
	for {
		fl := &follow[T]{kind: k, prefix: prefix, path: path, f: f}
		err := fl.run(ctx)
		if caller.Err() != nil {
			return caller.Err()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("follow %s: the store was closed: %w", k.name, access.ErrUnavailable)
		}
		if fl.proven { // it worked for a while
			backoff = minBackoff
		}
		k.store.metrics.breaks.WithLabelValues(k.dir).Inc()
		k.store.log.Warn("watch broke, listing again", "kind", k.name, "prefix", prefix, "error", err, "after", backoff)
		select {
		case <-time.After(backoff/2 + rand.N(backoff/2)): // not all followers at once
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// follow is one list and the watch after it. Its fields belong to the
// goroutine of run.
type follow[T any] struct {
	kind         Kind[T]
	prefix, path string
	f            func(Update[T])

	seen   int64     // every change up to this revision was handed to f
	asOf   time.Time // the state at seen is complete as of then
	owed   *mark     // the proof that is being waited for
	silent int       // ticks since the watch last answered while owed
	proven bool      // some proof succeeded
}

// mark is a revision that was the store's newest at some moment. A state that
// has seen it is complete as of that moment.
type mark struct {
	revision int64
	at       time.Time // before it was asked for
	seen     int64     // by the follower, at that time
	err      error
}

// run lists, then watches, and returns why it could not go on.
func (fl *follow[T]) run(ctx context.Context) error {
	start := time.Now()
	kvs, revision, err := fl.kind.list(ctx, fl.prefix)
	if err != nil {
		return err
	}
	all := Update[T]{Reset: true, Revision: revision, AsOf: start, Changed: make([]Item[T], 0, len(kvs))}
	for _, kv := range kvs {
		item, err := fl.kind.decode(kv)
		if err != nil {
			fl.kind.store.log.Error("record left out", "error", err)
			continue
		}
		all.Changed = append(all.Changed, item)
	}
	fl.seen, fl.asOf = revision, start
	fl.kind.store.metrics.prove(fl.kind.dir, start)
	fl.f(all)

	// RequireLeader: a member cut off from the others ends the watch, and the
	// next list finds another member.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	watcher := fl.kind.store.conn.newWatcher()
	defer watcher.Close()
	marks := make(chan mark, 1)
	asking := false
	defer func() {
		cancel()
		if asking {
			<-marks
		}
	}()
	watch := watcher.Watch(ctx, fl.path, clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	tick := time.NewTicker(fl.kind.store.interval)
	defer tick.Stop()
	for {
		select {
		case resp, open := <-watch:
			if !open {
				return errors.New("the watch ended")
			}
			if err := fl.answer(resp); err != nil {
				return err
			}
		case m := <-marks:
			asking = false
			if err := fl.owe(ctx, watcher, m); err != nil {
				return err
			}
		case <-tick.C:
			if fl.owed != nil {
				if err := fl.remind(ctx, watcher); err != nil {
					return err
				}
			} else if !asking {
				asking = true
				go fl.ask(ctx, fl.seen, marks)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answer takes one response of the watch.
func (fl *follow[T]) answer(resp clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return err
	}
	fl.silent = 0
	switch {
	case resp.IsProgressNotify():
		// etcd sends it only when no change up to its revision is pending.
		fl.seen = max(fl.seen, resp.Header.Revision)
	case len(resp.Events) > 0:
		// The header's revision can be ahead of the events when more are to
		// come, so the last event says what was seen. All changes of one
		// revision come in one response.
		fl.seen = max(fl.seen, resp.Events[len(resp.Events)-1].Kv.ModRevision)
		update := fl.changes(resp.Events)
		fl.settle()
		update.Revision, update.AsOf = fl.seen, fl.asOf
		fl.f(update)
		return nil
	}
	if fl.settle() {
		fl.f(Update[T]{Revision: fl.seen, AsOf: fl.asOf})
	}
	return nil
}

// changes folds events, which are in order, into the last state of each key.
func (fl *follow[T]) changes(events []*clientv3.Event) Update[T] {
	last := make(map[string]int, len(events))
	for i, ev := range events {
		last[string(ev.Kv.Key)] = i
	}
	var update Update[T]
	for i, ev := range events {
		if last[string(ev.Kv.Key)] != i {
			continue
		}
		key := fl.kind.keyOf(ev.Kv.Key)
		if ev.Type == clientv3.EventTypeDelete {
			update.Deleted = append(update.Deleted, key)
			continue
		}
		item, err := fl.kind.decode(ev.Kv)
		if err != nil {
			fl.kind.store.log.Error("record taken as deleted", "error", err)
			update.Deleted = append(update.Deleted, key)
			continue
		}
		update.Changed = append(update.Changed, item)
	}
	return update
}

// ask fetches a mark; it always sends exactly one.
func (fl *follow[T]) ask(ctx context.Context, seen int64, marks chan<- mark) {
	m := mark{at: time.Now(), seen: seen}
	m.revision, m.err = fl.kind.store.current(ctx)
	marks <- m
}

// owe takes a mark: the state is either proven by it now, or by what the
// watch answers next.
func (fl *follow[T]) owe(ctx context.Context, watcher clientv3.Watcher, m mark) error {
	if m.err != nil {
		return nil // nothing is proven; the next tick asks again
	}
	if m.revision < m.seen {
		return fmt.Errorf("etcd went back from revision %d to %d", m.seen, m.revision)
	}
	fl.owed, fl.silent = &m, 0
	if fl.settle() {
		fl.f(Update[T]{Revision: fl.seen, AsOf: fl.asOf})
		return nil
	}
	return watcher.RequestProgress(ctx)
}

// remind asks the watch again: etcd drops a request for progress while it has
// changes to send.
func (fl *follow[T]) remind(ctx context.Context, watcher clientv3.Watcher) error {
	if fl.silent++; fl.silent > stallTicks {
		return fmt.Errorf("the watch was silent for %d progress intervals", stallTicks)
	}
	return watcher.RequestProgress(ctx)
}

// settle moves asOf forward if the owed mark was seen.
func (fl *follow[T]) settle() bool {
	if fl.owed == nil || fl.seen < fl.owed.revision {
		return false
	}
	fl.asOf, fl.owed, fl.proven = fl.owed.at, nil, true
	fl.kind.store.metrics.prove(fl.kind.dir, fl.asOf)
	return true
}
