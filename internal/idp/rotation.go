package idp

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

// A signing key's life is told by certificates alone, so that there is nothing
// beside the files to get out of step with them: it is published from the
// moment its file is there, signs from its certificate's NotBefore, until the
// NotBefore of the next key, and is published for [KeyOverlap] more.

const (
	// KeyLead is how long a new key is published before it signs: twice the
	// hour at which our own verifiers, and most others, fetch keys again.
	KeyLead = 2 * time.Hour
	// KeyOverlap is how long a key is published after it has signed last: the
	// longest life of a token (24 h 05 min, spec/identity.md 2), and what clocks
	// may be off or set back meanwhile.
	KeyOverlap = 26 * time.Hour
	sweepEvery = time.Hour
)

// KeyState is what a signing key is for at a moment.
type KeyState string

// The states, in the order in which a key goes through them.
const (
	KeyPublished KeyState = "published" // verifiers learn it; it does not sign yet
	KeySigns     KeyState = "signs"
	KeyVerifies  KeyState = "verifies" // tokens that it signed are still good
	keyGone      KeyState = "gone"
)

// KeyInfo says of a signing key what others may know.
type KeyInfo struct {
	ID        string // the kid
	State     KeyState
	SignsFrom time.Time
	RetiresAt time.Time // when it is published no more; zero while no other key follows
}

// Rotate makes a new signing key, which is published now and signs after lead.
// The one that signs until then stays published for [KeyOverlap] after. A
// verifier that has not fetched the keys in time learns of the new one by the
// first token with an unknown kid. The error wraps [access.ErrConflict] while
// an earlier new key has not begun to sign; with no lead that key, of which
// there are no tokens, is dropped.
func (k *Keys) Rotate(lead time.Duration) (KeyInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	born := now.Add(lead)
	if len(k.signing) > 0 {
		if newest := k.signing[0]; k.state(0, now) == KeyPublished {
			if lead > 0 {
				return KeyInfo{}, fmt.Errorf("key %s is published already and signs from %s: %w", newest.kid, newest.cert.NotBefore.UTC().Format(time.RFC3339), access.ErrConflict)
			}
			if err := k.drop(0); err != nil {
				return KeyInfo{}, err
			}
		}
		// The newest must be so in its certificate as well, which has whole seconds.
		if after := k.signing[0].cert.NotBefore.Add(time.Second); born.Before(after) {
			born = after
		}
	}
	key, err := newSigningKey(born)
	if err != nil {
		return KeyInfo{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key.private)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("signing key: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: key.cert.Raw})...)
	if err := durable.Create(k.signingFile(key.kid), text); err != nil {
		return KeyInfo{}, err
	}
	k.signing = slices.Insert(slices.Clone(k.signing), 0, key)
	return k.info(0, now), nil
}

// Withdraw takes a signing key away at once, for one that others have seen:
// tokens that it signed are good for nothing any more. The error wraps
// [access.ErrNotFound], or [access.ErrConflict] for the key that signs: make
// another first.
func (k *Keys) Withdraw(kid string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.signing, func(s signingKey) bool { return s.kid == kid })
	if i < 0 {
		return fmt.Errorf("there is no signing key %q: %w", access.Clip(kid, 100), access.ErrNotFound)
	}
	if k.state(i, k.now()) == KeySigns {
		return fmt.Errorf("key %s is the one that signs; replace it first ('sallyport keys rotate signing --at-once'): %w", kid, access.ErrConflict)
	}
	return k.drop(i)
}

// Signing lists the signing keys that are published, newest first.
func (k *Keys) Signing() []KeyInfo {
	k.mu.RLock()
	defer k.mu.RUnlock()
	now := k.now()
	var all []KeyInfo
	for i := range k.signing {
		if info := k.info(i, now); info.State != keyGone {
			all = append(all, info)
		}
	}
	return all
}

// Run removes keys whose last token has expired, until ctx ends; a failure is
// for the next time, since such a key is published no more in any case.
func (k *Keys) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := k.sweep(); err != nil {
			failed(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *Keys) sweep() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for i := len(k.signing) - 1; i >= 0; i-- {
		if k.state(i, now) != keyGone {
			continue
		}
		if err := k.drop(i); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a key's file and then the key. It needs the lock.
func (k *Keys) drop(i int) error {
	name := k.signingFile(k.signing[i].kid)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a signing key: %w", err)
	}
	k.signing = slices.Delete(slices.Clone(k.signing), i, i+1)
	return durable.SyncDir(k.dir)
}

func (k *Keys) signingFile(kid string) string {
	return filepath.Join(k.dir, strings.Replace(signingFiles, "*", kid, 1))
}

// signer is the index of the key that signs: the newest whose time has come,
// or the oldest when the clock was set back before all of them.
func (k *Keys) signer(now time.Time) int {
	for i, s := range k.signing {
		if !s.cert.NotBefore.After(now) {
			return i
		}
	}
	return len(k.signing) - 1
}

// state is what the i-th key is for. It needs the lock.
func (k *Keys) state(i int, now time.Time) KeyState {
	switch signer := k.signer(now); {
	case i < signer:
		return KeyPublished
	case i == signer:
		return KeySigns
	case now.Before(k.retires(i)):
		return KeyVerifies
	}
	return keyGone
}

func (k *Keys) retires(i int) time.Time {
	if i == 0 {
		return time.Time{}
	}
	return k.signing[i-1].cert.NotBefore.Add(KeyOverlap)
}

func (k *Keys) info(i int, now time.Time) KeyInfo {
	return KeyInfo{ID: k.signing[i].kid, State: k.state(i, now), SignsFrom: k.signing[i].cert.NotBefore, RetiresAt: k.retires(i)}
}
