package idp

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// DataPlaneAudience is that of Trusted Access (spec/identity.md, fixed
// identifiers).
const DataPlaneAudience = "839858a7-cb51-4fcf-ad2f-222fe0d2d0d0"

// KubernetesAudience is that of the AKS Entra server application, for which
// developers' tokens for an API server are (spec/identity.md, fixed identifiers).
const KubernetesAudience = "6dae42f8-4368-4678-94ff-3960e28e3630"

// ARMAudiences returns the four spellings for ARM (spec/identity.md 6.3).
func ARMAudiences() []string {
	return []string{
		"https://management.azure.com", "https://management.azure.com/",
		"https://management.core.windows.net", "https://management.core.windows.net/",
	}
}

func (p *Provider) audienceKnown(audience string) bool {
	return audience == DataPlaneAudience || audience == KubernetesAudience || slices.Contains(ARMAudiences(), audience) ||
		audience != "" && p.cfg.AllowAudience(audience)
}

// subject is whom a token is about.
type subject struct {
	tenantID string
	objectID string
	appID    string
	acr      string // "1" a secret, "2" a managed identity
	resource string // ARM id; "" for an application
}

// issued is a token with its times, in whole seconds.
type issued struct {
	token     string
	notBefore time.Time
	expires   time.Time
}

// mint makes a v1 access token with the claims of the reference payload
// (spec/identity.md 1.3). aio, rh and uti are opaque.
func (p *Provider) mint(key signingKey, s subject, audience string, life time.Duration) (issued, error) {
	now := p.cfg.Now().Truncate(time.Second)
	out := issued{notBefore: now, expires: now.Add(life)}
	tid := strings.ToLower(s.tenantID)
	issuer := tokenIssuer(tid)
	claims := jwt.MapClaims{
		"aud": audience, "iss": issuer, "iat": now.Unix(), "nbf": now.Unix(), "exp": out.expires.Unix(),
		"aio": opaque(), "appid": s.appID, "appidacr": s.acr, "idp": issuer, "idtyp": "app",
		"oid": s.objectID, "rh": opaque(), "sub": s.objectID, "tid": tid, "uti": opaque(), "ver": "1.0",
	}
	if s.resource != "" {
		claims["xms_mirid"] = s.resource
	}
	var err error
	out.token, err = key.sign(claims)
	return out, err
}

func opaque() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// maxCachedTokens bounds the cache of tokens; each has about 1 kB.
const maxCachedTokens = 10_000

// tokenKey has all that is in a token, so that a change of the directory or of
// the keys never meets an old one.
type tokenKey struct {
	subject  subject
	audience string
	kid      string
}

// tokenCache keeps managed-identity tokens for half of their life, as the real
// endpoint does: signing costs most of a millisecond.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[tokenKey]issued
}

func (c *tokenCache) get(key tokenKey, now time.Time) (issued, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tokens[key]
	return t, ok && !t.stale(now)
}

func (c *tokenCache) put(key tokenKey, t issued, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= maxCachedTokens {
		for k, old := range c.tokens {
			if old.stale(now) {
				delete(c.tokens, k)
			}
		}
	}
	if c.tokens == nil || len(c.tokens) >= maxCachedTokens {
		c.tokens = map[tokenKey]issued{} // they can be made again
	}
	c.tokens[key] = t
}

// stale reports whether half of the life is over, or a clock set back has put
// its start into the future.
func (t issued) stale(now time.Time) bool {
	return now.Before(t.notBefore) || !now.Before(t.notBefore.Add(t.expires.Sub(t.notBefore)/2))
}
