package enroll

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	maxToken  = 16 << 10       // bytes
	maxLife   = 25 * time.Hour // checklist, item 17
	clockSkew = time.Minute
)

// podToken says what a projected service-account token must be.
type podToken struct {
	keys     keySet
	issuer   string // exact "iss"
	audience string // among "aud"
	subject  string // exact "sub"
	now      func() time.Time
}

// verify checks a token (a JWT, RFC 7519, signed by the cluster). exp and iat
// must be there and at most 25 hours apart; the key is looked up by kid in
// the recorded set, and nothing in the token can name another place to find
// one. The error wraps [access.ErrForbidden] for a good token of another
// account, else [access.ErrUnauthenticated], and never holds the token.
func (p podToken) verify(token string) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("service-account token: "+format+": %w", append(args, access.ErrUnauthenticated)...)
	}
	if err := checkCompact(token); err != nil {
		return fail("%v", err)
	}
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256", "ES256"}),
		jwt.WithStrictDecoding(),
		jwt.WithIssuer(p.issuer),
		jwt.WithAudience(p.audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), // not in the future; that it is there is checked below
		jwt.WithLeeway(clockSkew),
		jwt.WithTimeFunc(p.now),
	)
	if _, err := parser.ParseWithClaims(token, claims, p.key); err != nil {
		return fail("%s (must be signed by the enrolled cluster, for audience %q)", access.Clip(err.Error(), maxQuoted), p.audience)
	}
	issued, err := claims.GetIssuedAt()
	if err != nil || issued == nil {
		return fail("iat is missing")
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil {
		return fail("exp is missing")
	}
	if life := expires.Sub(issued.Time); life <= 0 || life > maxLife {
		return fail("lives %v, must live at most %v; set expirationSeconds of the projected volume", life, maxLife)
	}
	subject, err := claims.GetSubject()
	if err != nil {
		return fail("sub is not text")
	}
	if subject != p.subject {
		return fmt.Errorf("service-account token is of %q, must be of %q: %w", access.Clip(subject, maxQuoted), p.subject, access.ErrForbidden)
	}
	return nil
}

// key finds the key that a token names, if its algorithm is that key's own.
func (p podToken) key(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("critical header parameters are not understood") // RFC 7515, 4.1.11
	}
	kid, ok := t.Header["kid"].(string)
	key, known := p.keys[kid]
	if !ok || !known {
		return nil, fmt.Errorf("key id %q is not among the cluster's recorded keys", access.Clip(kid, maxQuoted))
	}
	if t.Method.Alg() != key.alg {
		return nil, fmt.Errorf("algorithm %s, the key is for %s", t.Method.Alg(), key.alg)
	}
	return key.public, nil
}

// checkCompact looks at size and form before anything is believed: three
// parts, of which header and claims are JSON that reads in one way only.
func checkCompact(token string) error {
	if len(token) > maxToken {
		return fmt.Errorf("longer than %d bytes", maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return errors.New("not three parts with dots between")
	}
	for i, name := range []string{"header", "claims"} {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return fmt.Errorf("%s: not base64url", name)
		}
		if err := strictjson.Check(raw, jsonRules()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
