package idp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The web application's certificates: one that is good now, and one not yet.
var (
	testCertificate = newCertificate()
	lateCertificate = newCertificate()
)

func newCertificate() tls.Certificate {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	// Its thumbprint has the characters in which the kinds of base64 differ.
	for serial := int64(1); ; serial++ {
		template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: start, NotAfter: start.AddDate(1, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(der)
		if text := base64.RawStdEncoding.EncodeToString(sum[:]); strings.Contains(text, "+") && strings.Contains(text, "/") {
			return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		}
	}
}

// assertion is a client assertion as MSAL makes it, with changes; a nil value
// leaves a claim or header out.
func (w *world) assertion(t testing.TB, method jwt.SigningMethod, key any, header, claims map[string]any) string {
	t.Helper()
	sum := sha1.Sum(testCertificate.Certificate[0]) //nolint:gosec // as above
	token := jwt.NewWithClaims(method, jwt.MapClaims{
		"aud": "https://login.test/" + tenant + "/oauth2/v2.0/token", "iss": webApp, "sub": webApp, "jti": "1",
		"nbf": w.now.Unix(), "exp": w.now.Add(10 * time.Minute).Unix(),
	})
	token.Header["x5t"] = base64.URLEncoding.EncodeToString(sum[:])
	set := func(to, from map[string]any) {
		maps.Copy(to, from)
		maps.DeleteFunc(to, func(_ string, v any) bool { return v == nil })
	}
	set(token.Header, header)
	if c, ok := token.Claims.(jwt.MapClaims); ok {
		set(c, claims)
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// askWithAssertion is the answer of the token endpoint.
func (w *world) askWithAssertion(assertion, host string) *httptest.ResponseRecorder {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {webApp}, "scope": {"https://management.azure.com/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
	}
	r := httptest.NewRequest(http.MethodPost, "https://"+host+"/contoso.example/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// TestCertificateAssertion: an application signs in with its certificate in
// each way that MSAL and ADAL write it, and in no other.
func TestCertificateAssertion(t *testing.T) {
	w := newWorld(t)
	other := newCertificate()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint := func(c tls.Certificate) string {
		sum := sha256.Sum256(c.Certificate[0])
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	old := sha1.Sum(testCertificate.Certificate[0]) //nolint:gosec // as above
	type fields = map[string]any
	tests := []struct {
		name           string
		method         jwt.SigningMethod
		key            any
		header, claims fields
		host           string
		code           int // of AADSTS, 0 for a token
	}{
		{name: "RS256 and x5t"},
		{name: "PS256 and x5t#S256", method: jwt.SigningMethodPS256, header: fields{"x5t": nil, "x5t#S256": thumbprint(testCertificate)}},
		{name: "x5t#S256 in plain base64, as MSAL for Go", method: jwt.SigningMethodPS256, header: fields{"x5t": nil, "x5t#S256": strings.NewReplacer("-", "+", "_", "/").Replace(thumbprint(testCertificate)) + "="}},
		{name: "a kid in hexadecimal", header: fields{"x5t": nil, "kid": fmt.Sprintf("%X", old)}},
		{name: "a chain beside it", header: fields{"x5c": []string{base64.StdEncoding.EncodeToString(other.Certificate[0])}}},
		{name: "the v1 endpoint", claims: fields{"aud": "https://login.test/" + tenant + "/oauth2/token"}},
		{name: "the issuer", claims: fields{"aud": "https://login.test/" + tenant + "/v2.0"}},
		{name: "the domain", claims: fields{"aud": "https://login.test/CONTOSO.example/oauth2/v2.0/token"}},
		{name: "by the proxy", claims: fields{"aud": "https://login.microsoftonline.com/" + tenant + "/oauth2/v2.0/token"}, host: "login.microsoftonline.com"},
		{name: "by the proxy, another name", claims: fields{"aud": "https://login.windows.net/" + tenant + "/oauth2/v2.0/token"}, host: "login.microsoftonline.com"},
		{name: "a day, as ADAL", claims: fields{"exp": start.Add(24 * time.Hour).Unix()}},
		{name: "a clock ahead", claims: fields{"nbf": start.Add(4 * time.Minute).Unix()}},

		{name: "another key", key: other.PrivateKey, code: 700027},
		{name: "a key it brings itself", key: other.PrivateKey, header: fields{"x5t": nil, "x5t#S256": thumbprint(other), "x5c": []string{base64.StdEncoding.EncodeToString(other.Certificate[0])}}, code: 700027},
		{name: "a certificate of later", key: lateCertificate.PrivateKey, header: fields{"x5t": nil, "x5t#S256": thumbprint(lateCertificate)}, code: 700027},
		{name: "ES256", method: jwt.SigningMethodES256, key: ec, code: 700027},
		{name: "HS256 with the certificate", method: jwt.SigningMethodHS256, key: testCertificate.Certificate[0], code: 700027},
		{name: "none", method: jwt.SigningMethodNone, key: jwt.UnsafeAllowNoneSignatureType, code: 700027},
		{name: "no thumbprint", header: fields{"x5t": nil}, code: 700027},
		{name: "crit", header: fields{"crit": []string{"exp"}}, code: 700027},
		{name: "another issuer", claims: fields{"iss": clientID}, code: 700027},
		{name: "another subject", claims: fields{"sub": clientID}, code: 700027},
		{name: "another host", claims: fields{"aud": "https://login.example/" + tenant + "/oauth2/v2.0/token"}, code: 700023},
		{name: "another server, whose name the request bears", claims: fields{"aud": "https://login.example/" + tenant + "/oauth2/v2.0/token"}, host: "login.example", code: 700023},
		{name: "another tenant", claims: fields{"aud": "https://login.test/" + otherTenant + "/oauth2/v2.0/token"}, code: 700023},
		{name: "not https", claims: fields{"aud": "http://login.test/" + tenant + "/oauth2/v2.0/token"}, code: 700023},
		{name: "two audiences", claims: fields{"aud": []string{"https://login.test/" + tenant + "/oauth2/v2.0/token"}}, code: 700023},
		{name: "no audience", claims: fields{"aud": nil}, code: 700023},
		{name: "expired", claims: fields{"exp": start.Add(-5 * time.Minute).Unix()}, code: 700024},
		{name: "no end", claims: fields{"exp": nil}, code: 700024},
		{name: "a week", claims: fields{"exp": start.Add(7 * 24 * time.Hour).Unix()}, code: 700024},
		{name: "not yet", claims: fields{"nbf": start.Add(6 * time.Minute).Unix()}, code: 700024},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			method, key, host := test.method, test.key, test.host
			if method == nil {
				method = jwt.SigningMethodRS256
			}
			if key == nil {
				key = testCertificate.PrivateKey
			}
			if host == "" {
				host = "login.test"
			}
			answer := w.askWithAssertion(w.assertion(t, method, key, test.header, test.claims), host)
			switch {
			case test.code == 0 && answer.Code != http.StatusOK:
				t.Errorf("%d %s", answer.Code, answer.Body)
			case test.code == 0:
				_, rest, _ := strings.Cut(answer.Body.String(), `"access_token":"`)
				token, _, _ := strings.Cut(rest, `"`)
				if claims := decode(t, token, 1); claims["appidacr"] != "2" || claims["oid"] != webOID || claims["aud"] != "https://management.azure.com" {
					t.Errorf("claims are %v", claims)
				}
			case answer.Code != http.StatusUnauthorized || !strings.Contains(answer.Body.String(), fmt.Sprintf("AADSTS%d:", test.code)) || !strings.Contains(answer.Body.String(), `"invalid_client"`):
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
		})
	}
}

// FuzzAssertion: nothing but the one assertion that the key signed is taken.
func FuzzAssertion(f *testing.F) {
	w := newWorld(f)
	genuine := w.assertion(f, jwt.SigningMethodRS256, testCertificate.PrivateKey, nil, nil)
	f.Add(genuine + "x")
	f.Add("e30.e30.")
	f.Add(genuine[:len(genuine)-4])
	f.Add(strings.Replace(genuine, ".", "..", 1))
	f.Fuzz(func(t *testing.T, assertion string) {
		if assertion == genuine {
			return
		}
		if answer := w.askWithAssertion(assertion, "login.test"); answer.Code < 400 || strings.Contains(answer.Body.String(), "eyJ") {
			t.Errorf("%q: %d %s", assertion, answer.Code, answer.Body)
		}
		w.log.Reset()
	})
}
