package authenticate

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// The times are those of spec/identity.md 1.6 and checklist item 18.
const (
	refreshEvery = time.Hour
	retryEvery   = time.Minute // after a failure
	keysServe    = 24 * time.Hour
	// askEvery is the least time between two fetches that callers cause.
	askEvery = 5 * time.Minute
	// askEveryWithout is the same while there are no keys to serve with.
	askEveryWithout = 10 * time.Second
	fetchTimeout    = 5 * time.Second
	maxJWKS         = 1 << 20 // bytes
	maxKeys         = 1000
	minModulus      = 2048 // bits
	maxModulus      = 8192 // bits; larger ones cost the verifier time
)

// keySet holds one issuer's keys.
type keySet struct {
	issuer  Issuer
	now     func() time.Time
	logger  *slog.Logger
	changed func() // called after the keys have changed
	metrics *metrics

	mu      sync.Mutex
	keys    map[string]*rsa.PublicKey // by kid; replaced, never written to
	fetched time.Time                 // of keys; zero for never
	asked   time.Time                 // last fetch that a caller caused
	flight  *flight                   // the running fetch; nil for none
}

// flight is one fetch, which several may wait for.
type flight struct {
	done chan struct{} // closed at its end
	err  error         // read only after done
}

// key returns the key with this kid. An unknown kid causes a fetch, if the
// last one so caused is long enough ago. The error is a [*Refusal], or
// [access.ErrUnavailable] when there are no keys to look in.
func (s *keySet) key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	key, have := s.lookup(kid)
	if key == nil {
		// A failure is logged, and told apart below by what there is.
		_ = s.refresh(ctx, true)
		key, have = s.lookup(kid)
	}
	if key != nil {
		return key, nil
	}
	if !have {
		return nil, fmt.Errorf("the signing keys of issuer %q cannot be had at the moment: %w", s.issuer.Issuer, access.ErrUnavailable)
	}
	return nil, refuse(Invalid, "the token is signed with key %q, which issuer %q does not publish", kid, s.issuer.Issuer)
}

// lookup returns the key, or nil, and whether there are keys young enough to
// serve at all.
func (s *keySet) lookup(kid string) (key *rsa.PublicKey, have bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.serving() {
		return nil, false
	}
	return s.keys[kid], true
}

// serving needs s.mu.
func (s *keySet) serving() bool {
	return len(s.keys) > 0 && s.now().Sub(s.fetched) < keysServe
}

