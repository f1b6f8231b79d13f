package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport/sallyport/internal/idp"
)

// authentication has an API server take the tokens of one tenant that are for
// it, and make one user of them its admin.
const authentication = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://sts.windows.net/%[1]s/
    discoveryURL: %[2]s/%[1]s/.well-known/openid-configuration
    audiences: [%[3]s]
    certificateAuthority: %[4]s
  claimMappings:
    username: {claim: oid, prefix: "entra:"}
    groups: {expression: 'claims.appid == "%[5]s" ? ["system:masters"] : []'}
`

// oidcCluster starts a cluster whose users sign in with this server's identity
// provider, and which knows no client certificates: there is no local account.
func (s *system) oidcCluster() *kubeCluster {
	s.t.Helper()
	op, err := (&cli{operatorFile: filepath.Join(s.dir, "operator.json")}).operator()
	if err != nil {
		s.t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	quoted, err := json.Marshal(string(ca)) // a JSON string is one of YAML, too
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "authentication.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, authentication, op.TenantID, s.url, idp.KubernetesAudience, quoted, op.ClientID), 0o600); err != nil {
		s.t.Fatal(err)
	}
	c := &kubeCluster{flags: []string{"--set-flag", "authentication-config=" + file, "--disable-local-accounts"}}
	s.t.Cleanup(func() {
		if err := c.stop(); err != nil {
			s.t.Error(err)
		}
	})
	if err := c.start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// signIn replaces the admin, and the admin's kubeconfig, by a user with a token.
func (c *kubeCluster) signIn(t *testing.T, token string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(c.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	if err := clientcmd.WriteToFile(*config, c.kubeconfig()); err != nil {
		t.Fatal(err)
	}
	c.admin = c.as(t, token)
}

// as is a client of the API server, without Sallyport, with a token.
func (c *kubeCluster) as(t *testing.T, token string) *kubernetes.Clientset {
	t.Helper()
	config := &rest.Config{Host: c.server, BearerToken: token, Dial: c.dial, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(c.dir, "ca.crt")}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// whoAmI asks the API server.
func whoAmI(t *testing.T, client *kubernetes.Clientset) (authenticationv1.UserInfo, error) {
	t.Helper()
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}

// TestSystemOIDC uses a cluster that trusts an OIDC issuer and has its local
// accounts disabled. Its admin signs in with a token, and with nothing else
// installs the agent; Trusted Access works beside that, unchanged.
func TestSystemOIDC(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.kube = s.oidcCluster()

	// The kubeconfig that would be cluster-admin's is nobody's here.
	if _, err := s.kube.admin.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "system:anonymous") {
		t.Fatalf("the local account: %v, want it to be nobody's", err)
	}
	s.kube.signIn(t, s.applicationToken(idp.KubernetesAudience))
	t.Run("disableLocalAccounts", func(t *testing.T) { s.testDisableLocalAccounts(t, cluster) })

	s.install("private", "mlworkload").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	if _, err := services(t, through); err != nil {
		t.Errorf("through the gateway: %v", err)
	}
	user, err := whoAmI(t, through)
	if err != nil || user.Username != "aks:trustedaccess:ml" {
		t.Errorf("through the gateway the source is %+v, %v", user, err)
	}

	// Straight to the API server, the token for the gateway is worth nothing. One
	// for the API server is a user without rights: the binding is for the gateway.
	if user, err := whoAmI(t, s.kube.as(t, ml.token(idp.DataPlaneAudience))); !apierrors.IsUnauthorized(err) {
		t.Errorf("the token for the gateway, straight to the API server: %+v, %v", user, err)
	}
	direct := s.kube.as(t, ml.token(idp.KubernetesAudience))
	if user, err := whoAmI(t, direct); err != nil || !strings.HasPrefix(user.Username, "entra:") {
		t.Errorf("a token for the API server: %+v, %v", user, err)
	}
	if _, err := services(t, direct); !apierrors.IsForbidden(err) {
		t.Errorf("a token for the API server lists services: %v", err)
	}
	// And the other way round.
	resp, body := s.send(http.MethodGet, "/k8s"+cluster+"/api", ml.token(idp.KubernetesAudience), "")
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token for the API server at the gateway: %d %s", resp.StatusCode, body)
	}
}

// testDisableLocalAccounts registers what an owner of such a cluster writes: it
// is kept and echoed, and nothing here needs a local account.
func (s *system) testDisableLocalAccounts(t *testing.T, cluster string) {
	const path, written = "?api-version=2025-10-01", `{"location": "eastus", "properties": {"disableLocalAccounts": true,
		"aadProfile": {"managed": true, "enableAzureRBAC": false},
		"apiServerAccessProfile": {"enablePrivateCluster": true, "authorizedIPRanges": ["198.51.100.10/32"]}}}`
	resp, body := s.send(http.MethodPut, cluster+path, s.operatorToken(), written)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT: %d %s", resp.StatusCode, body)
	}
	s.await("the cluster is registered", func() bool {
		_, body = s.send(http.MethodGet, cluster+path, s.operatorToken(), "")
		return strings.Contains(body, `"Succeeded"`)
	})
	var echoed struct {
		Properties struct {
			DisableLocalAccounts   bool
			AADProfile             struct{ Managed bool }
			APIServerAccessProfile struct {
				EnablePrivateCluster bool
				AuthorizedIPRanges   []string
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &echoed); err != nil {
		t.Fatal(err)
	}
	p := echoed.Properties
	if !p.DisableLocalAccounts || !p.AADProfile.Managed || !p.APIServerAccessProfile.EnablePrivateCluster || len(p.APIServerAccessProfile.AuthorizedIPRanges) != 1 {
		t.Errorf("GET says %s", body)
	}
}
