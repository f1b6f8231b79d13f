package keyring

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

const (
	mark   = "\x00sp1"
	idSize = 16 // hexadecimal digits
	head   = len(mark) + idSize
)

// Overhead is how many bytes a sealed value is longer than what it seals.
const Overhead = head + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// ErrPlain says that a value is not sealed at all.
var ErrPlain = errors.New("the value is not encrypted")

// Ring is the keys of one file. Safe for concurrent use.
type Ring struct {
	path string

	mu   sync.RWMutex
	file ringFile
	// open are the keys by id, those dropped from the file by this process
	// included: a reading that began before goes on.
	open map[string]cipher.AEAD
}

// ringFile is the file's JSON.
type ringFile struct {
	About string `json:"about"`
	Keys  []key  `json:"keys"` // newest first
	// AdmitsPlain says that what the keys are for was never sealed whole, so
	// that values without a seal are to be sealed and not refused.
	AdmitsPlain bool `json:"admitsPlain,omitempty"`
}

type key struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Retired time.Time `json:"retired,omitzero"` // when nothing was sealed with it any more
	Secret  []byte    `json:"key"`              // base64 in JSON
}

const about = "These keys encrypt the records of a Sallyport server. Without this file they cannot be read: keep a copy apart from them, as secret as they are."

// Info is what may be said of a key.
type Info struct {
	ID      string
	Created time.Time
	Retired time.Time // zero while values are sealed with it
	Seals   bool      // the newest, with which values are sealed
}

// Open reads the keys of a file. Without a file the ring is empty, for
// [Ring.Create] to fill: whether there may be a first key depends on what is
// sealed already. The error wraps [access.ErrInvalid] for a file that is not a
// ring, or that others than its owner may read, and then says what to do.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path, open: map[string]cipher.AEAD{}}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("encryption key file: %w: %w", err, access.ErrUnavailable)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("encryption key file %s has mode %04o and must be open to its owner only; chmod 600 it, and replace the key ('sallyport keys rotate encryption') if others may have read it: %w", path, mode, access.ErrInvalid)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("encryption key file: %w: %w", err, access.ErrUnavailable)
	}
	if err := r.parse(data); err != nil {
		return nil, fmt.Errorf("encryption key file %s %w; put back the copy that was kept of it: %w", path, err, access.ErrInvalid)
	}
	return r, nil
}

// parse never quotes the file in its errors.
func (r *Ring) parse(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if dec.Decode(&r.file) != nil || len(r.file.Keys) == 0 {
		return errors.New("does not hold the JSON of a ring of keys")
	}
	for _, k := range r.file.Keys {
		if raw, err := hex.DecodeString(k.ID); err != nil || len(raw) != idSize/2 || r.open[k.ID] != nil {
			return fmt.Errorf("names a key %q, which is no id or comes twice", access.Clip(k.ID, 40))
		}
		aead, err := chacha20poly1305.NewX(k.Secret)
		if err != nil {
			return fmt.Errorf("has a key %s of %d bytes, not %d", k.ID, len(k.Secret), chacha20poly1305.KeySize)
		}
		r.open[k.ID] = aead
	}
	return nil
}

// Path is the file.
func (r *Ring) Path() string { return r.path }

// Empty reports whether there is no key yet, and no file.
func (r *Ring) Empty() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.file.Keys) == 0
}

// AdmitsPlain reports whether values without a seal may still be met, because
// sealing them all has not ended yet.
func (r *Ring) AdmitsPlain() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.file.AdmitsPlain
}

// Create makes the file with a first key. Of several processes that do at
// once, one wins; the others fail, and find its file when they open again.
func (r *Ring) Create() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := ringFile{About: about, AdmitsPlain: true, Keys: []key{newKey()}}
	return r.write(next, durable.Create)
}

// Settle notes that every value is sealed: from now on one without a seal was
// put there by somebody else.
func (r *Ring) Settle() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.file
	next.AdmitsPlain = false
	return r.write(next, durable.Replace)
}

