package idp_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/store"
)

// post sends a form to the login host.
func (w *world) post(path string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "https://login.test"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

type userAnswer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	Description  string `json:"error_description"`
}

func (w *world) token(t testing.TB, form url.Values) userAnswer {
	t.Helper()
	var a userAnswer
	if err := json.Unmarshal(w.post("/"+tenant+"/oauth2/v2.0/token", form).Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func passwordForm(password string) url.Values {
	return url.Values{
		"grant_type": {"password"}, "client_id": {directory.AzureCLI}, "username": {"alice@contoso.example"}, "password": {password},
		"scope": {"https://management.azure.com/.default offline_access"},
	}
}

// alter changes alice's record.
func (w *world) alter(t testing.TB, change func(*store.User)) {
	t.Helper()
	item, err := w.directory.store.Users.Get(t.Context(), aliceOID)
	if err != nil {
		t.Fatal(err)
	}
	change(&item.Value)
	if _, err := w.directory.store.Users.Put(t.Context(), item.Value, item.Version); err != nil {
		t.Fatal(err)
	}
}

// TestSessionsEnd: a refresh token is worth nothing once the user's password
// has changed, he is disabled or gone; and it survives a restart.
func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	refresh := url.Values{"grant_type": {"refresh_token"}, "client_id": {directory.AzureCLI}, "refresh_token": {w.token(t, passwordForm(password)).RefreshToken}}
	if a := w.token(t, refresh); a.AccessToken == "" {
		t.Fatalf("no token: %s", a.Description)
	}
	w.alter(t, func(u *store.User) { u.Disabled = true })
	if a := w.token(t, refresh); !strings.Contains(a.Description, "AADSTS50057") {
		t.Errorf("of a disabled user: %+v", a)
	}
	w.alter(t, func(u *store.User) { u.Disabled = false })
	if a := w.token(t, refresh); a.AccessToken == "" {
		t.Errorf("enabled again: %s", a.Description)
	}
	w.alter(t, func(u *store.User) { u.Stamp = "another" })
	if a := w.token(t, refresh); !strings.Contains(a.Description, "AADSTS50173") {
		t.Errorf("after a change of password: %+v", a)
	}
	item, err := w.directory.store.Users.Get(t.Context(), aliceOID)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.directory.store.Users.Delete(t.Context(), aliceOID, item.Version); err != nil {
		t.Fatal(err)
	}
	if a := w.token(t, refresh); !strings.Contains(a.Description, "AADSTS50034") {
		t.Errorf("of a user who is gone: %+v", a)
	}
}

// TestPasswordGuessing: ten wrong passwords from one address shut that address
// out for a minute, right password or not, and nobody else.
func TestPasswordGuessing(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		if a := w.token(t, passwordForm(fmt.Sprint("wrong", i))); !strings.Contains(a.Description, "AADSTS50126") {
			t.Fatalf("%d: %+v", i, a)
		}
	}
	if a := w.token(t, passwordForm(password)); !strings.Contains(a.Description, "AADSTS50053") {
		t.Errorf("the eleventh: %+v", a)
	}
	r := httptest.NewRequest(http.MethodPost, "https://login.test/"+tenant+"/oauth2/v2.0/token", strings.NewReader(passwordForm(password).Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "192.0.2.99:1"
	elsewhere := httptest.NewRecorder()
	w.ServeHTTP(elsewhere, r)
	if elsewhere.Code != http.StatusOK {
		t.Errorf("elsewhere: %s", elsewhere.Body)
	}
	w.now = w.now.Add(time.Minute)
	if a := w.token(t, passwordForm(password)); a.AccessToken == "" {
		t.Errorf("a minute later: %s", a.Description)
	}
}

// TestGuessingTellsNoNames: a name that nobody has is shut out as one that
// somebody has is.
func TestGuessingTellsNoNames(t *testing.T) {
	w := newWorld(t)
	form := passwordForm("wrong")
	form.Set("username", "nobody@contoso.example")
	for i := range 11 {
		want := "AADSTS50126"
		if i == 10 {
			want = "AADSTS50053"
		}
		if a := w.token(t, form); !strings.Contains(a.Description, want) {
			t.Errorf("%d: want %s: %+v", i, want, a)
		}
	}
}

// TestGuessingFromOneNetwork: all that one party has of IPv6 is one address, and
// a flood of names does not keep anything from being counted.
func TestGuessingFromOneNetwork(t *testing.T) {
	flood, user := idp.NewAttempts(func() time.Time { return start }), "alice@contoso.example"
	for i := range 30_000 {
		flood.Fail(fmt.Sprint("nobody", i), fmt.Sprintf("10.%d.%d.1", i/256, i%256))
	}
	for i := range 10 {
		flood.Fail(user, fmt.Sprintf("2001:db8::%x", i))
	}
	if flood.Allowed(user, "2001:db8::ffff:1") {
		t.Error("the eleventh from one network is let through")
	}
	quiet := idp.NewAttempts(func() time.Time { return start })
	for i := range 10 {
		quiet.Fail(user, fmt.Sprintf("2001:db8::%x", i))
	}
	if !quiet.Allowed(user, "2001:db8:0:1::1") || !quiet.Allowed("bob@contoso.example", "2001:db8::1") {
		t.Error("somebody else is shut out")
	}
}

// TestGroupOverage: of more than 200 groups the token says where to ask
// (spec/identity.md 4.4).
func TestGroupOverage(t *testing.T) {
	w := newWorld(t)
	for i := range 198 { // and the two there are
		group := store.Group{TenantID: tenant, ObjectID: fmt.Sprintf("88888888-0000-0000-0000-%012d", i), Members: []string{aliceOID}}
		if _, err := w.directory.store.UserGroups.Put(t.Context(), group, 0); err != nil {
			t.Fatal(err)
		}
	}
	claims := decode(t, w.token(t, passwordForm(password)).AccessToken, 1)
	if groups, _ := claims["groups"].([]any); len(groups) != 200 || claims["_claim_names"] != nil {
		t.Errorf("200 groups are shown as %d, %v", len(groups), claims["_claim_names"])
	}
	one := store.Group{TenantID: tenant, ObjectID: groupOID[:35] + "9", Members: []string{aliceOID}}
	if _, err := w.directory.store.UserGroups.Put(t.Context(), one, 0); err != nil {
		t.Fatal(err)
	}
	claims = decode(t, w.token(t, passwordForm(password)).AccessToken, 1)
	raw, err := json.Marshal(map[string]any{"names": claims["_claim_names"], "sources": claims["_claim_sources"]})
	want := `{"names":{"groups":"src1"},"sources":{"src1":{"endpoint":"https://graph.windows.net/` + tenant + `/users/` + aliceOID + `/getMemberObjects"}}}`
	if err != nil || claims["groups"] != nil || string(raw) != want {
		t.Errorf("201 groups are shown as %v and %s", claims["groups"], raw)
	}
}

// TestUserTokensAtARM: ARM's verifier believes a user's token, and sees the
// groups; the data plane does not.
func TestUserTokensAtARM(t *testing.T) {
	w := newWorld(t)
	p, err := w.verifier(t, false, idp.ARMAudiences()[0]).Principal(t.Context(), w.token(t, passwordForm(password)).AccessToken)
	if err != nil || p.ObjectID != aliceOID || !p.Resource.IsZero() || fmt.Sprint(p.Groups) != fmt.Sprint([]string{groupOID, outerOID}) {
		t.Errorf("principal is %+v, %v", p, err)
	}
	form := passwordForm(password)
	form.Set("scope", idp.DataPlaneAudience+"/.default")
	if _, err := w.verifier(t, true, idp.DataPlaneAudience).Principal(t.Context(), w.token(t, form).AccessToken); err == nil || !strings.Contains(err.Error(), "xms_mirid") {
		t.Errorf("in the data plane: %v", err)
	}
}

// TestArc: who can read the challenge's file is the resource, for five minutes.
func TestArc(t *testing.T) {
	w := newWorld(t)
	ask := func(authorization string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, idp.ArcPath+uid+idp.InstanceTokenPath+"?api-version=2020-06-01&resource="+url.QueryEscape("https://management.azure.com"), nil)
		r.Header.Set("Metadata", "true")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		rec := httptest.NewRecorder()
		w.ManagedIdentity().ServeHTTP(rec, r)
		return rec
	}
	file := strings.TrimPrefix(ask("").Header().Get("WWW-Authenticate"), "Basic realm=")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() > 4096 {
		t.Errorf("file is %v, %v", info, err)
	}
	if answer := ask("Basic " + string(content)); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), sourceApp) {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	// It is no identity header, and the header is no answer to it.
	r := httptest.NewRequest(http.MethodGet, "/msi/token?api-version=2019-08-01&resource=https://management.azure.com", nil)
	r.Header.Set("X-IDENTITY-HEADER", string(content))
	other := httptest.NewRecorder()
	w.ManagedIdentity().ServeHTTP(other, r)
	if other.Code != http.StatusUnauthorized {
		t.Errorf("as an identity header: %d", other.Code)
	}
	if answer := ask("Basic " + w.keys.IdentityHeader(uid)); answer.Code != http.StatusUnauthorized {
		t.Errorf("the identity header: %d", answer.Code)
	}
	w.now = w.now.Add(5 * time.Minute)
	if answer := ask("Basic " + string(content)); answer.Code != http.StatusUnauthorized {
		t.Errorf("too late: %d", answer.Code)
	}
}

