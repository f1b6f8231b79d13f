package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/idp"
)

// form posts a form, and returns the members of the answer.
func (s *system) form(path string, values url.Values) (int, map[string]any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, strings.NewReader(values.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	transport := s.transport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// TestSystemDirectory: an operator creates a user and a group on Graph, the user
// signs in by the tenant's domain, ARM and Graph each take the token that is for
// them, and a restart signs nobody out.
func TestSystemDirectory(t *testing.T) {
	s := newSystem(t, "--tenant-domain", "contoso.example")
	operator := s.applicationToken("https://graph.microsoft.com")
	create := func(path, body string) string {
		t.Helper()
		resp, text := s.send(http.MethodPost, path, operator, body)
		var made struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal([]byte(text), &made); err != nil || resp.StatusCode != http.StatusCreated {
			t.Fatalf("POST %s: %s %s", path, resp.Status, text)
		}
		return made.ID
	}
	alice := create("/graph/v1.0/users", `{"displayName":"Alice","userPrincipalName":"alice@contoso.example","passwordProfile":{"password":"correct horse"}}`)
	group := create("/graph/v1.0/groups", `{"displayName":"developers","members@odata.bind":["`+s.url+`/graph/v1.0/users/`+alice+`"]}`)

	code, answer := s.form("/contoso.example/oauth2/v2.0/token", url.Values{
		"grant_type": {"password"}, "client_id": {directory.AzureCLI}, "username": {"alice@contoso.example"}, "password": {"correct horse"},
		"scope": {"https://management.azure.com/.default offline_access"},
	})
	forARM, _ := answer["access_token"].(string)
	if code != http.StatusOK || forARM == "" {
		t.Fatalf("sign-in: %d %v", code, answer["error_description"])
	}
	if resp, text := s.send(http.MethodGet, "/tenants?api-version=2022-12-01", forARM, ""); resp.StatusCode != http.StatusOK || !strings.Contains(text, `"defaultDomain": "contoso.example"`) {
		t.Errorf("ARM: %s %s", resp.Status, text)
	}
	if resp, text := s.send(http.MethodGet, "/graph/v1.0/me", forARM, ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("Graph with a token for ARM: %s %s", resp.Status, text)
	}
	if resp, text := s.send(http.MethodGet, "/tenants?api-version=2022-12-01", operator, ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("ARM with a token for Graph: %s %s", resp.Status, text)
	}

	s.stop(s.server)
	s.start()
	code, answer = s.form("/organizations/oauth2/v2.0/token", url.Values{
		"grant_type": {"refresh_token"}, "client_id": {directory.AzureCLI}, "refresh_token": {answer["refresh_token"].(string)}, "scope": {"https://graph.microsoft.com/.default"},
	})
	forGraph, _ := answer["access_token"].(string)
	if code != http.StatusOK || forGraph == "" {
		t.Fatalf("after a restart: %d %v", code, answer["error_description"])
	}
	if resp, text := s.send(http.MethodPost, "/graph/v1.0/me/getMemberGroups", forGraph, `{"securityEnabledOnly":false}`); !strings.Contains(text, group) {
		t.Errorf("groups: %s %s", resp.Status, text)
	}
	if resp, text := s.send(http.MethodDelete, "/graph/v1.0/groups/"+group, forGraph, ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a user's write: %s %s", resp.Status, text)
	}

	// The records say who wrote, and no secret is in any of it.
	actions := map[string]int{}
	for _, r := range s.records() {
		actions[r.Action]++
	}
	if actions["Microsoft.Graph/users"] != 1 || actions["Microsoft.Graph/groups"] != 1 || actions["Microsoft.Graph/groups/{group}"] != 1 {
		t.Errorf("recorded were %v", actions)
	}
	for _, secret := range []string{"correct horse", "eyJ"} {
		if strings.Contains(s.logs.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}

	// What the data plane takes is a source's token, not a user's.
	_, answer = s.form("/contoso.example/oauth2/v2.0/token", url.Values{
		"grant_type": {"password"}, "client_id": {directory.AzureCLI}, "username": {"alice@contoso.example"}, "password": {"correct horse"}, "scope": {idp.DataPlaneAudience + "/.default"},
	})
	forData, _ := answer["access_token"].(string)
	if resp, text := s.send(http.MethodGet, "/k8s/subscriptions/88888888-8888-8888-8888-888888888888/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c/version", forData, ""); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "xms_mirid") {
		t.Errorf("the data plane: %s %s", resp.Status, text)
	}
}
