package authenticate_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzToken signs whatever header and claims it is given, and passes on a
// signature of its own as well. Nothing panics, and what verifies here also
// verifies by hand with crypto/rsa and under the JWT library's own checks.
func FuzzToken(f *testing.F) {
	f.Add(header().json(), payload().json(), "")
	f.Add(header().json(), payload().with(fields{"aud": []string{audience}}).json(), "")
	f.Add(`{"alg":"none","kid":"a"}`, payload().json(), "AAAA")
	f.Add(`{"alg":"RS256","alg":"none","kid":"a"}`, payload().json(), "")
	f.Add(`{"alg":"RS256","kid":"a","crit":["b64"],"b64":false}`, payload().json(), "")
	f.Add(`{"ALG":"RS256","kid":"a"}`, strings.Replace(payload().json(), `"exp":`, `"exp":1e3,"Exp":`, 1), "")
	f.Add(`{"alg":"RS256","kid":"a"} x`, `{"iss":{"iss":[[[[]]]]}}`, "")
	f.Add("", "", ".")
	v := dataPlane(f)
	second := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(iss(tenant)), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(time.Minute), jwt.WithTimeFunc(func() time.Time { return start }))
	f.Fuzz(func(t *testing.T, head, body, signature string) {
		text := b64([]byte(head)) + "." + b64([]byte(body))
		tok := text + "." + signature
		if signature == "" {
			tok = sign(keyA(), head, body)
		}
		p, err := v.Principal(t.Context(), tok)
		if err != nil {
			if r := refusal(t, err); strings.Contains(r.Message, text) {
				t.Errorf("refusal quotes the token: %q", r.Message)
			}
			return
		}
		sig, err := base64.RawURLEncoding.DecodeString(tok[strings.LastIndexByte(tok, '.')+1:])
		if err != nil {
			t.Fatalf("verified, but the signature does not decode: %v", err)
		}
		sum := sha256.Sum256([]byte(text))
		if err := rsa.VerifyPKCS1v15(&keyA().PublicKey, crypto.SHA256, sum[:], sig); err != nil {
			t.Fatalf("verified %+v, but not by hand: %v", p, err)
		}
		if _, err := second.Parse(tok, func(*jwt.Token) (any, error) { return &keyA().PublicKey, nil }); err != nil {
			t.Fatalf("verified %+v, but not by the library's checks: %v", p, err)
		}
		if p.Resource.IsZero() || p.ObjectID == "" || p.TenantID != tenant {
			t.Fatalf("verified as %+v", p)
		}
	})
}

// BenchmarkPrincipal shows what remembering a verified token saves.
func BenchmarkPrincipal(b *testing.B) {
	clk := &clock{t: start}
	v := newVerifier(b, config(newSource(), clk))
	tok := token(nil)
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Principal(b.Context(), tok); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		b.ReportAllocs()
		tokens := make([]string, 64)
		for i := range tokens {
			tokens[i] = token(fields{"uti": strings.Repeat("x", i+1)})
		}
		for i := 0; b.Loop(); i++ {
			if i%len(tokens) == 0 {
				clk.add(3 * time.Minute) // past what a token is remembered for
				if clk.now().Sub(start) > 12*time.Hour {
					clk.add(start.Sub(clk.now()))
				}
			}
			if _, err := v.Principal(b.Context(), tokens[i%len(tokens)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
