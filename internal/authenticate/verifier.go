package authenticate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
)

// Issuer is one issuer that is trusted to speak for one tenant.
type Issuer struct {
	Issuer   string // exact "iss"
	TenantID string // a GUID; the token's "tid" must equal it
	Version  string // "1.0" or "2.0": a token's "ver", when it has one, must equal it; "" for any
	// Fetch returns the issuer's keys as a JWKS (RFC 7517 5) of at most 1 MiB.
	// It is given 5 s. FetchURL makes one for a remote issuer.
	Fetch func(ctx context.Context) ([]byte, error)
}

// Config says which tokens are believed.
type Config struct {
	// Issuers must be distinct in Issuer; at least one.
	Issuers []Issuer
	// Audiences are the exact values accepted as "aud"; at least one.
	Audiences []string
	// Unserved are other values that good tokens have, each with what the bearer
	// of one is told: why it is refused here.
	Unserved map[string]string
	// RequireSource is set on the data plane: only the system-assigned managed
	// identity of a resource is accepted.
	RequireSource bool
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Logger gets failed key fetches; nil discards.
	Logger *slog.Logger
	// Metrics takes the verifier's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
}

// Verifier authenticates bearer tokens. It is safe for concurrent use.
type Verifier struct {
	audiences     []string
	unserved      map[string]string
	requireSource bool
	now           func() time.Time
	logger        *slog.Logger
	issuers       map[string]*keySet // by exact "iss"
	parser        *jwt.Parser
	cache         cache
	metrics       *metrics
}

// New returns a verifier. It fetches nothing yet: the first token of an issuer
// does, or [Verifier.Run]. A faulty configuration is an [access.ErrInvalid].
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Issuers) == 0 || len(cfg.Audiences) == 0 || slices.Contains(cfg.Audiences, "") {
		return nil, fmt.Errorf("authenticate: at least one issuer and one audience are needed, and no empty audience: %w", access.ErrInvalid)
	}
	v := &Verifier{
		audiences:     slices.Clone(cfg.Audiences),
		unserved:      maps.Clone(cfg.Unserved),
		requireSource: cfg.RequireSource,
		now:           cfg.Now,
		logger:        cfg.Logger,
		issuers:       map[string]*keySet{},
		metrics:       newMetrics(cfg.Metrics),
		// Claims are checked in claims.go, where a refusal can name the values.
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithStrictDecoding(),
			jwt.WithJSONNumber(), jwt.WithoutClaimsValidation()),
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.logger == nil {
		v.logger = slog.New(slog.DiscardHandler)
	}
	for _, issuer := range cfg.Issuers {
		switch {
		case issuer.Issuer == "" || issuer.Fetch == nil:
			return nil, fmt.Errorf("authenticate: issuer %q of tenant %q needs Issuer and Fetch: %w", issuer.Issuer, issuer.TenantID, access.ErrInvalid)
		case !access.IsGUID(issuer.TenantID):
			return nil, fmt.Errorf("authenticate: issuer %q: tenant %q is not a GUID: %w", issuer.Issuer, issuer.TenantID, access.ErrInvalid)
		case v.issuers[issuer.Issuer] != nil:
			// Two sources of keys for one iss would let either sign for the other.
			return nil, fmt.Errorf("authenticate: issuer %q is configured twice: %w", issuer.Issuer, access.ErrInvalid)
		}
		v.issuers[issuer.Issuer] = &keySet{issuer: issuer, now: v.now, logger: v.logger, changed: v.cache.empty, metrics: v.metrics}
	}
	return v, nil
}

// Principal verifies a token and says whose it is. The error is a [*Refusal],
// or an [access.ErrUnavailable] when the issuer's keys cannot be had; both
// texts are safe to send to the caller.
func (v *Verifier) Principal(ctx context.Context, token string) (access.Principal, error) {
	p, err := v.principalOf(ctx, token)
	v.metrics.verified(err)
	return p, err
}

func (v *Verifier) principalOf(ctx context.Context, token string) (access.Principal, error) {
	if token == "" {
		return access.Principal{}, refuse(Missing, "Authentication failed. The token is empty.")
	}
	if len(token) > maxToken {
		return access.Principal{}, refuse(Invalid, "the token has %d bytes; at most %d are accepted", len(token), maxToken)
	}
	sum := sha256.Sum256([]byte(token))
	now := v.now()
	p, generation, ok := v.cache.get(sum, now)
	if ok {
		v.metrics.hits.Inc()
		return p, nil
	}
	kid, err := checkForm(token)
	if err != nil {
		return access.Principal{}, err
	}
	verified, issuer, err := v.verify(ctx, token, kid)
	if err != nil {
		return access.Principal{}, err
	}
	if p, err = v.principal(verified, issuer, now); err != nil {
		return access.Principal{}, err
	}
	v.cache.put(sum, p, generation, now)
	return p, nil
}

// verify checks the signature with the key kid of the issuer that the token
// names, and of no other.
func (v *Verifier) verify(ctx context.Context, token, kid string) (claims, Issuer, error) {
	var issuer Issuer
	var keyErr error
	parsed, err := v.parser.Parse(token, func(t *jwt.Token) (any, error) {
		unverified, ok := t.Claims.(jwt.MapClaims)
		if !ok {
			return nil, errors.New("unexpected type of claims")
		}
		iss, _, err := claims(unverified).text("iss")
		if err != nil {
			keyErr = err
			return nil, err
		}
		set, ok := v.issuers[iss]
		if !ok {
			keyErr = refuse(Invalid, "the token's issuer %s is not trusted here", quote(unverified["iss"]))
			return nil, keyErr
		}
		issuer = set.issuer
		key, err := set.key(ctx, kid)
		if err != nil {
			keyErr = err
			return nil, err
		}
		return key, nil
	})
	switch {
	case keyErr != nil:
		return nil, Issuer{}, keyErr
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, Issuer{}, refuse(Invalid, "the token's signature does not verify with key %q of issuer %q", kid, issuer.Issuer)
	case err != nil: // its text may quote the token
		return nil, Issuer{}, refuse(Invalid, "the token is not a signed JWT")
	}
	verified, ok := parsed.Claims.(jwt.MapClaims)
	if !ok || !parsed.Valid {
		return nil, Issuer{}, refuse(Invalid, "the token is not a signed JWT")
	}
	return claims(verified), issuer, nil
}

// Refresh fetches the keys of all issuers now. Tokens verified before are
// verified again where an issuer's keys have changed.
func (v *Verifier) Refresh(ctx context.Context) error {
	var failed []error
	for _, set := range v.issuers {
		failed = append(failed, set.refresh(ctx, false))
	}
	return errors.Join(failed...)
}

// Run fetches the keys of all issuers, and again each hour; after a failure
// each minute. It returns nil when ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	for {
		wait := refreshEvery
		for _, set := range v.issuers {
			if ctx.Err() != nil {
				return nil
			}
			if err := set.refresh(ctx, false); err != nil {
				wait = retryEvery
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