// refresh fetches the keys, or waits for the fetch that is under way and
// returns its error. With asked set it does nothing if callers caused a fetch a
// short time ago.
func (s *keySet) refresh(ctx context.Context, asked bool) error {
	s.mu.Lock()
	if running := s.flight; running != nil {
		s.mu.Unlock()
		select {
		case <-running.done:
			return running.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if asked {
		interval := askEvery
		if !s.serving() {
			interval = askEveryWithout
		}
		now := s.now()
		if !s.asked.IsZero() && now.Sub(s.asked) < interval {
			s.mu.Unlock()
			return nil
		}
		s.asked = now
	}
	own := &flight{done: make(chan struct{}), err: errors.New("fetch of the keys broke off")}
	s.flight = own
	s.mu.Unlock()
	defer func() { // also when Fetch panics
		s.mu.Lock()
		s.flight = nil
		s.mu.Unlock()
		close(own.done)
	}()
	if asked { // one caller's going away must not fail those who wait with him
		ctx = context.WithoutCancel(ctx)
	}
	own.err = s.fetch(ctx)
	return own.err
}

// fetch replaces the keys, or keeps them if that fails.
func (s *keySet) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	raw, err := s.issuer.Fetch(ctx)
	var keys map[string]*rsa.PublicKey
	if err == nil {
		var skipped []error
		keys, skipped, err = parseJWKS(raw, s.issuer)
		for _, reason := range skipped {
			s.logger.Warn("key not used", "issuer", s.issuer.Issuer, "reason", reason)
		}
	}
	if err != nil {
		s.metrics.fetches.WithLabelValues(s.issuer.Issuer, "error").Inc()
		s.logger.Error("keys not refreshed", "issuer", s.issuer.Issuer, "error", err)
		return err
	}
	s.metrics.fetches.WithLabelValues(s.issuer.Issuer, "success").Inc()
	s.metrics.fetched.WithLabelValues(s.issuer.Issuer).Set(float64(s.now().Unix()))
	s.mu.Lock()
	same := maps.EqualFunc(s.keys, keys, func(a, b *rsa.PublicKey) bool { return a.Equal(b) })
	s.keys, s.fetched = keys, s.now()
	s.mu.Unlock()
	if !same {
		s.changed()
	}
	return nil
}

// jwk is what is read of a key. Entra sends no alg.
type jwk struct {
	Kty    string `json:"kty"`
	Use    string `json:"use"`
	Alg    string `json:"alg"`
	Kid    string `json:"kid"`
	N      string `json:"n"`
	E      string `json:"e"`
	Issuer string `json:"issuer"`
}

// parseJWKS returns the usable keys by kid, and why the others are not: one
// bad key does not fail the set. A set without a usable key is an error.
func parseJWKS(raw []byte, issuer Issuer) (keys map[string]*rsa.PublicKey, skipped []error, err error) {
	if len(raw) > maxJWKS {
		return nil, nil, fmt.Errorf("JWKS has %d bytes, at most %d are accepted", len(raw), maxJWKS)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, nil, fmt.Errorf("JWKS is not JSON: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("JWKS has %d keys, at most %d are accepted", len(set.Keys), maxKeys)
	}
	keys = map[string]*rsa.PublicKey{}
	ambiguous := map[string]bool{}
	for i, item := range set.Keys {
		var k jwk
		if err := json.Unmarshal(item, &k); err != nil {
			skipped = append(skipped, fmt.Errorf("key %d: %w", i, err))
			continue
		}
		key, err := k.publicKey(issuer)
		if err != nil {
			skipped = append(skipped, fmt.Errorf("key %d, kid %q: %w", i, access.Clip(k.Kid, maxQuoted), err))
			continue
		}
		if other := keys[k.Kid]; other != nil && !other.Equal(key) {
			ambiguous[k.Kid] = true
			skipped = append(skipped, fmt.Errorf("key %d: kid %q names two different keys", i, access.Clip(k.Kid, maxQuoted)))
		}
		keys[k.Kid] = key
	}
	for kid := range ambiguous {
		delete(keys, kid)
	}
	if len(keys) == 0 {
		return nil, skipped, errors.New("JWKS has no RSA signing key that can be used")
	}
	return keys, skipped, nil
}

// publicKey checks a key and decodes it (RFC 7518 6.3.1).
func (k jwk) publicKey(issuer Issuer) (*rsa.PublicKey, error) {
	switch {
	case k.Kty != "RSA":
		return nil, fmt.Errorf("kty is %q, not RSA", access.Clip(k.Kty, maxQuoted))
	case k.Use != "" && k.Use != "sig":
		return nil, fmt.Errorf("use is %q, not sig", access.Clip(k.Use, maxQuoted))
	case k.Alg != "" && k.Alg != "RS256":
		return nil, fmt.Errorf("alg is %q, not RS256", access.Clip(k.Alg, maxQuoted))
	case k.Kid == "" || len(k.Kid) > maxKeyID:
		return nil, fmt.Errorf("kid must have 1 to %d bytes", maxKeyID)
	case !k.issuedBy(issuer):
		return nil, fmt.Errorf("belongs to issuer %q", access.Clip(k.Issuer, maxQuoted))
	}
	n, errN := base64.RawURLEncoding.DecodeString(k.N)
	e, errE := base64.RawURLEncoding.DecodeString(k.E)
	if errN != nil || errE != nil {
		return nil, errors.New("n or e is not base64url")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minModulus || bits > maxModulus || modulus.Bit(0) == 0 {
		return nil, fmt.Errorf("modulus has %d bits, it must be odd and have %d to %d", bits, minModulus, maxModulus)
	}
	if bits := exponent.BitLen(); bits < 17 || bits > 31 || exponent.Bit(0) == 0 {
		return nil, errors.New("exponent must be odd and from 65537 to 2^31-1")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

// issuedBy reports whether the key may sign for the issuer. Entra's keys may
// name an issuer of their own, with the tenant filled in or as a template, and
// not always that of the token's version; what must agree is the tenant
// (spec/identity.md 1.5).
func (k jwk) issuedBy(issuer Issuer) bool {
	if k.Issuer == "" || k.Issuer == issuer.Issuer {
		return true
	}
	u, err := url.Parse(fillTenant(k.Issuer, issuer.TenantID))
	if err != nil {
		return false
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return strings.EqualFold(tenant, issuer.TenantID)
}

// fillTenant replaces the placeholder of Entra's tenant-independent metadata.
func fillTenant(template, tenantID string) string {
	return strings.ReplaceAll(template, "{tenantid}", tenantID)
}