// Add makes a new key, which seals from now on, and returns its id.
func (r *Ring) Add() (id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, fresh := r.file, newKey()
	next.Keys = slices.Insert(slices.Clone(r.file.Keys), 0, fresh)
	return fresh.ID, r.write(next, durable.Replace)
}

// Retire notes that nothing is sealed any more but with the newest key.
func (r *Ring) Retire() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.file
	next.Keys = slices.Clone(r.file.Keys)
	for i := range next.Keys[1:] {
		if k := &next.Keys[1+i]; k.Retired.IsZero() {
			k.Retired = time.Now().UTC()
		}
	}
	return r.write(next, durable.Replace)
}

// Drop takes keys that were retired before then out of the file.
func (r *Ring) Drop(then time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.file
	next.Keys = slices.DeleteFunc(slices.Clone(r.file.Keys), func(k key) bool { return !k.Retired.IsZero() && k.Retired.Before(then) })
	if len(next.Keys) == len(r.file.Keys) {
		return nil
	}
	return r.write(next, durable.Replace)
}

// write puts the file in its place and then uses it. It needs the lock.
func (r *Ring) write(next ringFile, put func(string, []byte) error) error {
	data, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = put(r.path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("encryption key file (the disk must be writable and have space): %w: %w", err, access.ErrUnavailable)
	}
	r.file = next
	for _, k := range next.Keys {
		if r.open[k.ID] == nil {
			r.open[k.ID], _ = chacha20poly1305.NewX(k.Secret) // fails for another size only
		}
	}
	return nil
}

func newKey() key {
	id, secret := make([]byte, idSize/2), make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(id) // never fails: crypto/rand ends the program instead
	_, _ = rand.Read(secret)
	return key{ID: hex.EncodeToString(id), Created: time.Now().UTC(), Secret: secret}
}

// Keys lists the keys of the file, newest first.
func (r *Ring) Keys() []Info {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []Info
	for i, k := range r.file.Keys {
		all = append(all, Info{ID: k.ID, Created: k.Created, Retired: k.Retired, Seals: i == 0})
	}
	return all
}

// Seal encrypts a value under the newest key and binds it to its name. The
// ring must not be empty.
func (r *Ring) Seal(value, name []byte) []byte {
	r.mu.RLock()
	id := r.file.Keys[0].ID
	aead := r.open[id]
	r.mu.RUnlock()
	out := make([]byte, head+chacha20poly1305.NonceSizeX, len(value)+Overhead)
	copy(out, mark)
	copy(out[len(mark):], id)
	_, _ = rand.Read(out[head:])
	return aead.Seal(out, out[head:], value, slices.Concat(out[:head], name))
}

// Unseal returns the value that was sealed under this name. The error is
// [ErrPlain] for what is not sealed; another says whether the key is missing or
// the value was altered or moved.
func (r *Ring) Unseal(sealed, name []byte) ([]byte, error) {
	id, ok := KeyOf(sealed)
	if !ok {
		return nil, ErrPlain
	}
	r.mu.RLock()
	aead := r.open[id]
	r.mu.RUnlock()
	if aead == nil {
		return nil, fmt.Errorf("it is encrypted under key %s, which the key file %s does not have", id, r.path)
	}
	nonce, rest := sealed[head:head+chacha20poly1305.NonceSizeX], sealed[head+chacha20poly1305.NonceSizeX:]
	value, err := aead.Open(nil, nonce, rest, slices.Concat(sealed[:head], name))
	if err != nil {
		return nil, fmt.Errorf("it does not verify under key %s: it was altered, or is another record's", id)
	}
	return value, nil
}

// KeyOf returns the id of the key that a value is sealed under, if it is.
func KeyOf(sealed []byte) (id string, ok bool) {
	if len(sealed) < Overhead || string(sealed[:len(mark)]) != mark {
		return "", false
	}
	return string(sealed[len(mark):head]), true
}
