package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func credentials(t *testing.T, h http.HandlerFunc) *client.TokenSource {
	t.Helper()
	s, err := client.ClientCredentials(client.CredentialsConfig{
		Authority: "https://idp.test", TenantID: sub, ClientID: "app", ClientSecret: "canary",
		HTTP: &http.Client{Transport: direct{h}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClientCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, broken := 0, false
		s := credentials(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			if broken {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.URL.String() != "https://idp.test/"+sub+"/oauth2/v2.0/token" {
				t.Errorf("%s %s, %v", r.Method, r.URL, err)
			}
			want := "client_id=app&client_secret=canary&grant_type=client_credentials&scope=https%3A%2F%2Fmanagement.azure.com%2F.default"
			if got := r.PostForm.Encode(); got != want {
				t.Errorf("form %s", got)
			}
			fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"t%d"}`, calls)
		})
		expect := func(want string, wantCalls int) {
			t.Helper()
			if got, err := s.Bearer(t.Context()); err != nil || got != want || calls != wantCalls {
				t.Errorf("token %q after %d calls, %v; want %q after %d", got, calls, err, want, wantCalls)
			}
		}
		expect("t1", 1)
		time.Sleep(53 * time.Minute) // fake time
		expect("t1", 1)
		time.Sleep(2 * time.Minute)
		broken = true
		expect("t1", 2) // a failed refresh leaves the token that still holds
		broken = false
		expect("t3", 3)
		broken = true
		time.Sleep(time.Hour)
		if _, err := s.Bearer(t.Context()); err == nil {
			t.Error("an expired token was served")
		}
	})
}

func TestTokensDoNotShowSecrets(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error":"invalid_client","error_description":"AADSTS7000215"}`)
		},
		"not json":  func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `canary`) },
		"not a num": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"expires_in":"canary"}`) },
		"no token":  func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"expires_in":1}`) },
		"expired": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"access_token":"canary","expires_on":"1"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := credentials(t, h).Token(t.Context())
			if err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("err = %v", err)
			}
		})
	}
	tok := client.Token{Value: "canary"}
	if s := fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok); strings.Contains(s, "canary") {
		t.Error(s)
	}
	if _, err := client.ClientCredentials(client.CredentialsConfig{Authority: "https://h", TenantID: "x", ClientID: "a", ClientSecret: "canary"}); !errors.Is(err, access.ErrInvalid) || strings.Contains(err.Error(), "canary") {
		t.Errorf("err = %v", err)
	}
}

func TestManagedIdentity(t *testing.T) {
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.RequestURI(); got != "/msi/token?api-version=2019-08-01&resource="+client.DataPlaneAudience || r.Header.Get("X-IDENTITY-HEADER") != "h" {
			t.Errorf("%s with %v", got, r.Header)
		}
		fmt.Fprintf(w, `{"access_token":"t","expires_in":"3599","expires_on":"%d","resource":"r","token_type":"Bearer","refresh_token":""}`, expires.Unix())
	}))
	defer srv.Close()
	s, err := client.ManagedIdentity(srv.URL+"/msi/token", "h", client.DataPlaneAudience)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := s.Token(t.Context())
	if err != nil || tok.Value != "t" || !tok.Expires.Equal(expires) {
		t.Errorf("%s, %v", tok, err)
	}
	for _, bad := range [][3]string{{"", "h", "r"}, {"file:///x", "h", "r"}, {srv.URL, "", "r"}, {srv.URL, "h", ""}} {
		if _, err := client.ManagedIdentity(bad[0], bad[1], bad[2]); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
