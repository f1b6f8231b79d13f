package idp

import (
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	maxAssertion = 16 << 10 // bytes; MSAL may send a chain of certificates along
	// assertionSkew is how far a client's clock may be off.
	assertionSkew = 5 * time.Minute
	// assertionLife bounds exp. MSAL's live 10 minutes, those of the older ADAL
	// (kubelogin --legacy) a day. MSAL for Python sends one assertion again for
	// as long as it lives, so there is no memory of jti: what bounds its use by a
	// thief is this.
	assertionLife = 25 * time.Hour
)

// checkAssertion verifies a private_key_jwt (RFC 7523 3): signed with a key
// whose certificate the application has, about the application, for this
// token endpoint, now.
func (p *Provider) checkAssertion(q *tokenRequest, tenant store.Tenant, app store.Application) *oauthError {
	invalid := func(format string, args ...any) *oauthError {
		args = append(args, app.ClientID)
		return fail(http.StatusUnauthorized, "invalid_client", 700027, "The client assertion is not accepted: "+format+" Application ID '%s'.", args...)
	}
	if err := checkAssertionForm(q.client.assertion); err != nil {
		return invalid("%v.", err)
	}
	var cert *x509.Certificate
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256", "PS256"}), jwt.WithStrictDecoding(), jwt.WithJSONNumber(), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(q.client.assertion, claims, func(t *jwt.Token) (any, error) {
		var err error
		if cert, err = certificateOf(app, t.Header, p.cfg.Now()); err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	})
	switch {
	case cert == nil && err != nil && errors.Is(err, errNoCertificate):
		return invalid("its header names no certificate that is registered for the application and valid now (x5t, x5t#S256 or kid).")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return invalid("its signature does not verify with the registered certificate.")
	case err != nil: // its text may quote the assertion
		return invalid("it is not a JWT signed with RS256 or PS256.")
	}
	if iss, _ := claims["iss"].(string); !strings.EqualFold(iss, app.ClientID) || claims["sub"] != claims["iss"] {
		return invalid("its issuer and subject must both be the client id.")
	}
	if !p.meansUs(q, tenant, claims["aud"]) {
		return fail(http.StatusUnauthorized, "invalid_client", 700023, "Client assertion audience claim does not match Realm issuer: it must be this token endpoint.")
	}
	return p.checkAssertionTimes(claims)
}

func (p *Provider) checkAssertionTimes(claims jwt.MapClaims) *oauthError {
	now := p.cfg.Now()
	outside := func(why string) *oauthError {
		return fail(http.StatusUnauthorized, "invalid_client", 700024, "Client assertion is not within its valid time range: %s. Current time: %s.", why, now.UTC().Format(time.RFC3339))
	}
	exp, err := claims.GetExpirationTime()
	nbf, errNBF := claims.GetNotBefore()
	switch {
	case err != nil || errNBF != nil || exp == nil:
		return outside("exp must be there, and exp and nbf must be seconds since 1970")
	case !now.Before(exp.Add(assertionSkew)):
		return outside("it ended at " + exp.UTC().Format(time.RFC3339))
	case exp.After(now.Add(assertionLife)):
		return outside("it ends later than 25 hours from now")
	case nbf != nil && nbf.After(now.Add(assertionSkew)):
		return outside("it begins at " + nbf.UTC().Format(time.RFC3339))
	}
	return nil
}

// meansUs reports whether aud is this provider's token endpoint or issuer for
// the tenant, as clients write them: on our host or on the login host that a
// proxy led here, by the tenant's id or domain.
func (p *Provider) meansUs(q *tokenRequest, tenant store.Tenant, aud any) bool {
	text, ok := aud.(string)
	if !ok {
		return false
	}
	rest, ok := strings.CutPrefix(text, "https://")
	host, path, _ := strings.Cut(rest, "/")
	if !ok || !p.isOwnHost(q.request, host) {
		return false
	}
	name, path, _ := strings.Cut(strings.TrimSuffix(path, "/"), "/")
	if !slices.Contains([]string{"oauth2/token", "oauth2/v2.0/token", "v2.0", ""}, strings.ToLower(path)) {
		return false
	}
	named, failure := p.tenant(q.request.Context(), strings.ToLower(name))
	return failure == nil && named.ID == tenant.ID
}

// checkAssertionForm refuses what two readers could read in two ways.
func checkAssertionForm(assertion string) error {
	if len(assertion) > maxAssertion {
		return errors.New("it is too long")
	}
	if strings.ContainsAny(assertion, "\r\n") {
		return errors.New("it has a line break")
	}
	parts := strings.SplitN(assertion, ".", 4)
	if len(parts) != 3 {
		return errors.New("it must have three parts, separated by dots")
	}
	for _, part := range parts[:2] {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return errors.New("it is not base64url")
		}
		if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: 8}); err != nil {
			return errors.New("it is not JSON objects without duplicate names")
		}
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil || fields["crit"] != nil {
			return errors.New("its header has crit")
		}
	}
	return nil
}

var errNoCertificate = errors.New("no such certificate")

// certificateOf returns the application's certificate that an assertion's
// header names. Keys that the header itself brings (x5c) are not looked at.
func certificateOf(app store.Application, header map[string]any, now time.Time) (*x509.Certificate, error) {
	for _, c := range app.Certificates {
		if now.Before(c.Start) || !now.Before(c.End) {
			continue
		}
		one, two := sha1.Sum(c.DER), sha256.Sum256(c.DER) //nolint:gosec // an identifier; nothing is proved by it
		for name, own := range map[string][]byte{"x5t": one[:], "x5t#S256": two[:], "kid": one[:]} {
			value, _ := header[name].(string)
			// RFC 7515 4.1.7 wants base64url; MSAL for Go writes plain base64.
			plain := strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(value)
			if value == "" || plain != base64.RawURLEncoding.EncodeToString(own) && !strings.EqualFold(value, hex.EncodeToString(own)) {
				continue
			}
			return x509.ParseCertificate(c.DER)
		}
	}
	return nil, errNoCertificate
}
