package store

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
)

// Copy is one record of any kind as it is kept: sealed, and bound to its key.
type Copy struct {
	Key   string `json:"key"` // whole, with the store's prefix
	Value []byte `json:"value"`
}

// Revision is one that is at least that of every write acknowledged before the
// call. The error wraps [access.ErrUnavailable].
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.current(ctx) }

// Export hands all records to f as they were at a revision, in the order of
// their keys. Other writes go on meanwhile. The error is f's, or wraps
// [access.ErrUnavailable].
func (s *Store) Export(ctx context.Context, revision int64, f func(Copy) error) error {
	ctx, done, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	end := clientv3.GetPrefixRangeEnd(s.prefix)
	for from := s.prefix; ; {
		page, err := s.conn.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(resealPage), clientv3.WithRev(revision))
		if err != nil {
			return failure(ctx, err, "read records", false)
		}
		for _, kv := range page.Kvs {
			if string(kv.Key) == s.prefix+markerSegment {
				continue // each store has its own
			}
			if err := f(Copy{Key: string(kv.Key), Value: kv.Value}); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Import puts a record back that [Store.Export] gave, where none is. The error
// wraps [access.ErrInvalid] for one that the store's keys do not open or that
// was exported under another prefix, and [access.ErrConflict] where there is
// a record already.
func (s *Store) Import(ctx context.Context, c Copy) error {
	shown := access.Clip(c.Key, maxQuoted)
	if !strings.HasPrefix(c.Key, s.prefix) || c.Key == s.prefix+markerSegment {
		return fmt.Errorf("record %q is not below the prefix %q: %w", shown, s.prefix, access.ErrInvalid)
	}
	if s.sealer.ring != nil {
		if _, err := s.sealer.ring.Unseal(c.Value, []byte(c.Key)); err != nil {
			return fmt.Errorf("record %q: %w: %w", shown, err, access.ErrInvalid)
		}
	}
	caller := ctx
	ctx, done, err := s.limited(ctx)
	if err != nil {
		return err
	}
	defer done()
	resp, err := s.conn.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(c.Key), "=", 0)).Then(clientv3.OpPut(c.Key, string(c.Value))).Commit()
	if err != nil {
		return failure(caller, err, fmt.Sprintf("import record %q", shown), true)
	}
	if !resp.Succeeded {
		return fmt.Errorf("record %q exists already: %w", shown, access.ErrConflict)
	}
	return nil
}

// Empty reports whether the store has no record.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	caller := ctx
	ctx, done, err := s.limited(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	resp, err := s.conn.client.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithKeysOnly())
	if err != nil {
		return false, failure(caller, err, "look for records", false)
	}
	for _, kv := range resp.Kvs {
		if string(kv.Key) != s.prefix+markerSegment {
			return false, nil
		}
	}
	return true, nil
}