// TestSignInPagePolicy: the pages' policy lets forms lead to us and the client,
// and lets no script run but the one that posts on.
func TestSignInPagePolicy(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest(http.MethodGet, "https://login.test/"+tenant+"/oauth2/v2.0/authorize?response_type=code&scope=openid&redirect_uri=http://localhost:8400/&code_challenge_method=S256&code_challenge="+strings.Repeat("x", 43)+"&client_id="+directory.AzureCLI, nil)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	policy := rec.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' http://localhost:8400;"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %s", policy, want)
		}
	}
	if strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy is %q", policy)
	}
}

// FuzzAuthorize: no redirect leaves for where no client is registered.
func FuzzAuthorize(f *testing.F) {
	w := newWorld(f)
	for _, uri := range []string{"http://localhost:1/", "http://localhost:1@evil.example", "http://127.0.0.1", "https://evil.example", "javascript:alert(1)", "http://localhost\\@evil.example/", "//localhost", "http://LOCALHOST"} {
		f.Add(uri, "state")
	}
	f.Fuzz(func(t *testing.T, uri, state string) {
		query := url.Values{"client_id": {directory.AzureCLI}, "response_type": {"code"}, "scope": {"openid"}, "prompt": {"none"}, "redirect_uri": {uri}, "state": {state},
			"code_challenge": {strings.Repeat("x", 43)}, "code_challenge_method": {"S256"}}
		r := httptest.NewRequest(http.MethodGet, "https://login.test/"+tenant+"/oauth2/v2.0/authorize?"+query.Encode(), nil)
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		w.log.Reset()
		location := rec.Header().Get("Location")
		if rec.Code == http.StatusFound {
			to, err := url.Parse(location)
			if err != nil || to.Hostname() != "localhost" && !strings.HasPrefix(location, "https://login.microsoftonline.com/common/oauth2/nativeclient?") || strings.ContainsAny(location, "\r\n") {
				t.Errorf("%q leads to %q", uri, location)
			}
		} else if location != "" || rec.Code != http.StatusBadRequest {
			t.Errorf("%q: %d %q", uri, rec.Code, location)
		}
	})
}

