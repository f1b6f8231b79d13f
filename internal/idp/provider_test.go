package idp_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/idp"
)

// managedIdentityToken asks for a token over HTTP, as a workload does.
func (w *world) managedIdentityToken(t testing.TB, audience string) string {
	t.Helper()
	server := httptest.NewServer(w.ManagedIdentity())
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		server.URL+idp.ManagedIdentityPath+"?api-version="+idp.ManagedIdentityVersion+"&resource="+url.QueryEscape(audience), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-IDENTITY-HEADER", w.keys.IdentityHeader(uid))
	return accessToken(t, server.Client(), req)
}

// applicationToken asks for a token over TLS, as an application does.
func (w *world) applicationToken(t testing.TB, audience string) string {
	t.Helper()
	server := httptest.NewTLSServer(w)
	defer server.Close()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {secret}, "scope": {audience + "/.default"}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/"+tenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return accessToken(t, server.Client(), req)
}

func accessToken(t testing.TB, client *http.Client, req *http.Request) string {
	t.Helper()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", resp.Status, raw, err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.AccessToken
}

// decode returns one part of a token.
func decode(t testing.TB, token string, part int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[part])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReferencePayload compares a managed identity's token with the reference
// payload of spec/identity.md 1.3, claim by claim.
func TestReferencePayload(t *testing.T) {
	w := newWorld(t)
	token := w.managedIdentityToken(t, idp.DataPlaneAudience)
	iss := "https://sts.windows.net/" + tenant + "/"
	now := float64(start.Unix())
	want := map[string]any{
		"aud": idp.DataPlaneAudience, "iss": iss, "iat": now, "nbf": now, "exp": now + 86700, "appid": sourceApp, "appidacr": "2",
		"idp": iss, "idtyp": "app", "oid": sourceOID, "sub": sourceOID, "tid": tenant, "ver": "1.0", "xms_mirid": workspace,
	}
	got := decode(t, token, 1)
	for _, opaque := range []string{"aio", "rh", "uti"} {
		if s, _ := got[opaque].(string); s == "" {
			t.Errorf("no %s", opaque)
		}
		delete(got, opaque)
	}
	if !maps.Equal(got, want) {
		t.Errorf("claims are %v, want %v", got, want)
	}
	header := decode(t, token, 0)
	if names := slices.Sorted(maps.Keys(header)); !slices.Equal(names, []string{"alg", "kid", "typ", "x5t"}) ||
		header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != header["x5t"] {
		t.Errorf("header is %v", header)
	}
}

// TestEndToEnd: what the provider issues, the verifier believes, and for
// nothing but what it was issued for.
func TestEndToEnd(t *testing.T) {
	w := newWorld(t)
	dataPlane := w.verifier(t, true, idp.DataPlaneAudience)
	arm := w.verifier(t, false, idp.ARMAudiences()...)

	p, err := dataPlane.Principal(t.Context(), w.managedIdentityToken(t, idp.DataPlaneAudience))
	if err != nil {
		t.Fatal(err)
	}
	if p.ObjectID != sourceOID || p.AppID != sourceApp || p.TenantID != tenant || p.Resource.String() != workspace {
		t.Errorf("principal is %+v", p)
	}
	for _, audience := range idp.ARMAudiences() {
		p, err := arm.Principal(t.Context(), w.applicationToken(t, audience))
		if err != nil {
			t.Errorf("%s: %v", audience, err)
		}
		if p.ObjectID != clientOID || p.AppID != clientID || !p.Resource.IsZero() {
			t.Errorf("principal is %+v", p)
		}
	}
	refused := []struct {
		name     string
		verifier *authenticate.Verifier
		token    string
		text     string
	}{
		{"an ARM token in the data plane", dataPlane, w.managedIdentityToken(t, "https://management.azure.com"), "must be for"},
		{"a data-plane token at ARM", arm, w.managedIdentityToken(t, idp.DataPlaneAudience), "must be for"},
		{"an application in the data plane", dataPlane, w.applicationToken(t, idp.DataPlaneAudience), "xms_mirid"},
	}
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.verifier.Principal(t.Context(), test.token); !errors.Is(err, access.ErrUnauthenticated) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error is %v", err)
			}
		})
	}
	w.now = start.Add(24*time.Hour + 6*time.Minute)
	old := w.verifier(t, true, idp.DataPlaneAudience)
	w.now = start
	token := w.managedIdentityToken(t, idp.DataPlaneAudience)
	w.now = start.Add(24*time.Hour + 6*time.Minute)
	if _, err := old.Principal(t.Context(), token); err == nil || !strings.Contains(err.Error(), "expired at 2026-11-23T12:05:00Z") {
		t.Errorf("error is %v", err)
	}
}

