package authenticate_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/authenticate"
)

func TestItem18FetchURL(t *testing.T) {
	var server *httptest.Server
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(jwks(jwkOf("a", &keyA().PublicKey)))
	}))
	defer elsewhere.Close()
	plain := httptest.NewServer(elsewhere.Config.Handler)
	defer plain.Close()
	doc := func(issuer, jwksURI string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(fields{"issuer": issuer, "jwks_uri": jwksURI})
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	mux := http.NewServeMux()
	server = httptest.NewUnstartedServer(mux)
	server.StartTLS()
	defer server.Close()
	mux.HandleFunc("/keys", elsewhere.Config.Handler.ServeHTTP)
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 2<<20)) })
	mux.HandleFunc("/good", doc(iss(tenant), server.URL+"/keys"))
	mux.HandleFunc("/template", doc("https://sts.windows.net/{tenantid}/", server.URL+"/keys"))
	mux.HandleFunc("/moved", redirect("/good"))
	mux.HandleFunc("/loop", redirect("/loop"))
	mux.HandleFunc("/away", redirect(elsewhere.URL))
	mux.HandleFunc("/down", redirect(plain.URL))
	mux.HandleFunc("/wrong", doc(iss(otherTID), server.URL+"/keys"))
	mux.HandleFunc("/plainkeys", doc(iss(tenant), plain.URL))
	mux.HandleFunc("/filekeys", doc(iss(tenant), "file:///etc/passwd"))
	mux.HandleFunc("/hugekeys", doc(iss(tenant), server.URL+"/huge"))
	mux.HandleFunc("/awaykeys", doc(iss(tenant), server.URL+"/away"))

	client := server.Client() // trusts all httptest servers
	tests := []struct {
		name, url, text string // text of the error, "" for none
	}{
		{"good", server.URL + "/good", ""},
		{"template", server.URL + "/template", ""},
		{"redirect within the host", server.URL + "/moved", ""},
		{"redirects without end", server.URL + "/loop", "more than 3"},
		{"redirect to another host", server.URL + "/away", "not followed"},
		{"redirect to plain http", server.URL + "/down", "not followed"},
		{"another issuer's document", server.URL + "/wrong", "expected"},
		{"missing", server.URL + "/none", "404"},
		{"plain http", plain.URL, "https URL"},
		{"keys over plain http", server.URL + "/plainkeys", "https URL"},
		{"keys from a file", server.URL + "/filekeys", "https URL"},
		{"keys behind a redirect", server.URL + "/awaykeys", "not followed"},
		{"document too large", server.URL + "/huge", "more than 1048576"},
		{"keys too large", server.URL + "/hugekeys", "more than 1048576"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fetch := authenticate.FetchURL(client, test.url, authenticate.Issuer{Issuer: iss(tenant), TenantID: tenant})
			raw, err := fetch(t.Context())
			switch {
			case test.text == "" && (err != nil || !strings.Contains(string(raw), "keys")):
				t.Errorf("got %q, %v", raw, err)
			case test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text)):
				t.Errorf("error is %v, want %q", err, test.text)
			}
		})
	}
}

// TestEntra: one tenant by configuration alone, both issuers of spec 1.1.
func TestEntra(t *testing.T) {
	issuers := authenticate.Entra(strings.ToUpper("aaaaaaaa-1111-1111-1111-111111111111"), nil)
	if len(issuers) != 2 ||
		issuers[0].Issuer != "https://sts.windows.net/aaaaaaaa-1111-1111-1111-111111111111/" || issuers[0].Version != "1.0" ||
		issuers[1].Issuer != "https://login.microsoftonline.com/aaaaaaaa-1111-1111-1111-111111111111/v2.0" || issuers[1].Version != "2.0" {
		t.Errorf("issuers are %+v", issuers)
	}
	if _, err := authenticate.New(authenticate.Config{Issuers: issuers, Audiences: []string{audience}}); err != nil {
		t.Error(err)
	}
}