// FuzzSealed: nothing but what was sealed is a refresh token.
func FuzzSealed(f *testing.F) {
	w := newWorld(f)
	genuine := w.token(f, passwordForm(password)).RefreshToken
	f.Add(genuine[1:])
	f.Add(genuine + "A")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"user":"` + aliceOID + `"}`)))
	f.Fuzz(func(t *testing.T, token string) {
		if token == genuine {
			return
		}
		answer := w.post("/"+tenant+"/oauth2/v2.0/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {directory.AzureCLI}, "refresh_token": {token}})
		if answer.Code < 400 {
			t.Errorf("%q passed", token)
		}
		w.log.Reset()
	})
}

// FuzzManagedIdentity: no request to the managed-identity port gets a token, or
// anything but JSON, without the identity header.
func FuzzManagedIdentity(f *testing.F) {
	w := newWorld(f)
	f.Add("GET", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com", "", "")
	f.Add("POST", "/oauth2/token", "resource=https://management.azure.com", "")
	f.Add("GET", "/arc/"+uid+"/metadata/identity/oauth2/token?api-version=2020-06-01", "", "Basic x")
	f.Add("GET", "/metadata/instance/compute/location?api-version=2021-02-01&format=text", "", "")
	f.Fuzz(func(t *testing.T, method, target, body, authorization string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || (method != http.MethodGet && method != http.MethodPost) {
			return
		}
		r := httptest.NewRequest(method, "http://127.0.0.1/", strings.NewReader(body))
		r.URL = u
		r.Header.Set("Metadata", "true")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Secret", authorization)
		r.Header.Set("Authorization", authorization)
		rec := httptest.NewRecorder()
		w.ManagedIdentity().ServeHTTP(rec, r)
		w.log.Reset()
		if rec.Code < 400 || !json.Valid(rec.Body.Bytes()) {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	})
}
