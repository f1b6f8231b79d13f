package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/keyring"
)

// markerSegment, after the prefix, is the key of the marker: a sealed value
// which says that the store is sealed, and under which key. No kind's keys are
// there, since theirs have a slash after the segment.
const markerSegment = "sealed"

// sealer is what stores on one connection share of sealing.
type sealer struct {
	ring *keyring.Ring // nil: values are kept as they are
	// writing is held for reading by every commit and for writing while the key
	// is replaced, so that no commit is under way with a key that was.
	writing sync.RWMutex
}

func (z *sealer) seal(value []byte, path string) []byte {
	if z.ring == nil {
		return value
	}
	return z.ring.Seal(value, []byte(path))
}

func (z *sealer) unseal(kv *mvccpb.KeyValue) ([]byte, error) {
	if z.ring == nil {
		return kv.Value, nil
	}
	return z.ring.Unseal(kv.Value, kv.Key)
}

// unlock makes sure that the ring is the store's, and that every record is
// sealed with its newest key: it seals a store from before sealing, and ends
// what a kill has interrupted. When it fails it has changed no record.
func (s *Store) unlock(ctx context.Context) error {
	marker, under, err := s.marker(ctx)
	if err != nil {
		return err
	}
	ring := s.sealer.ring
	switch {
	case marker != nil && (ring == nil || ring.Empty()):
		file := "no key file was given"
		if ring != nil {
			file = "there is no key file " + ring.Path()
		}
		return fmt.Errorf("the records are encrypted under key %s, and %s: put back the copy that was kept of it, or name it with --encryption-key-file; nothing was changed: %w", under, file, access.ErrInvalid)
	case ring == nil:
		return nil
	case marker != nil:
		if _, err := s.sealer.unseal(marker); err != nil {
			return fmt.Errorf("%s is not the key file of these records: %w; put back the copy that was kept of theirs, or name it with --encryption-key-file; nothing was changed: %w", ring.Path(), err, access.ErrInvalid)
		}
	case ring.Empty():
		if err := ring.Create(); err != nil {
			return err
		}
	case !ring.AdmitsPlain():
		// Whoever can write to the etcd could else have all that he put there in
		// the clear taken for consent, by taking the marker away.
		records, err := s.conn.client.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return failure(ctx, err, "count the records", false)
		}
		if records.Count > 0 {
			return fmt.Errorf("the key file %s is of a sealed store, and this one has %d records and says nowhere that it is sealed: somebody has written to its etcd; restore a backup ('sallyport restore --help'): %w", ring.Path(), records.Count, access.ErrInvalid)
		}
	}
	if marker == nil || under != ring.Keys()[0].ID || ring.AdmitsPlain() {
		if marker == nil || ring.AdmitsPlain() {
			s.log.Info("encrypting all records", "keyFile", ring.Path(), "key", ring.Keys()[0].ID)
		}
		if _, err := s.reseal(ctx); err != nil {
			return err
		}
	}
	if ring.AdmitsPlain() {
		if err := ring.Settle(); err != nil {
			return err
		}
	}
	return ring.Drop(time.Now().Add(-keepRetired))
}

// keepRetired is how long a retired key stays in its file, for readings that
// began before: etcd keeps old versions for an hour.
const keepRetired = 2 * time.Hour

// marker returns the marker, or nil, and the key it is sealed under.
func (s *Store) marker(ctx context.Context) (kv *mvccpb.KeyValue, under string, err error) {
	resp, err := s.conn.client.Get(ctx, s.prefix+markerSegment)
	if err != nil {
		return nil, "", failure(ctx, err, "read the marker of sealing", false)
	}
	if len(resp.Kvs) == 0 {
		return nil, "", nil
	}
	kv = resp.Kvs[0]
	if under, _ = keyring.KeyOf(kv.Value); under == "" {
		return nil, "", fmt.Errorf("the marker %s in etcd is not one of this program; restore a backup ('sallyport restore --help'): %w", kv.Key, access.ErrInvalid)
	}
	return kv, under, nil
}

// RotateKey puts a new key in the place of the one that records are sealed
// with, seals all of them again, and returns the new key's id and their
// number. A kill in the middle loses nothing: the next start goes on. Records
// keep their contents and get new versions. The error wraps
// [access.ErrConflict] for a store without a ring and else
// [access.ErrUnavailable]; then some records are still under the old key, and
// calling again goes on.
func (s *Store) RotateKey(ctx context.Context) (id string, records int, err error) {
	ring := s.sealer.ring
	if ring == nil {
		return "", 0, fmt.Errorf("this store is not encrypted: %w", access.ErrConflict)
	}
	s.sealer.writing.Lock()
	id, err = ring.Add()
	s.sealer.writing.Unlock()
	if err != nil {
		return "", 0, err
	}
	records, err = s.reseal(ctx)
	return id, records, err
}

// reseal seals every record that is not under the ring's newest key, then the
// marker, and then retires the other keys.
func (s *Store) reseal(ctx context.Context) (records int, err error) {
	ctx, done, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	for {
		n, raced, err := s.resealPass(ctx)
		if records += n; err != nil {
			return records, err
		}
		if n == 0 && !raced { // a whole pass has found nothing to do
			break
		}
	}
	path := s.prefix + markerSegment
	value := s.sealer.seal([]byte(`{"sealed":true}`), path)
	if _, err := s.conn.client.Put(ctx, path, string(value)); err != nil {
		return records, failure(ctx, err, "write the marker of sealing", true)
	}
	return records, s.sealer.ring.Retire()
}

// resealPass goes through all records once. raced says that one was written
// meanwhile, so that another pass has to look.
func (s *Store) resealPass(ctx context.Context) (records int, raced bool, err error) {
	end := clientv3.GetPrefixRangeEnd(s.prefix)
	for from := s.prefix; ; {
		page, err := s.conn.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(resealPage))
		if err != nil {
			return records, raced, failure(ctx, err, "read records to encrypt", false)
		}
		for _, kv := range page.Kvs {
			did, err := s.resealOne(ctx, kv)
			if errors.Is(err, errRaced) {
				raced = true
				continue
			}
			if err != nil {
				return records, raced, err
			}
			if did {
				records++
			}
		}
		if !page.More {
			return records, raced, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// resealPage is small: a page of records of the largest size must fit memory.
const resealPage = 64

// errRaced says that a record was written since it was read.
var errRaced = errors.New("written meanwhile")

func (s *Store) resealOne(ctx context.Context, kv *mvccpb.KeyValue) (did bool, err error) {
	ring, path := s.sealer.ring, string(kv.Key)
	if id, ok := keyring.KeyOf(kv.Value); ok && id == ring.Keys()[0].ID || path == s.prefix+markerSegment {
		return false, nil
	}
	value, err := s.sealer.unseal(kv)
	if errors.Is(err, keyring.ErrPlain) && ring.AdmitsPlain() {
		value, err = kv.Value, nil
	}
	if err != nil {
		// Not ours, or not whole: nobody reads it, and it stays for who looks.
		s.log.Error("record left as it is", "key", path, "error", err)
		return false, nil
	}
	resp, err := s.conn.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(path), "=", kv.ModRevision)).
		Then(clientv3.OpPut(path, string(s.sealer.seal(value, path)))).Commit()
	switch {
	case err != nil:
		return false, failure(ctx, err, fmt.Sprintf("encrypt record %q", access.Clip(path, maxQuoted)), true)
	case !resp.Succeeded:
		return false, errRaced
	}
	return true, nil
}
