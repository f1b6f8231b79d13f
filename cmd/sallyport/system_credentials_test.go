package main

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemCredentials reads a cluster's credentials as az does. They lead to
// the gateway and are known by its CA; the administrator's token is good, names
// who asked, and is refused there with the reason.
func TestSystemCredentials(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("prod")
	credential := func(action string) clientcmd.Config {
		t.Helper()
		resp, body := s.send(http.MethodPost, cluster+"/"+action+"api-version=2025-10-01", s.operatorToken(), "")
		var list struct {
			Kubeconfigs []struct{ Value []byte }
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || resp.StatusCode != http.StatusOK || len(list.Kubeconfigs) != 1 {
			t.Fatalf("%s: %d %s", action, resp.StatusCode, body)
		}
		var config clientcmd.Config
		if err := yaml.UnmarshalStrict(list.Kubeconfigs[0].Value, &config); err != nil {
			t.Fatal(err)
		}
		if at := config.Clusters[0].Cluster; at.Server != s.url+"/k8s"+cluster || !strings.Contains(string(at.CertificateAuthorityData), "BEGIN CERTIFICATE") {
			t.Errorf("%s leads to %s", action, at.Server)
		}
		return config
	}
	user := credential("listClusterUserCredential?format=exec&").AuthInfos[0].AuthInfo
	if user.Exec == nil || user.Token != "" || !strings.Contains(strings.Join(user.Exec.Args, " "), "--authority-host "+s.url+"/ ") {
		t.Errorf("the user's: %+v", user)
	}

	token := credential("listClusterAdminCredential?").AuthInfos[0].AuthInfo.Token
	op, err := (&cli{operatorFile: filepath.Join(s.dir, "operator.json")}).operator()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := authenticate.New(authenticate.Config{
		Issuers: []authenticate.Issuer{{
			Issuer: "https://sts.windows.net/" + op.TenantID + "/", TenantID: op.TenantID, Version: "1.0",
			Fetch: func(context.Context) ([]byte, error) {
				_, keys := s.send(http.MethodGet, "/"+op.TenantID+"/discovery/keys", "", "")
				return []byte(keys), nil
			},
		}},
		Audiences: []string{idp.KubernetesAudience},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := verifier.Principal(t.Context(), token); err != nil || !strings.EqualFold(p.AppID, op.ClientID) {
		t.Errorf("the token names %+v, %v", p, err)
	}
	resp, body := s.send(http.MethodGet, "/k8s"+cluster+"/api/v1/namespaces", token, "")
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "signing in to a cluster as a developer is not served yet") {
		t.Errorf("at the gateway: %d %s", resp.StatusCode, body)
	}
	for _, r := range s.records() {
		if strings.Contains(r.Path, token) || strings.Contains(r.Reason, token) {
			t.Error("the token is in the audit log")
		}
	}
	if strings.Contains(s.logs.String(), token) {
		t.Error("the token is in the log")
	}
}