// TestManagedIdentityCache: a token serves for half of its life, and never
// over a change of the directory or the keys.
func TestManagedIdentityCache(t *testing.T) {
	w := newWorld(t)
	ask := func() string { return w.managedIdentityToken(t, idp.DataPlaneAudience) }
	first := ask()
	w.now = start.Add(12 * time.Hour)
	if ask() != first {
		t.Error("not remembered")
	}
	w.now = start.Add(12*time.Hour + 150*time.Second)
	second := ask()
	if second == first {
		t.Error("remembered beyond half of its life")
	}
	if w.managedIdentityToken(t, "https://management.azure.com") == second {
		t.Error("another audience got the same token")
	}
	if _, err := w.keys.Rotate(0); err != nil {
		t.Fatal(err)
	}
	third := ask()
	if decode(t, third, 0)["kid"] == decode(t, second, 0)["kid"] {
		t.Error("the old key signed")
	}
	// Both keys are published.
	v := w.verifier(t, true, idp.DataPlaneAudience)
	for _, token := range []string{second, third} {
		if _, err := v.Principal(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
	// The resource is made again: same name and uid here, another identity.
	w.directory.mu.Lock()
	again := w.directory.identities[uid]
	again.ObjectID = otherTenant
	w.directory.identities[uid] = again
	w.directory.mu.Unlock()
	if got := decode(t, ask(), 1)["oid"]; got != otherTenant {
		t.Errorf("oid is %v", got)
	}
}

func TestDirectoryDown(t *testing.T) {
	w := newWorld(t)
	w.directory.fail(errors.New("store is down at host-17"))
	for _, line := range []string{
		"POST https://login.test/" + tenant + "/oauth2/v2.0/token|form grant_type=client_credentials&client_id=" + clientID,
		"GET https://login.test/" + tenant + "/discovery/keys",
		"GET http://127.0.0.1/msi/token?api-version=2019-08-01|with X-IDENTITY-HEADER: " + w.keys.IdentityHeader(uid),
	} {
		s := &script{world: w}
		for _, step := range append(strings.Split(line, "|"), "code == 503") {
			if err := s.line(step); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if body := s.response.Body.String(); strings.Contains(body, "host-17") {
			t.Errorf("the cause was sent: %s", body)
		}
	}
	if !strings.Contains(w.log.String(), "host-17") {
		t.Errorf("the cause was not logged: %s", w.log)
	}
}

func TestBodyTooLarge(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest(http.MethodPost, "https://login.test/"+tenant+"/oauth2/token", strings.NewReader("a="+strings.Repeat("x", 64<<10)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status is %d", rec.Code)
	}
}

func TestNewRefuses(t *testing.T) {
	base := func(*http.Request) string { return "" }
	tests := []struct {
		name string
		cfg  idp.Config
	}{
		{"nothing", idp.Config{}},
		{"no keys", idp.Config{BaseURL: base, Directory: &testDirectory{}}},
		{"no directory", idp.Config{BaseURL: base, Keys: &idp.Keys{}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := idp.New(test.cfg); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// FuzzRequest: no path or body makes the provider panic, answer anything but
// JSON, or give out a token.
func FuzzRequest(f *testing.F) {
	f.Add("/"+tenant+"/oauth2/v2.0/token", "grant_type=client_credentials&client_id="+clientID+"&client_secret=x&scope=y/.default", "")
	f.Add("//common/discovery/instance", "", "Basic Og==")
	f.Add("/%2e%2e/oauth2/token", "grant_type=%zz", "Basic")
	f.Add("/a/b;c//", ";", "\x00")
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, path, body, authorization string) {
		r := httptest.NewRequest(http.MethodPost, "https://login.test/", strings.NewReader(body))
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r.URL = u
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		w.log.Reset()
		if rec.Code < 400 || !json.Valid(rec.Body.Bytes()) || strings.Contains(rec.Body.String(), "eyJ") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}

// FuzzIdentityHeader: only the header made for a uid passes.
func FuzzIdentityHeader(f *testing.F) {
	w := newWorld(f)
	f.Add(uid)
	f.Add(uid + ".")
	f.Add(w.keys.IdentityHeader(otherTenant) + "=")
	f.Add(strings.ToUpper(w.keys.IdentityHeader(uid)))
	f.Fuzz(func(t *testing.T, header string) {
		if header == w.keys.IdentityHeader(uid) {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/msi/token?api-version=2019-08-01&resource="+idp.DataPlaneAudience, nil)
		r.Header.Set("X-IDENTITY-HEADER", header)
		rec := httptest.NewRecorder()
		w.ManagedIdentity().ServeHTTP(rec, r)
		w.log.Reset()
		if rec.Code < 400 {
			t.Errorf("%q passed", header)
		}
	})
}
