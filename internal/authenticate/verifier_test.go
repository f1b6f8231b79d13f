package authenticate_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
)

func TestReferenceToken(t *testing.T) {
	p, err := dataPlane(t).Principal(t.Context(), token(nil))
	if err != nil {
		t.Fatal(err)
	}
	want, err := access.ParseResourceID(workspace)
	if err != nil {
		t.Fatal(err)
	}
	if p.Issuer != iss(tenant) || p.TenantID != tenant || p.ObjectID != oid || p.AppID != appID ||
		!p.Resource.Equal(want) || !p.Expires.Equal(start.Add(86700*time.Second)) {
		t.Errorf("principal is %+v", p)
	}
}

// TestItem14Traps is the corpus of checklist item 14: each token differs from one
// that verifies in one respect.
func TestItem14Traps(t *testing.T) {
	good := token(nil)
	parts := strings.Split(good, ".")
	head, body := header(), payload()
	withHeader := func(changes fields) string { return sign(keyA(), head.with(changes).json(), body.json()) }
	rawHeader := func(text string) string { return sign(keyA(), text, body.json()) }
	rawBody := func(text string) string { return sign(keyA(), head.json(), text) }
	second := func(n int64) int64 { return start.Unix() + n }

	// HS256 keyed with what everybody knows of the RSA key.
	hs256 := func(secret []byte) string {
		text := b64([]byte(head.with(fields{"alg": "HS256"}).json())) + "." + parts[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		return text + "." + b64(mac.Sum(nil))
	}
	der, err := x509.MarshalPKIXPublicKey(&keyA().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	flipped := []byte(good)
	if at := len(flipped) - 20; flipped[at] == 'A' {
		flipped[at] = 'B'
	} else {
		flipped[at] = 'A'
	}
	deep := `{"a":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`

	tests := []struct {
		name, token string
		code        authenticate.Code
		text        string // that the refusal must hold
	}{
		{"empty", "", authenticate.Missing, "empty"},
		{"not a JWT", "abc", authenticate.Invalid, "three parts"},
		{"two parts", parts[0] + "." + parts[1], authenticate.Invalid, "three parts"},
		{"five parts, a JWE", good + ".x.y", authenticate.Invalid, "three parts"},
		{"many dots", strings.Repeat(".", 16000), authenticate.Invalid, "three parts"},
		{"oversize", token(fields{"pad": strings.Repeat("x", 16<<10)}), authenticate.Invalid, "at most 16384"},
		{"padded base64", parts[0] + "=." + parts[1] + "." + parts[2], authenticate.Invalid, "not base64url"},
		{"line break in base64", parts[0] + "\n." + parts[1] + "." + parts[2], authenticate.Invalid, "line break"},
		{"standard base64 signature", parts[0] + "." + parts[1] + ".+/==", authenticate.Invalid, "not a signed JWT"},
		{"line break in signature", good + "\n", authenticate.Invalid, "line break"},
		{"blank after it", good + " ", authenticate.Invalid, "signed JWT"},

		{"alg none", b64([]byte(head.with(fields{"alg": "none"}).json())) + "." + parts[1] + ".", authenticate.Invalid, `alg is "none"`},
		{"alg None", withHeader(fields{"alg": "None"}), authenticate.Invalid, `alg is "None"`},
		{"alg rs256", withHeader(fields{"alg": "rs256"}), authenticate.Invalid, "only RS256"},
		{"alg missing", withHeader(fields{"alg": nil}), authenticate.Invalid, "alg is missing"},
		{"alg a list", withHeader(fields{"alg": []string{"RS256"}}), authenticate.Invalid, "alg is not a string"},
		{"alg PS256", withHeader(fields{"alg": "PS256"}), authenticate.Invalid, "only RS256"},
		{"alg in capitals", rawHeader(`{"ALG":"RS256","kid":"a"}`), authenticate.Invalid, "alg is missing"},
		{"HS256 with the PEM", hs256(publicPEM), authenticate.Invalid, "only RS256"},
		{"HS256 with the DER", hs256(der), authenticate.Invalid, "only RS256"},
		{"HS256 with nothing", hs256(nil), authenticate.Invalid, "only RS256"},

		{"no kid", withHeader(fields{"kid": nil}), authenticate.Invalid, "kid"},
		{"empty kid", withHeader(fields{"kid": ""}), authenticate.Invalid, "kid"},
		{"kid a number", withHeader(fields{"kid": 1}), authenticate.Invalid, "kid"},
		{"kid too long", withHeader(fields{"kid": strings.Repeat("k", 300)}), authenticate.Invalid, "kid"},
		{"kid a path", withHeader(fields{"kid": "../../dev/null"}), authenticate.Invalid, "does not publish"},
		{"kid a URL", withHeader(fields{"kid": "https://evil.example/k"}), authenticate.Invalid, "does not publish"},
		{"jku", withHeader(fields{"jku": "https://evil.example/jwks"}), authenticate.Invalid, `"jku"`},
		{"x5u", withHeader(fields{"x5u": "https://evil.example/x"}), authenticate.Invalid, `"x5u"`},
		{"x5c", withHeader(fields{"x5c": []string{"MII"}}), authenticate.Invalid, `"x5c"`},
		{"jwk of its own", sign(keyB(), head.with(fields{"jwk": jwkOf("a", &keyB().PublicKey)}).json(), body.json()), authenticate.Invalid, `"jwk"`},
		{"crit", withHeader(fields{"crit": []string{"exp"}, "exp": 1}), authenticate.Invalid, `"crit"`},
		{"b64 without crit", withHeader(fields{"b64": false}), authenticate.Invalid, `"b64"`},
		{"typ of another kind", withHeader(fields{"typ": "logout+jwt"}), authenticate.Invalid, "logout+jwt"},

		{"foreign key under our kid", sign(keyB(), head.json(), body.json()), authenticate.Invalid, "does not verify"},
		{"signature flipped", string(flipped), authenticate.Invalid, "does not verify"},
		{"signature empty", parts[0] + "." + parts[1] + ".", authenticate.Invalid, "does not verify"},
		{"claims exchanged", parts[0] + "." + strings.Split(token(fields{"oid": otherTID, "sub": otherTID}), ".")[1] + "." + parts[2], authenticate.Invalid, "does not verify"},

		{"header name twice", rawHeader(`{"alg":"none","alg":"RS256","kid":"a"}`), authenticate.Invalid, `"alg" occurs twice`},
		{"claim twice", rawBody(strings.Replace(body.json(), "{", `{"aud":"x",`, 1)), authenticate.Invalid, `"aud" occurs twice`},
		{"claim twice, escaped", rawBody(strings.Replace(body.json(), "{", `{"\u0061ud":"x",`, 1)), authenticate.Invalid, `"aud" occurs twice`},
		{"nested name twice", rawBody(strings.Replace(body.json(), "{", `{"z":[{"q":{"a":1,"a":2}}],`, 1)), authenticate.Invalid, `"a" occurs twice`},
		{"nested too deep", rawBody(deep), authenticate.Invalid, "nested deeper"},
		{"claims a list", rawBody("[" + body.json() + "]"), authenticate.Invalid, "not a JSON object"},
		{"claims null", rawBody("null"), authenticate.Invalid, "not a JSON object"},
		{"two objects", rawBody(body.json() + body.json()), authenticate.Invalid, "more than one"},
		{"claims not UTF-8", rawBody("{\"a\":\"\xff\"}"), authenticate.Invalid, "not UTF-8"},
		{"claims cut off", rawBody(`{"a":1`), authenticate.Invalid, "not a JSON object"},
		{"claims nested as a JWT", sign(keyA(), head.json(), good), authenticate.Invalid, "not a JSON object"},

		{"iss unknown", token(fields{"iss": "https://evil.example/"}), authenticate.Invalid, `"https://evil.example/" is not trusted`},
		{"iss without its slash", token(fields{"iss": "https://sts.windows.net/" + tenant}), authenticate.Invalid, "not trusted"},
		{"iss of another tenant", token(fields{"iss": iss(otherTID)}), authenticate.Invalid, "not trusted"},
		{"iss in capitals", token(fields{"iss": strings.ToUpper(iss(tenant))}), authenticate.Invalid, "not trusted"},
		{"iss missing", token(fields{"iss": nil}), authenticate.Invalid, "missing"},
		{"iss a list", token(fields{"iss": []string{iss(tenant)}}), authenticate.Invalid, "iss must be a string"},
		{"Iss for iss", token(fields{"iss": nil, "Iss": iss(tenant)}), authenticate.Invalid, "missing"},

		{"aud wrong", token(fields{"aud": "https://management.azure.com"}), authenticate.WrongAudience, `"https://management.azure.com", but must be for "` + audience + `"`},
		{"aud with a slash", token(fields{"aud": audience + "/"}), authenticate.WrongAudience, "must be for"},
		{"aud in capitals", token(fields{"aud": strings.ToUpper(audience)}), authenticate.WrongAudience, "must be for"},
		{"aud a list of one", token(fields{"aud": []string{audience}}), authenticate.WrongAudience, "one string"},
		{"aud a list of two", token(fields{"aud": []string{audience, "x"}}), authenticate.WrongAudience, "one string"},
		{"aud missing", token(fields{"aud": nil}), authenticate.WrongAudience, "one string"},
		{"AUD for aud", token(fields{"aud": nil, "AUD": audience}), authenticate.WrongAudience, "one string"},

		{"expired", token(fields{"iat": second(-7200), "nbf": second(-7200), "exp": second(-3600)}), authenticate.Expired, "expired at 2026-11-22T11:00:00Z"},
		{"expired at the skew", token(fields{"iat": second(-7200), "exp": second(-60)}), authenticate.Expired, "expired at"},
		{"exp missing", token(fields{"exp": nil}), authenticate.Invalid, "(exp)"},
		{"iat missing", token(fields{"iat": nil}), authenticate.Invalid, "(iat)"},
		{"exp a string", token(fields{"exp": "9999999999"}), authenticate.Invalid, "exp must be a whole number"},
		{"exp null", rawBody(strings.Replace(body.with(fields{"exp": nil}).json(), "{", `{"exp":null,`, 1)), authenticate.Invalid, "exp must be"},
		{"exp beyond int64", rawBody(strings.Replace(body.with(fields{"exp": nil}).json(), "{", `{"exp":1e300,`, 1)), authenticate.Invalid, "exp must be"},
		{"exp negative", token(fields{"exp": -1}), authenticate.Invalid, "exp must be"},
		{"exp overflows", token(fields{"exp": int64(9223372036854775807)}), authenticate.Invalid, "exp must be"},
		{"iat in the future", token(fields{"iat": second(61)}), authenticate.Invalid, "in the future"},
		{"nbf in the future", token(fields{"nbf": second(61)}), authenticate.Invalid, "not valid before"},
		{"lives too long", token(fields{"exp": second(25*3600 + 1)}), authenticate.Invalid, "at most 25h"},

		{"tid of another tenant", token(fields{"tid": otherTID}), authenticate.WrongTenant, otherTID},
		{"tid missing", token(fields{"tid": nil}), authenticate.WrongTenant, "missing"},
		{"ver of the other endpoint", token(fields{"ver": "2.0"}), authenticate.Invalid, `"2.0"`},
		{"oid missing", token(fields{"oid": nil, "sub": nil}), authenticate.Invalid, "oid"},
		{"oid not a GUID", token(fields{"oid": "admin", "sub": "admin"}), authenticate.Invalid, "GUID"},

		{"no xms_mirid", token(fields{"xms_mirid": nil}), authenticate.Invalid, "no xms_mirid"},
		{"xms_mirid a list", token(fields{"xms_mirid": []string{workspace}}), authenticate.Invalid, "xms_mirid must be a string"},
		{"XMS_MIRID", token(fields{"xms_mirid": nil, "XMS_MIRID": workspace}), authenticate.Invalid, "no xms_mirid"},
		{"sub is not oid", token(fields{"sub": otherTID}), authenticate.Invalid, "sub and oid"},
		{"sub missing", token(fields{"sub": nil}), authenticate.Invalid, "sub and oid"},
		{"a user's token", token(fields{"scp": "user_impersonation"}), authenticate.Invalid, "scp"},
		{"scp empty", token(fields{"scp": ""}), authenticate.Invalid, "scp"},
		{"idtyp user", token(fields{"idtyp": "user"}), authenticate.Invalid, `idtyp is "user"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := dataPlane(t).Principal(t.Context(), test.token)
			if err == nil {
				t.Fatalf("verified as %+v", p)
			}
			r := refusal(t, err)
			if r.Code != test.code || !strings.Contains(r.Message, test.text) {
				t.Errorf("refused with %s %q, want %s and %q", r.Code, r.Message, test.code, test.text)
			}
			if strings.Contains(r.Message, "eyJ") || len(r.Message) > 700 {
				t.Errorf("refusal quotes the token: %q", r.Message)
			}
		})
	}
}

// TestAccepted holds what is near a trap and must still pass.
func TestAccepted(t *testing.T) {
	second := func(n int64) int64 { return start.Unix() + n }
	tests := []struct{ name, token string }{
		{"expired within the skew", token(fields{"iat": second(-7200), "nbf": second(-7200), "exp": second(-59)})},
		{"issued ahead within the skew", token(fields{"iat": second(60), "nbf": second(60)})},
		{"longest life", token(fields{"exp": second(25 * 3600)})},
		{"no nbf", token(fields{"nbf": nil})},
		{"no idtyp", token(fields{"idtyp": nil})},
		{"no ver", token(fields{"ver": nil})},
		{"tid in capitals", token(fields{"tid": strings.ToUpper(tenant)})},
		{"no typ", sign(keyA(), `{"alg":"RS256","kid":"a"}`, payload().json())},
		{"at+jwt", sign(keyA(), `{"alg":"RS256","kid":"a","typ":"at+jwt","nonce":"n"}`, payload().json())},
		{"xms_az_rid beside it", token(fields{"xms_az_rid": workspace})},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := dataPlane(t).Principal(t.Context(), test.token); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUserToken: without RequireSource a person is a principal, and a v2 token
// names its application in azp.
func TestUserToken(t *testing.T) {
	cfg := config(newSource(), &clock{t: start})
	cfg.RequireSource = false
	v := newVerifier(t, cfg)
	user := fields{"xms_mirid": nil, "scp": "user_impersonation", "idtyp": "user", "sub": "pairwise", "appid": nil, "azp": appID}
	p, err := v.Principal(t.Context(), token(user))
	if err != nil {
		t.Fatal(err)
	}
	if p.ObjectID != oid || p.AppID != appID || !p.Resource.IsZero() {
		t.Errorf("principal is %+v", p)
	}
	// A resource is still said to be one, so that it cannot pass for an owner.
	if p, err = v.Principal(t.Context(), token(nil)); err != nil || p.Resource.IsZero() {
		t.Errorf("principal is %+v, %v", p, err)
	}
	if _, err = v.Principal(t.Context(), token(fields{"xms_mirid": ""})); err == nil {
		t.Error("an empty xms_mirid passed for none")
	}
}

// TestItem16TwoIssuers: the same oid and sub from another issuer is another
// principal, and no issuer's key signs for another (checklist item 16).
func TestItem16TwoIssuers(t *testing.T) {
	clk := &clock{t: start}
	a := newSource()
	b := &source{body: jwks(jwkOf("b", &keyB().PublicKey))}
	cfg := config(a, clk)
	cfg.Issuers = append(cfg.Issuers, authenticate.Issuer{Issuer: iss(otherTID), TenantID: otherTID, Fetch: b.fetch})
	v := newVerifier(t, cfg)

	ours, err := v.Principal(t.Context(), token(nil))
	if err != nil {
		t.Fatal(err)
	}
	claimsB := payload().with(fields{"iss": iss(otherTID), "tid": otherTID})
	theirs, err := v.Principal(t.Context(), sign(keyB(), header().with(fields{"kid": "b"}).json(), claimsB.json()))
	if err != nil {
		t.Fatal(err)
	}
	if ours.ObjectID != theirs.ObjectID || ours.Issuer == theirs.Issuer || ours.TenantID == theirs.TenantID {
		t.Errorf("principals are %+v and %+v", ours, theirs)
	}
	crossed := []struct{ name, token string }{
		{"b signs for a", sign(keyB(), header().with(fields{"kid": "b"}).json(), payload().json())},
		{"b signs as a's kid", sign(keyB(), header().json(), payload().json())},
		{"b claims a's tenant", sign(keyB(), header().with(fields{"kid": "b"}).json(), claimsB.with(fields{"tid": tenant}).json())},
	}
	for _, test := range crossed {
		t.Run(test.name, func(t *testing.T) {
			_, err := v.Principal(t.Context(), test.token)
			refusal(t, err)
		})
	}
}

func TestNewRefuses(t *testing.T) {
	src := newSource()
	good := authenticate.Issuer{Issuer: iss(tenant), TenantID: tenant, Fetch: src.fetch}
	tests := []struct {
		name string
		cfg  authenticate.Config
	}{
		{"no issuer", authenticate.Config{Audiences: []string{"a"}}},
		{"no audience", authenticate.Config{Issuers: []authenticate.Issuer{good}}},
		{"empty audience", authenticate.Config{Issuers: []authenticate.Issuer{good}, Audiences: []string{""}}},
		{"issuer twice", authenticate.Config{Issuers: []authenticate.Issuer{good, good}, Audiences: []string{"a"}}},
		{"no tenant", authenticate.Config{Issuers: []authenticate.Issuer{{Issuer: "i", Fetch: src.fetch}}, Audiences: []string{"a"}}},
		{"no fetch", authenticate.Config{Issuers: []authenticate.Issuer{{Issuer: "i", TenantID: tenant}}, Audiences: []string{"a"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := authenticate.New(test.cfg); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestBearerToken(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   string // "" for a refusal
	}{
		{"one", []string{"Bearer abc"}, "abc"},
		{"any case", []string{"bEARER abc"}, "abc"},
		{"none", nil, ""},
		{"two", []string{"Bearer abc", "Bearer def"}, ""},
		{"basic", []string{"Basic abc"}, ""},
		{"no token", []string{"Bearer "}, ""},
		{"only a scheme", []string{"Bearer"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := authenticate.BearerToken(http.Header{"Authorization": test.values})
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// TestItem17LogsHoldNoToken is checklist items 17 and 39.
func TestItem17LogsHoldNoToken(t *testing.T) {
	var log bytes.Buffer
	src := newSource()
	clk := &clock{t: start}
	cfg := config(src, clk)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	v := newVerifier(t, cfg)
	src.set(nil, errors.New("issuer is down"))
	for _, tok := range []string{token(nil), token(fields{"aud": "x"}), sign(keyB(), header().json(), payload().json())} {
		if _, err := v.Principal(t.Context(), tok); err == nil {
			t.Error("verified without keys")
		}
	}
	if s := log.String(); !strings.Contains(s, "issuer is down") || strings.Contains(s, "eyJ") {
		t.Errorf("log is %q", s)
	}
}

// A stolen token ends: at most 25 hours are accepted between iat and exp, which
// lets a managed identity's 24 h 05 min pass, and a token that was verified is
// not remembered past its end.
func TestItem17LifetimeIsCapped(t *testing.T) {
	clk := &clock{t: start}
	v := newVerifier(t, config(newSource(), clk))
	for lifetime, ok := range map[time.Duration]bool{
		24*time.Hour + 5*time.Minute: true, 25 * time.Hour: true, 25*time.Hour + time.Second: false, 48 * time.Hour: false, 365 * 24 * time.Hour: false,
	} {
		_, err := v.Principal(t.Context(), token(fields{"exp": start.Add(lifetime).Unix()}))
		if (err == nil) != ok {
			t.Errorf("a token that lives %s: %v", lifetime, err)
		}
	}
	short := token(fields{"exp": start.Add(time.Minute).Unix()})
	if _, err := v.Principal(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	clk.add(2 * time.Minute) // the minute, and the skew
	if _, err := v.Principal(t.Context(), short); err == nil {
		t.Error("a token was accepted past its end")
	}
}
