package enroll_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// ask posts to Certificate without the network and returns status and body.
func (g *gateway) ask(t *testing.T, bearer string, body any) (int, string) {
	t.Helper()
	data, ok := body.(string)
	if !ok {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		data = string(raw)
	}
	r := httptest.NewRequest(http.MethodPost, clusterText+enroll.CertificatePath, strings.NewReader(data))
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	g.server.Certificate(w, r, clusterID(t))
	return w.Code, w.Body.String()
}

func newCSR(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

type certBody struct {
	Role string `json:"role"`
	CSR  []byte `json:"csr"`
}

func TestCertificateByToken(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	other := newKube(t, g.clock.now)
	with := func(change func(jwt.MapClaims)) string {
		claims := g.kube.claims(proxySub)
		change(claims)
		return sign(t, jwt.SigningMethodRS256, "r1", claims, g.kube.rsa)
	}
	now := g.clock.now()
	b64 := base64.RawURLEncoding.EncodeToString
	duplicate := func(header, claims string) string {
		text := b64([]byte(header)) + "." + b64([]byte(claims))
		signature, err := jwt.SigningMethodRS256.Sign(text, g.kube.rsa)
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + b64(signature)
	}
	claims, err := json.Marshal(g.kube.claims(proxySub))
	if err != nil {
		t.Fatal(err)
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(g.kube.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		token string
		role  string // default serve
		want  int
	}{
		"proxy, RS256":       {token: g.kube.token(t, proxySub), want: 200},
		"proxy, ES256":       {token: sign(t, jwt.SigningMethodES256, "e1", g.kube.claims(proxySub), g.kube.ec), want: 200},
		"reconciler, report": {token: g.kube.token(t, reportSub), role: "report", want: 200},
		"audience among two": {token: with(func(c jwt.MapClaims) { c["aud"] = []string{"x", "sallyport"} }), want: 200},
		"by hand":            {token: duplicate(`{"alg":"RS256","kid":"r1"}`, string(claims)), want: 200},

		"proxy, report":            {token: g.kube.token(t, proxySub), role: "report", want: 403},
		"reconciler, serve":        {token: g.kube.token(t, reportSub), want: 403},
		"other namespace":          {token: g.kube.token(t, "system:serviceaccount:default:sallyport-proxy"), want: 403},
		"longer name":              {token: g.kube.token(t, proxySub+"2"), want: 403},
		"no subject":               {token: with(func(c jwt.MapClaims) { delete(c, "sub") }), want: 403},
		"subject is a number":      {token: with(func(c jwt.MapClaims) { c["sub"] = 1 }), want: 401},
		"unknown role":             {token: g.kube.token(t, proxySub), role: "admin", want: 400},
		"no token":                 {token: "", want: 401},
		"other audience":           {token: with(func(c jwt.MapClaims) { c["aud"] = "https://kubernetes.default.svc" }), want: 401},
		"no audience":              {token: with(func(c jwt.MapClaims) { delete(c, "aud") }), want: 401},
		"other issuer":             {token: with(func(c jwt.MapClaims) { c["iss"] = issuer + "/" }), want: 401},
		"issuer in another case":   {token: with(func(c jwt.MapClaims) { delete(c, "iss"); c["ISS"] = issuer }), want: 401},
		"expired":                  {token: with(func(c jwt.MapClaims) { c["exp"] = now.Add(-2 * time.Minute).Unix() }), want: 401},
		"no exp":                   {token: with(func(c jwt.MapClaims) { delete(c, "exp") }), want: 401},
		"no iat":                   {token: with(func(c jwt.MapClaims) { delete(c, "iat") }), want: 401},
		"issued in the future":     {token: with(func(c jwt.MapClaims) { c["iat"] = now.Add(2 * time.Minute).Unix() }), want: 401},
		"not yet":                  {token: with(func(c jwt.MapClaims) { c["nbf"] = now.Add(2 * time.Minute).Unix() }), want: 401},
		"lives too long":           {token: with(func(c jwt.MapClaims) { c["exp"] = now.Add(26 * time.Hour).Unix() }), want: 401},
		"key of another cluster":   {token: other.token(t, proxySub), want: 401},
		"unknown kid":              {token: sign(t, jwt.SigningMethodRS256, "r2", g.kube.claims(proxySub), g.kube.rsa), want: 401},
		"kid of the other key":     {token: sign(t, jwt.SigningMethodES256, "r1", g.kube.claims(proxySub), g.kube.ec), want: 401},
		"RS512":                    {token: sign(t, jwt.SigningMethodRS512, "r1", g.kube.claims(proxySub), g.kube.rsa), want: 401},
		"alg none":                 {token: sign(t, jwt.SigningMethodNone, "r1", g.kube.claims(proxySub), jwt.UnsafeAllowNoneSignatureType) + "AA", want: 401},
		"HS256 with the RSA key":   {token: sign(t, jwt.SigningMethodHS256, "r1", g.kube.claims(proxySub), rsaPublic), want: 401},
		"critical header":          {token: duplicate(`{"alg":"RS256","kid":"r1","crit":["x"],"x":1}`, string(claims)), want: 401},
		"duplicate claim":          {token: duplicate(`{"alg":"RS256","kid":"r1"}`, strings.Replace(string(claims), "{", `{"sub":"x",`, 1)), want: 401},
		"duplicate in other case":  {token: duplicate(`{"alg":"RS256","kid":"r1"}`, strings.Replace(string(claims), "{", `{"SUB":"x",`, 1)), want: 401},
		"duplicate header":         {token: duplicate(`{"alg":"RS256","kid":"x","kid":"r1"}`, string(claims)), want: 401},
		"deeply nested":            {token: duplicate(`{"alg":"RS256","kid":"r1"}`, strings.Replace(string(claims), "{", `{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,`, 1)), want: 401},
		"longer than 16 KiB":       {token: with(func(c jwt.MapClaims) { c["pad"] = strings.Repeat("a", 17<<10) }), want: 401},
		"two parts":                {token: "a.b", want: 401},
		"join token in its place":  {token: g.join(t).Text(), want: 401},
		"signature of other claim": {token: splice(g.kube.token(t, reportSub), g.kube.token(t, proxySub)), want: 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.role == "" {
				tt.role = "serve"
			}
			status, body := g.ask(t, tt.token, certBody{Role: tt.role, CSR: newCSR(t)})
			if status != tt.want {
				t.Fatalf("status is %d, want %d: %s", status, tt.want, body)
			}
			if tt.token != "" && status != 200 && strings.Contains(body, tt.token) || strings.Contains(body, "eyJ") {
				t.Errorf("the answer shows a token: %s", body)
			}
			if e := g.lastEvent(); (e.Err == nil) != (status == 200) || (e.Serial != "") != (status == 200) {
				t.Errorf("event is %+v", e)
			}
		})
	}
}

// splice gives the claims of one token the signature of another.
func splice(claims, signature string) string {
	return claims[:strings.LastIndexByte(claims, '.')] + signature[strings.LastIndexByte(signature, '.'):]
}

func TestCertificateByRequest(t *testing.T) {
	g := newGateway(t)
	token := g.kube.token(t, proxySub)
	if status, body := g.ask(t, token, certBody{Role: "serve", CSR: newCSR(t)}); status != 401 {
		t.Errorf("before any enrolment: %d %s", status, body)
	}
	g.mustEnrol(t)

	// A request that names one key and is signed with another: the owner of
	// a stolen token cannot have somebody else's key certified.
	mine, theirs := newCSR(t), newCSR(t)
	forged := bytes.Clone(mine)
	a, b := publicPoint(t, mine), publicPoint(t, theirs)
	forged = bytes.Replace(forged, a, b, 1)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384)
	if err != nil {
		t.Fatal(err)
	}
	good := base64.StdEncoding.EncodeToString(mine)
	tests := map[string]any{
		"other key":        certBody{Role: "serve", CSR: forged},
		"other curve":      certBody{Role: "serve", CSR: big},
		"not a request":    certBody{Role: "serve", CSR: []byte("x")},
		"trailing bytes":   certBody{Role: "serve", CSR: append(bytes.Clone(mine), 0)},
		"unknown field":    `{"role":"serve","csr":"` + good + `","generation":9}`,
		"duplicate field":  `{"role":"report","role":"serve","csr":"` + good + `"}`,
		"trailing JSON":    `{"role":"serve","csr":"` + good + `"}{}`,
		"empty":            ``,
		"null":             `null`,
		"more than 64 KiB": `{"role":"serve","csr":"` + strings.Repeat("A", 65<<10) + `"}`,
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			if status, answer := g.ask(t, token, body); status != 400 {
				t.Errorf("status is %d, want 400: %s", status, answer)
			}
		})
	}
}

