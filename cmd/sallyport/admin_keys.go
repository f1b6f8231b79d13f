package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
)

// The sorts of keys that a server has and that can be replaced.
const (
	keySigning    = "signing"    // signs the identity provider's tokens
	keyEncryption = "encryption" // encrypts records at rest
	keyCA         = "ca"         // vouches for the TLS port and for agents
)

// keyEntry is one key as `sallyport keys list` shows it. It holds no secret.
type keyEntry struct {
	What  string    `json:"what"`
	ID    string    `json:"id"`
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"` // in this use
	Until time.Time `json:"until,omitzero"` // when it goes, once another follows
}

type keyList struct {
	Keys []keyEntry `json:"keys"`
}

func (s *server) listKeys() keyList {
	var list keyList
	for _, k := range s.keys.Signing() {
		list.Keys = append(list.Keys, keyEntry{What: keySigning, ID: k.ID, State: string(k.State), Since: k.SignsFrom, Until: k.RetiresAt})
	}
	for _, k := range s.ring.Keys() {
		state := "encrypts"
		if !k.Seals {
			state = "decrypts"
		}
		if !k.Retired.IsZero() {
			state = "retired"
		}
		list.Keys = append(list.Keys, keyEntry{What: keyEncryption, ID: k.ID, State: state, Since: k.Created, Until: k.Retired})
	}
	for i, hash := range s.authority.CAHashes() {
		state := fmt.Sprintf("%d connections", s.agents.count(hash))
		if i > 0 {
			state = "follows, " + state
		}
		list.Keys = append(list.Keys, keyEntry{What: keyCA, ID: hash, State: state})
	}
	return list
}

// rotation asks for a new key.
type rotation struct {
	What   string `json:"what"`
	AtOnce bool   `json:"atOnce,omitempty"` // a signing key signs now, and not after [idp.KeyLead]
}

// rotated says what became of it.
type rotated struct {
	ID      string    `json:"id"`
	From    time.Time `json:"from"`              // when the new key is in use
	Until   time.Time `json:"until,omitzero"`    // when the old one is good for nothing more
	Records int       `json:"records,omitempty"` // encrypted again
}

func (s *server) rotateKeys(ctx context.Context, r rotation) (rotated, error) {
	detail := map[string]any{"what": r.What}
	if r.AtOnce {
		detail["atOnce"] = true
	}
	switch r.What {
	case keySigning:
		if err := s.recordAdmin(ctx, uuid.NewString(), "keys/rotate", detail); err != nil {
			return rotated{}, err
		}
		lead := idp.KeyLead
		if r.AtOnce {
			lead = 0
		}
		key, err := s.keys.Rotate(lead)
		if err != nil {
			return rotated{}, err
		}
		return rotated{ID: key.ID, From: key.SignsFrom, Until: key.SignsFrom.Add(idp.KeyOverlap)}, s.refreshVerifiers(ctx)
	case keyEncryption:
		if err := s.recordAdmin(ctx, uuid.NewString(), "keys/rotate", detail); err != nil {
			return rotated{}, err
		}
		id, records, err := s.store.RotateKey(ctx)
		return rotated{ID: id, From: s.cfg.now(), Records: records}, err
	case keyCA:
		if err := s.recordAdmin(ctx, uuid.NewString(), "keys/rotate", detail); err != nil {
			return rotated{}, err
		}
		hash, err := s.introduceCA()
		return rotated{ID: hash, From: s.cfg.now()}, err
	}
	return rotated{}, errKeySort(r.What)
}

// retirement asks to take a key away before its time.
type retirement struct {
	What  string `json:"what"`
	ID    string `json:"id,omitempty"`    // of a signing key; of a CA it is the older
	Force bool   `json:"force,omitempty"` // a CA: never mind the agents that depend on it
}

func (s *server) retireKeys(ctx context.Context, r retirement) (retirement, error) {
	if r.What != keySigning && r.What != keyCA {
		return r, errKeySort(r.What)
	}
	var left []string
	if r.What == keyCA {
		var err error
		if left, err = s.dependents(ctx); err != nil {
			return r, err
		}
	}
	detail := map[string]any{"what": r.What, "id": access.Clip(r.ID, 100)}
	if r.Force {
		detail["force"], detail["agentsLost"] = true, left
	}
	if err := s.recordAdmin(ctx, uuid.NewString(), "keys/retire", detail); err != nil {
		return r, err
	}
	if r.What == keyCA {
		hash, err := s.retireCA(left, r.Force)
		r.ID = hash
		return r, err
	}
	if err := s.keys.Withdraw(r.ID); err != nil {
		return r, err
	}
	return r, s.refreshVerifiers(ctx)
}

// dependents are the enrolled clusters whose agents are not connected under the
// newest CA.
func (s *server) dependents(ctx context.Context) (ids []string, err error) {
	clusters, _, err := s.store.Clusters.List(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		if c.Value.Generation > 0 && !s.agents.moved(c.Value.UID, s.authority.CAHash()) {
			ids = append(ids, c.Value.ID.String())
		}
	}
	return ids, nil
}

// refreshVerifiers has this server's own verifiers know the keys as they are
// now. Those of others learn by themselves.
func (s *server) refreshVerifiers(ctx context.Context) error {
	for _, v := range []interface{ Refresh(context.Context) error }{s.arm, s.data, s.graphTokens} {
		if err := v.Refresh(ctx); err != nil {
			return fmt.Errorf("the key is changed, but this server's own verifiers have not taken it up yet and will within the hour: %w", err)
		}
	}
	return nil
}

func errKeySort(what string) error {
	return fmt.Errorf("there is no sort of key %q to do that with: %w", access.Clip(what, 40), access.ErrInvalid)
}
