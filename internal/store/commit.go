package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
)

// maxChanges is etcd's default limit for one transaction (--max-txn-ops).
const maxChanges = 128

// Change is one part of a [Store.Commit]: a condition on a record's version,
// and what to write if all conditions hold. The methods of [Kind] make them;
// what is wrong with one is reported by Commit.
type Change struct {
	store   *Store
	err     error
	kind    string
	key     string
	path    string
	version int64  // that the record must have; 0 for none
	write   write  // what to do then
	value   []byte // to put, not sealed yet
}

// write is what a change does if its condition holds.
type write int

const (
	nothing write = iota
	putting
	deleting
)

// Creating writes a record that must not exist yet.
func (k Kind[T]) Creating(v T) Change { return k.put(v, 0) }

// Updating writes v over the item as it was read; the key must be the same.
func (k Kind[T]) Updating(item Item[T], v T) Change {
	c := k.put(v, item.Version)
	old := k.held(item)
	if c.err == nil {
		c.err = old.err
	}
	if c.err == nil && c.path != old.path {
		c.err = fmt.Errorf("update %s %q: the new value has another key, %q: %w", k.name, old.key, c.key, access.ErrInvalid)
	}
	return c
}

// Deleting removes the item as it was read.
func (k Kind[T]) Deleting(item Item[T]) Change {
	c := k.held(item)
	if c.err != nil {
		return c
	}
	return k.delete(c.key, item.Version)
}

// Unchanged is the condition that the item is as it was read.
func (k Kind[T]) Unchanged(item Item[T]) Change { return k.held(item) }

// Absent is the condition that there is no record with this key.
func (k Kind[T]) Absent(key string) Change {
	path, err := k.path(key)
	return Change{store: k.store, err: err, kind: k.name, key: key, path: path}
}

// held is the condition that a record still has the version of an item.
func (k Kind[T]) held(item Item[T]) Change {
	key, err := k.key(item.Value)
	if err != nil {
		return Change{store: k.store, err: fmt.Errorf("%s: %w", k.name, err)}
	}
	c := k.Absent(key)
	c.version = item.Version
	if c.err == nil && item.Version <= 0 {
		c.err = fmt.Errorf("%s %q: version %d is not that of an item that was read: %w", k.name, access.Clip(key, maxQuoted), item.Version, access.ErrInvalid)
	}
	return c
}

func (k Kind[T]) put(v T, ifVersion int64) Change {
	key, err := k.key(v)
	if err != nil {
		return Change{store: k.store, err: fmt.Errorf("%s: %w", k.name, err)}
	}
	c := k.Absent(key)
	c.version = ifVersion
	data, err := k.encode(v)
	switch {
	case c.err != nil:
	case err != nil:
		c.err = err
	case ifVersion < 0:
		c.err = fmt.Errorf("put %s %q: version %d must be 0 or more: %w", k.name, access.Clip(key, maxQuoted), ifVersion, access.ErrInvalid)
	default:
		c.write, c.value = putting, data
	}
	return c
}

func (k Kind[T]) delete(key string, ifVersion int64) Change {
	c := k.Absent(key)
	c.version = ifVersion
	switch {
	case c.err != nil:
	case ifVersion <= 0:
		c.err = fmt.Errorf("delete %s %q: version %d must be more than 0: %w", k.name, access.Clip(key, maxQuoted), ifVersion, access.ErrInvalid)
	default:
		c.write = deleting
	}
	return c
}

// Commit makes all the changes or none, and returns the version that every
// record it wrote now has. The error wraps [access.ErrConflict], naming the
// first record at fault, if a condition does not hold; [access.ErrInvalid] if
// a change is faulty, a record is named twice, or there are none or more than
// 128; and [access.ErrUnavailable] if etcd failed, when the changes may still
// have been made, all of them.
func (s *Store) Commit(ctx context.Context, changes ...Change) (int64, error) {
	s.sealer.writing.RLock()
	defer s.sealer.writing.RUnlock()
	conditions, writes, reads, err := s.prepare(changes)
	if err != nil {
		return 0, err
	}
	caller := ctx
	ctx, done, err := s.limited(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	resp, err := s.conn.client.Txn(ctx).If(conditions...).Then(writes...).Else(reads...).Commit()
	if err != nil {
		return 0, failure(caller, err, fmt.Sprintf("write %s %q", changes[0].kind, access.Clip(changes[0].key, maxQuoted)), true)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	for i, c := range changes {
		var version int64
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			version = kvs[0].ModRevision
		}
		if version != c.version {
			return 0, c.conflict(version)
		}
	}
	return 0, fmt.Errorf("write %s %q: %w", changes[0].kind, access.Clip(changes[0].key, maxQuoted), access.ErrConflict)
}

// prepare checks the changes and lays them out as etcd's transaction. The
// reads run when a condition fails, to tell which.
func (s *Store) prepare(changes []Change) (conditions []clientv3.Cmp, writes, reads []clientv3.Op, err error) {
	if len(changes) == 0 || len(changes) > maxChanges {
		return nil, nil, nil, fmt.Errorf("a commit has %d changes, must have 1 to %d: %w", len(changes), maxChanges, access.ErrInvalid)
	}
	seen := make(map[string]bool, len(changes))
	for _, c := range changes {
		switch {
		case c.err != nil:
			return nil, nil, nil, c.err
		case c.store != s:
			return nil, nil, nil, fmt.Errorf("a change of %s %q was made by another store: %w", c.kind, access.Clip(c.key, maxQuoted), access.ErrInvalid)
		case seen[c.path]:
			return nil, nil, nil, fmt.Errorf("%s %q is named twice in one commit: %w", c.kind, access.Clip(c.key, maxQuoted), access.ErrInvalid)
		}
		seen[c.path] = true
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.path), "=", c.version))
		reads = append(reads, clientv3.OpGet(c.path, clientv3.WithKeysOnly()))
		switch c.write {
		case putting:
			writes = append(writes, clientv3.OpPut(c.path, string(s.sealer.seal(c.value, c.path))))
		case deleting:
			writes = append(writes, clientv3.OpDelete(c.path))
		}
	}
	return conditions, writes, reads, nil
}

func (c Change) conflict(version int64) error {
	switch {
	case c.version == 0:
		return fmt.Errorf("%s %q exists already (version %d): %w", c.kind, access.Clip(c.key, maxQuoted), version, access.ErrConflict)
	case version == 0:
		return fmt.Errorf("%s %q at version %d was deleted meanwhile: %w", c.kind, access.Clip(c.key, maxQuoted), c.version, access.ErrConflict)
	default:
		return fmt.Errorf("%s %q was changed meanwhile, from version %d to %d: %w", c.kind, access.Clip(c.key, maxQuoted), c.version, version, access.ErrConflict)
	}
}
