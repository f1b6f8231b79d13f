package authenticate_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/access"
)

// FuzzItem14Token signs whatever header and claims it is given, and passes on a
// signature of its own as well. Nothing panics, and what verifies here also
// verifies by hand with crypto/rsa and with a second JWT library, go-jose,
// which reads the same claims (checklist, item 14).
func FuzzItem14Token(f *testing.F) {
	f.Add(header().json(), payload().json(), "")
	f.Add(header().json(), payload().with(fields{"aud": []string{audience}}).json(), "")
	f.Add(header().json(), payload().with(fields{"aud": "https://management.azure.com"}).json(), "")
	f.Add(header().json(), payload().with(fields{"exp": start.Unix() - 3600}).json(), "")
	f.Add(header().json(), payload().with(fields{"iss": iss(otherTID)}).json(), "")
	f.Add(`{"alg":"none","kid":"a"}`, payload().json(), "AAAA")
	f.Add(`{"alg":"RS256","alg":"none","kid":"a"}`, payload().json(), "")
	f.Add(`{"alg":"RS256","kid":"a","crit":["b64"],"b64":false}`, payload().json(), "")
	f.Add(`{"ALG":"RS256","kid":"a"}`, strings.Replace(payload().json(), `"exp":`, `"exp":1e3,"Exp":`, 1), "")
	f.Add(`{"alg":"RS256","kid":"a"} x`, `{"iss":{"iss":[[[[]]]]}}`, "")
	f.Add("", "", ".")
	v := dataPlane(f)
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
		if err := secondReading(tok, p); err != nil {
			t.Fatalf("verified as %+v, but: %v", p, err)
		}
		if p.Resource.IsZero() || p.ObjectID == "" || p.TenantID != tenant {
			t.Fatalf("verified as %+v", p)
		}
	})
}

// secondReading is go-jose's verdict on a token that was verified as p, with
// the key a. It shares no code with the library that the verifier uses.
func secondReading(tok string, p access.Principal) error {
	parsed, err := josejwt.ParseSigned(tok, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return fmt.Errorf("go-jose cannot parse it: %w", err)
	}
	if len(parsed.Headers) != 1 || parsed.Headers[0].KeyID != "a" {
		return fmt.Errorf("go-jose reads the headers %+v", parsed.Headers)
	}
	var registered josejwt.Claims
	var own struct {
		TenantID string `json:"tid"`
		ObjectID string `json:"oid"`
		Source   string `json:"xms_mirid"`
	}
	if err := parsed.Claims(&keyA().PublicKey, &registered, &own); err != nil {
		return fmt.Errorf("go-jose does not verify it: %w", err)
	}
	if err := registered.ValidateWithLeeway(josejwt.Expected{Issuer: iss(tenant), AnyAudience: josejwt.Audience{audience}, Time: start}, time.Minute); err != nil {
		return fmt.Errorf("go-jose refuses its claims: %w", err)
	}
	if registered.Expiry == nil || registered.IssuedAt == nil || !registered.Expiry.Time().Equal(p.Expires) {
		return fmt.Errorf("go-jose reads exp %v, iat %v", registered.Expiry, registered.IssuedAt)
	}
	if registered.Subject != own.ObjectID || !strings.EqualFold(own.ObjectID, p.ObjectID) || !strings.EqualFold(own.TenantID, p.TenantID) || own.Source != p.Resource.String() {
		return fmt.Errorf("go-jose reads sub %q and %+v", registered.Subject, own)
	}
	return nil
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
