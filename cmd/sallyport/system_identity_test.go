package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/idp"
)

// identityTokens asks the managed-identity endpoint as one resource.
type identityTokens struct {
	t        *testing.T
	endpoint string
	header   string
}

// get asks for a token of the data plane with these parameters, and returns the
// claims and the token, or the status and the text of a refusal.
func (i identityTokens) get(wanted url.Values) (claims map[string]any, token string, status int, text string) {
	i.t.Helper()
	query := url.Values{"api-version": {idp.ManagedIdentityVersion}, "resource": {idp.DataPlaneAudience}}
	for name, values := range wanted {
		query[name] = values
	}
	req, err := http.NewRequestWithContext(i.t.Context(), http.MethodGet, i.endpoint+"?"+query.Encode(), nil)
	if err != nil {
		i.t.Fatal(err)
	}
	req.Header.Set("X-Identity-Header", i.header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		i.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", resp.StatusCode, string(answer)
	}
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		i.t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(body.Token+"..", ".")[1])
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return claims, body.Token, resp.StatusCode, string(answer)
}

// TestSystemUserAssignedIdentities: a resource gets the tokens of the identities
// that it uses, by each of their names, for as long as it uses them; and none of
// them opens a cluster.
func TestSystemUserAssignedIdentities(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	arm := s.operatorToken()
	group := strings.Split(cluster, "/providers/")[0]
	call := func(status int, method, path, body string) map[string]any {
		t.Helper()
		resp, text := s.send(method, path+"?api-version=2025-10-01", arm, body)
		if resp.StatusCode != status {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, status, text)
		}
		var v map[string]any
		if text != "" {
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	identity := func(name string) (id, clientID, objectID string) {
		t.Helper()
		id = group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
		p, _ := call(http.StatusCreated, http.MethodPut, id, `{"location":"eastus"}`)["properties"].(map[string]any)
		clientID, _ = p["clientId"].(string)
		objectID, _ = p["principalId"].(string)
		return id, clientID, objectID
	}
	one, oneClient, oneObject := identity("one")
	two, twoClient, _ := identity("two")
	workspace := group + "/providers/Microsoft.MachineLearningServices/workspaces/ml"
	uses := func(kind string, ids ...string) string {
		if len(ids) == 0 {
			return `{"location":"eastus","identity":{"type":"` + kind + `"}}`
		}
		return `{"location":"eastus","identity":{"type":"` + kind + `","userAssignedIdentities":{"` + strings.Join(ids, `":{},"`) + `":{}}}}`
	}
	const both = "SystemAssigned, UserAssigned"
	call(http.StatusCreated, http.MethodPut, workspace, uses(both, one, two))
	secret := call(http.StatusOK, http.MethodPost, workspace+"/providers/Sallyport.Gateway/managedIdentities/default/listCredentials", "")
	tokens := identityTokens{t: t}
	tokens.endpoint, _ = secret["identityEndpoint"].(string)
	tokens.header, _ = secret["identityHeader"].(string)

	own, ownToken, status, text := tokens.get(nil)
	if status != http.StatusOK || !strings.EqualFold(own["xms_mirid"].(string), workspace) || own["xms_az_rid"] != nil {
		t.Fatalf("without a name, its own: %d %s %v", status, text, own)
	}
	byName := []url.Values{{"client_id": {oneClient}}, {"object_id": {oneObject}}, {"principal_id": {oneObject}}, {"mi_res_id": {one}}, {"msi_res_id": {strings.ToUpper(one)}}}
	var old string
	for _, name := range byName {
		claims, token, status, text := tokens.get(name)
		if status != http.StatusOK {
			t.Fatalf("%v: %d %s", name, status, text)
		}
		mirid, _ := claims["xms_mirid"].(string)
		used, _ := claims["xms_az_rid"].(string)
		if !strings.EqualFold(mirid, one) || !strings.EqualFold(used, workspace) || claims["oid"] != oneObject || claims["appid"] != oneClient {
			t.Errorf("%v: %v", name, claims)
		}
		old = token
	}
	// The data plane takes the workspace's own token for what it is, and no other.
	path := "/k8s" + cluster + "/api/v1/namespaces/default/services"
	if resp, text := s.send(http.MethodGet, path, old, ""); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "user-assigned") {
		t.Errorf("a user-assigned identity at the gateway: %d %s", resp.StatusCode, text)
	}
	if resp, text := s.send(http.MethodGet, path, ownToken, ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("the workspace's own, without a binding: %d %s", resp.StatusCode, text)
	}

	refused := func(what string) {
		t.Helper()
		for _, name := range byName {
			if _, _, status, text := tokens.get(name); status != http.StatusBadRequest || !strings.Contains(text, "Identity not found") {
				t.Errorf("%s, %v: %d %s", what, name, status, text)
			}
		}
		if _, _, status, text := tokens.get(url.Values{"client_id": {twoClient}}); status != http.StatusOK {
			t.Errorf("%s, the other identity: %d %s", what, status, text)
		}
	}
	call(http.StatusOK, http.MethodPut, workspace, uses(both, two))
	refused("taken away")
	call(http.StatusOK, http.MethodPut, workspace, uses(both, one, two))
	if _, _, status, text := tokens.get(byName[0]); status != http.StatusOK {
		t.Fatalf("given again: %d %s", status, text)
	}
	call(http.StatusOK, http.MethodDelete, one, "")
	refused("deleted")
	_, newClient, newObject := identity("one")
	if newClient == oneClient || newObject == oneObject {
		t.Errorf("a new identity has the old one's ids: %s %s", newClient, newObject)
	}
	byName = append(byName, url.Values{"client_id": {newClient}}, url.Values{"object_id": {newObject}})
	refused("created again under its name")
	// Nor does the workspace's name carry over what it used.
	call(http.StatusOK, http.MethodDelete, workspace, "")
	call(http.StatusCreated, http.MethodPut, workspace, uses(both, two))
	if _, _, status, text := tokens.get(url.Values{"client_id": {twoClient}}); status == http.StatusOK {
		t.Errorf("the secret of a deleted workspace: %d %s", status, text)
	}
}
