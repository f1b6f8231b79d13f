package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
)

const (
	maxValue = 1 << 20 // bytes of JSON
	maxKey   = 4096    // bytes; a resource id has at most 2048
	pageSize = 256     // records read from etcd at once
)

// Item is a record as it was read.
type Item[T any] struct {
	Key     string // as Get takes it: lower case
	Value   T
	Version int64 // etcd's modification revision; never 0
}

// Kind is one sort of record. Its methods fold keys to lower case, as ARM ids
// compare, and so take an id in any casing; values keep theirs.
type Kind[T any] struct {
	store *Store
	name  string // for messages: "role binding"
	dir   string // the segment of its keys after the store's prefix
	keys  keyForm
	key   func(T) (string, error)
}

// keyForm is what the keys of a kind look like.
type keyForm int

const (
	byID   keyForm = iota // a resource id, "/subscriptions/...", perhaps with segments after it
	byName                // a single segment
)

func kindOf[T any](s *Store, name, dir string, keys keyForm, key func(T) (string, error)) Kind[T] {
	return Kind[T]{store: s, name: name, dir: dir, keys: keys, key: key}
}

// Get returns the record with this key. The error wraps [access.ErrNotFound]
// if there is none.
func (k Kind[T]) Get(ctx context.Context, key string) (Item[T], error) {
	path, err := k.path(key)
	if err != nil {
		return Item[T]{}, err
	}
	caller := ctx
	ctx, done, err := k.store.limited(ctx)
	if err != nil {
		return Item[T]{}, err
	}
	defer done()
	resp, err := k.store.conn.client.Get(ctx, path)
	if err != nil {
		return Item[T]{}, failure(caller, err, k.doing("get", key), false)
	}
	if len(resp.Kvs) == 0 {
		return Item[T]{}, fmt.Errorf("%s %q: %w", k.name, key, access.ErrNotFound)
	}
	return k.decode(resp.Kvs[0])
}

// List returns the records under a prefix in the order of their keys, all as
// they were at the returned revision. The prefix is "" for every record, or
// ends in "/", so that it never matches half a segment: for the bindings of a
// cluster, its id's Key() + "/".
func (k Kind[T]) List(ctx context.Context, prefix string) ([]Item[T], int64, error) {
	kvs, revision, err := k.list(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	items := make([]Item[T], 0, len(kvs))
	for _, kv := range kvs {
		item, err := k.decode(kv)
		if err != nil {
			return nil, 0, err
		}
		items = append(items, item)
	}
	return items, revision, nil
}

func (k Kind[T]) list(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, int64, error) {
	start, err := k.prefixPath(prefix)
	if err != nil {
		return nil, 0, err
	}
	caller := ctx
	ctx, done, err := k.store.limited(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	var all []*mvccpb.KeyValue
	var revision int64 // 0 means the newest; the first page fixes it for the others
	from, end := start, clientv3.GetPrefixRangeEnd(start)
	for {
		page, err := k.store.conn.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return nil, 0, failure(caller, err, k.doing("list", prefix), false)
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		all = append(all, page.Kvs...)
		if !page.More {
			return all, revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Put writes v if its record is at version ifVersion, where 0 means that
// there must be none, and returns the new version. The error wraps
// [access.ErrConflict] if the version is another.
func (k Kind[T]) Put(ctx context.Context, v T, ifVersion int64) (int64, error) {
	return k.store.Commit(ctx, k.put(v, ifVersion))
}

// Delete removes the record with this key if it is at version ifVersion,
// which must not be 0. The error wraps [access.ErrConflict] if the version is
// another or there is no record.
func (k Kind[T]) Delete(ctx context.Context, key string, ifVersion int64) error {
	_, err := k.store.Commit(ctx, k.delete(key, ifVersion))
	return err
}

// path returns the etcd key of a record.
func (k Kind[T]) path(key string) (string, error) {
	fail := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("%s key %q: "+format+": %w", append(append([]any{k.name, access.Clip(key, maxQuoted)}, args...), access.ErrInvalid)...)
	}
	folded := strings.ToLower(key)
	switch {
	case k.keys == byID && !strings.HasPrefix(folded+"/", "/subscriptions/"):
		return fail("must begin with a resource id, /subscriptions/{id}")
	case k.keys == byName && strings.Contains(key, "/"):
		return fail("must not contain /")
	}
	if err := checkKey(strings.TrimPrefix(key, "/")); err != nil {
		return fail("%v", err)
	}
	return k.root() + strings.TrimPrefix(folded, "/"), nil
}

// prefixPath returns the etcd key prefix of a list; it ends in "/".
func (k Kind[T]) prefixPath(prefix string) (string, error) {
	if prefix == "" {
		return k.root(), nil
	}
	segment, whole := strings.CutSuffix(prefix, "/")
	if !whole {
		return "", fmt.Errorf("%s prefix %q: must be empty or end in /, so that it matches whole segments: %w", k.name, access.Clip(prefix, maxQuoted), access.ErrInvalid)
	}
	path, err := k.path(segment)
	return path + "/", err
}

func (k Kind[T]) root() string { return k.store.prefix + k.dir + "/" }

// keyOf is the inverse of path.
func (k Kind[T]) keyOf(path []byte) string {
	key := string(path[len(k.root()):])
	if k.keys == byID {
		return "/" + key
	}
	return key
}

func (k Kind[T]) encode(v T) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %v: %w", k.name, err, access.ErrInvalid)
	}
	if len(data) > maxValue {
		return nil, fmt.Errorf("%s has %d bytes as JSON, at most %d are kept: %w", k.name, len(data), maxValue, access.ErrInvalid)
	}
	return data, nil
}

// decode's error has no kind: a record that this program did not write as it
// is, or wrote with a fault, is for the log.
func (k Kind[T]) decode(kv *mvccpb.KeyValue) (Item[T], error) {
	item := Item[T]{Key: k.keyOf(kv.Key), Version: kv.ModRevision}
	value, err := k.store.sealer.unseal(kv)
	if err == nil {
		err = json.Unmarshal(value, &item.Value)
	}
	if err != nil {
		return Item[T]{}, fmt.Errorf("stored %s %q is not readable: %v", k.name, item.Key, err)
	}
	return item, nil
}

func (k Kind[T]) doing(verb, key string) string {
	return fmt.Sprintf("%s %s %q", verb, k.name, access.Clip(key, maxQuoted))
}

// checkKey admits segments of printable ASCII, none of them empty. In ASCII,
// folding to lower case cannot make one key of two different letters.
func checkKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("longer than %d characters", maxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" {
			return errors.New("empty segment")
		}
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return fmt.Errorf("character %q is not printable ASCII", key[i])
		}
	}
	return nil
}

// maxQuoted is how many bytes of a value from outside an error quotes.
const maxQuoted = 200
