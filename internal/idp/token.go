package idp

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

// DataPlaneAudience is that of Trusted Access (spec/identity.md, fixed
// identifiers).
const DataPlaneAudience = directory.TrustedAccess

// KubernetesAudience is that of the AKS Entra server application, for which
// developers' tokens for an API server are (spec/identity.md, fixed identifiers).
const KubernetesAudience = directory.AKSServer

// maxGroups is how many a JWT holds (spec/identity.md 4.4).
const maxGroups = 200

// subject is whom a token is about.
type subject struct {
	tenantID string
	objectID string
	appID    string
	acr      string // how the client proved itself: "0" not at all, "1" a secret, "2" an assertion or a managed identity
	resource string // ARM id; "" for an application
	usedBy   string // ARM id of the resource that asks, of a user-assigned identity
	groups   string // object ids, separated by spaces; "" for none or not asked
}

// target is what a token is for.
type target struct {
	audience string
	v2       bool
	host     string // of v2 issuers: ours, as the client sees it
}

// issued is a token with its times, in whole seconds.
type issued struct {
	token     string
	notBefore time.Time
	expires   time.Time
}

// left is expires_in: one less than exp says, as Entra's, so that no client
// uses the last second.
func (t issued) left() int64 { return int64(t.expires.Sub(t.notBefore).Seconds()) - 1 }

// mint makes an access token of an application or managed identity, with the
// claims of the reference payload (spec/identity.md 1.3).
func (p *Provider) mint(key signingKey, s subject, t target, life time.Duration) (issued, error) {
	claims := jwt.MapClaims{"idtyp": "app", "sub": s.objectID}
	if s.resource != "" {
		claims["xms_mirid"] = s.resource
	}
	if s.usedBy != "" {
		claims["xms_az_rid"] = s.usedBy
	}
	return p.signed(key, s, t, life, claims)
}

// signed adds to claims what all access tokens have, and signs. aio, rh and
// uti are opaque.
func (p *Provider) signed(key signingKey, s subject, t target, life time.Duration, claims jwt.MapClaims) (issued, error) {
	now := p.cfg.Now().Truncate(time.Second)
	out := issued{notBefore: now, expires: now.Add(life)}
	tid := strings.ToLower(s.tenantID)
	v1 := tokenIssuer(tid)
	maps.Copy(claims, jwt.MapClaims{
		"aud": t.audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": out.expires.Unix(),
		"aio": opaque(), "oid": s.objectID, "rh": opaque(), "tid": tid, "uti": opaque(),
	})
	if t.v2 {
		maps.Copy(claims, jwt.MapClaims{"iss": issuerV2(t.host, tid), "azp": s.appID, "azpacr": s.acr, "ver": "2.0"})
	} else {
		maps.Copy(claims, jwt.MapClaims{"iss": v1, "appid": s.appID, "appidacr": s.acr, "ver": "1.0"})
		if claims["idtyp"] == "app" {
			claims["idp"] = v1
		}
	}
	addGroups(claims, s)
	var err error
	out.token, err = key.sign(claims)
	return out, err
}

// addGroups adds the claim groups, or says where to ask if there are too many
// (spec/identity.md 4.4).
func addGroups(claims jwt.MapClaims, s subject) {
	groups := strings.Fields(s.groups)
	switch {
	case len(groups) == 0:
	case len(groups) <= maxGroups:
		claims["groups"] = groups
	default:
		kind := "users"
		if claims["idtyp"] == "app" {
			kind = "servicePrincipals"
		}
		claims["_claim_names"] = map[string]string{"groups": "src1"}
		claims["_claim_sources"] = map[string]any{"src1": map[string]string{
			"endpoint": "https://graph.windows.net/" + strings.ToLower(s.tenantID) + "/" + kind + "/" + s.objectID + "/getMemberObjects",
		}}
	}
}

// groupsFor returns the subject's groups if the API wants to see them.
func (p *Provider) groupsFor(ctx context.Context, api store.Application, s subject) (string, *oauthError) {
	if !api.GroupClaims {
		return "", nil
	}
	groups, err := p.cfg.Directory.Groups(ctx, s.tenantID, s.objectID)
	if err != nil {
		return "", unavailable(err)
	}
	return strings.Join(groups, " "), nil
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
	subject subject
	target  target
	kid     string
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
