package authenticate_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenant    = "11111111-1111-1111-1111-111111111111"
	otherTID  = "22222222-2222-2222-2222-222222222222"
	oid       = "33333333-3333-3333-3333-333333333333"
	appID     = "44444444-4444-4444-4444-444444444444"
	audience  = "839858a7-cb51-4fcf-ad2f-222fe0d2d0d0"
	workspace = "/subscriptions/55555555-5555-5555-5555-555555555555/resourcegroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w"
)

// start is the time at which all tests take place.
var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Making RSA keys is slow, so tests share two.
var (
	keyA = sync.OnceValue(newKey)
	keyB = sync.OnceValue(newKey)
)

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

func iss(tid string) string { return "https://sts.windows.net/" + tid + "/" }

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// fields are the members of a header or of claims.
type fields map[string]any

// with returns a copy with changes; a nil value removes the member.
func (f fields) with(changes fields) fields {
	out := maps.Clone(f)
	for k, v := range changes {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = v
	}
	return out
}

func (f fields) json() string {
	raw, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func header() fields { return fields{"typ": "JWT", "alg": "RS256", "kid": "a", "x5t": "a"} }

// payload is the reference payload of spec/identity.md 1.3.
func payload() fields {
	return fields{
		"aud": audience, "iss": iss(tenant), "idp": iss(tenant), "tid": tenant, "ver": "1.0",
		"iat": start.Unix(), "nbf": start.Unix(), "exp": start.Unix() + 86700,
		"appid": appID, "appidacr": "2", "idtyp": "app", "oid": oid, "sub": oid,
		"aio": "x", "rh": "x", "uti": "x", "xms_mirid": workspace,
	}
}

// sign makes a token of exactly these texts.
func sign(key *rsa.PrivateKey, header, payload string) string {
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + b64(sig)
}

func token(changes fields) string {
	return sign(keyA(), header().json(), payload().with(changes).json())
}

func jwkOf(kid string, key *rsa.PublicKey) fields {
	return fields{"kty": "RSA", "use": "sig", "kid": kid, "x5t": kid, "n": b64(key.N.Bytes()),
		"e": b64(big.NewInt(int64(key.E)).Bytes()), "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}
}

func jwks(keys ...fields) []byte {
	raw, err := json.Marshal(fields{"keys": keys})
	if err != nil {
		panic(err)
	}
	return raw
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

// source is an issuer's endpoint that can change, fail and count.
type source struct {
	mu      sync.Mutex
	body    []byte
	err     error
	fetches int
}

func (s *source) fetch(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetches++
	return s.body, s.err
}

func (s *source) set(body []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.err = body, err
}

func (s *source) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.fetches }

func newSource() *source { return &source{body: jwks(jwkOf("a", &keyA().PublicKey))} }

// config is the data plane with one issuer.
func config(src *source, clk *clock) authenticate.Config {
	return authenticate.Config{
		Issuers:       []authenticate.Issuer{{Issuer: iss(tenant), TenantID: tenant, Version: "1.0", Fetch: src.fetch}},
		Audiences:     []string{audience},
		RequireSource: true,
		Now:           clk.now,
	}
}

func newVerifier(t testing.TB, cfg authenticate.Config) *authenticate.Verifier {
	t.Helper()
	v, err := authenticate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// dataPlane is a verifier of the data plane with the key a.
func dataPlane(t testing.TB) *authenticate.Verifier {
	return newVerifier(t, config(newSource(), &clock{t: start}))
}

func refusal(t *testing.T, err error) *authenticate.Refusal {
	t.Helper()
	var r *authenticate.Refusal
	if !errors.As(err, &r) || !errors.Is(err, access.ErrUnauthenticated) {
		t.Fatalf("error is %v (%T), want a Refusal", err, err)
	}
	return r
}