func publicPoint(t *testing.T, csr []byte) []byte {
	t.Helper()
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	point, err := parsed.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return point
}

func TestErrorsAreJSON(t *testing.T) {
	g := newGateway(t)
	w := httptest.NewRecorder()
	g.server.Enrol(w, httptest.NewRequest(http.MethodGet, "/", nil), clusterID(t))
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error.Code == "" || body.Error.Message == "" {
		t.Errorf("body is %s (%v)", w.Body, err)
	}
	if w.Code != 400 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("answer is %d %v", w.Code, w.Header())
	}
}

// TestBusy holds the only slot while one request reads the cluster, and sees the
// next one told to come back.
func TestBusy(t *testing.T) {
	g := newGateway(t)
	inside, leave := make(chan struct{}), make(chan struct{})
	slow := &slowRecords{records: g.records, inside: inside, leave: leave}
	server, err := enroll.NewServer(enroll.Config{Authority: g.authority, Records: slow, Address: g.addr, Now: g.clock.now, Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *httptest.ResponseRecorder {
		body, err := json.Marshal(certBody{Role: "serve", CSR: newCSR(t)})
		if err != nil {
			t.Error(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Authorization", "bearer x")
		w := httptest.NewRecorder()
		server.Certificate(w, r, clusterID(t))
		return w
	}
	done := make(chan int)
	go func() { done <- ask().Code }()
	<-inside
	if w := ask(); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("second request: %d, want 503 with Retry-After", w.Code)
	}
	close(leave)
	if code := <-done; code != 401 {
		t.Errorf("first request: %d, want 401", code)
	}
}

func TestNewServerRefuses(t *testing.T) {
	g := newGateway(t)
	tests := map[string]enroll.Config{
		"nothing":    {},
		"no address": {Authority: g.authority, Records: g.records},
		"a URL":      {Authority: g.authority, Records: g.records, Address: "https://gw:443"},
	}
	for name, cfg := range tests {
		if _, err := enroll.NewServer(cfg); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: error is %v, want ErrInvalid", name, err)
		}
	}
}
