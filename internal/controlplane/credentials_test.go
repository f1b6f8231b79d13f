package controlplane_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
)

func newLeasing(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, func(cfg *controlplane.Config) {
		cfg.CACertificates = func() []byte { return []byte("the CA") }
		cfg.IssueLease = func(_ context.Context, caller access.Principal, audience string, most time.Duration) (controlplane.Lease, error) {
			if caller.ObjectID != callers()["owner"].ObjectID {
				return controlplane.Lease{}, fmt.Errorf("no such tenant: %w", access.ErrNotFound)
			}
			return controlplane.Lease{Token: "lease for " + audience, Expires: cfg.Now().Add(most)}, nil
		}
	})
}

// kubeconfigOf decodes a base64 value of an answer, and checks where it leads.
func kubeconfigOf(t *testing.T, v any) clientcmd.Config {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(v.(string))
	must(t, err)
	var config clientcmd.Config
	must(t, yaml.UnmarshalStrict(text, &config))
	if len(config.Clusters) != 1 || config.Clusters[0].Cluster.Server != "https://gateway.test:8443/k8s"+cluster || string(config.Clusters[0].Cluster.CertificateAuthorityData) != "the CA" {
		t.Fatalf("leads to %+v", config.Clusters)
	}
	if len(config.Contexts) != 1 || config.CurrentContext != "C" || config.Contexts[0].Context.AuthInfo != config.AuthInfos[0].Name {
		t.Fatalf("contexts: %+v", config)
	}
	return config
}

// TestUserCredential: two forms, both for kubelogin and the AKS server
// application, and no secret in either.
func TestUserCredential(t *testing.T) {
	f := newLeasing(t)
	list := cluster + "/listClusterUserCredential" + version
	for _, query := range []string{"", "&format=exec", "&format=exec&server-fqdn=public"} {
		v, _ := f.want(200, "POST", list+query, "")
		if at(v, "kubeconfigs.0.name") != "clusterUser" {
			t.Errorf("%s: %v", query, v)
		}
		config := kubeconfigOf(t, at(v, "kubeconfigs.0.value"))
		exec := config.AuthInfos[0].AuthInfo.Exec
		want := []string{"get-token", "--environment", "AzurePublicCloud", "--server-id", "6dae42f8-4368-4678-94ff-3960e28e3630",
			"--client-id", "80faf920-1908-4b52-b5ef-a8e7bedfc67a", "--tenant-id", tenantID, "--login", "devicecode"}
		if config.AuthInfos[0].Name != "clusterUser_RG_C" || exec == nil || exec.Command != "kubelogin" || exec.InstallHint == "" || !slices.Equal(exec.Args, want) {
			t.Errorf("%s: %+v", query, config.AuthInfos)
		}
	}
	v, _ := f.want(200, "POST", list+"&format=azure", "")
	provider := kubeconfigOf(t, at(v, "kubeconfigs.0.value")).AuthInfos[0].AuthInfo.AuthProvider
	if provider == nil || provider.Name != "azure" || provider.Config["apiserver-id"] != "6dae42f8-4368-4678-94ff-3960e28e3630" || provider.Config["tenant-id"] != tenantID {
		t.Errorf("azure: %+v", provider)
	}
	f.want(400, "POST", list+"&format=yaml", "")

	// The embedded tenant is found at this server, but by clients that were led
	// here under the cloud's names at the cloud's.
	_, err := f.store.Tenants.Put(t.Context(), store.Tenant{ID: tenantID}, 0)
	must(t, err)
	v, _ = f.want(200, "POST", list, "")
	args := strings.Join(kubeconfigOf(t, at(v, "kubeconfigs.0.value")).AuthInfos[0].AuthInfo.Exec.Args, " ")
	if !strings.HasSuffix(args, " --authority-host https://gateway.test:8443/ --disable-instance-discovery") {
		t.Errorf("args: %s", args)
	}
	v, _ = f.want(200, "POST", "https://management.azure.com"+list, "")
	args = strings.Join(kubeconfigOf(t, at(v, "kubeconfigs.0.value")).AuthInfos[0].AuthInfo.Exec.Args, " ")
	if strings.Contains(args, "authority-host") {
		t.Errorf("args: %s", args)
	}
	records := f.auditOf(func(r audit.Record) bool {
		return *r.Allowed && r.Action == "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action" && r.Cluster == cluster
	})
	if len(records) != 6 {
		t.Errorf("%d records, want 6", len(records))
	}
}

// TestAdminCredential: a token that names its reader and ends soon, where the
// cluster has local accounts and the log takes the record.
func TestAdminCredential(t *testing.T) {
	f := newLeasing(t)
	list := cluster + "/listClusterAdminCredential" + version
	v, _ := f.want(200, "POST", list, "")
	config := kubeconfigOf(t, at(v, "kubeconfigs.0.value"))
	user := config.AuthInfos[0]
	if at(v, "kubeconfigs.0.name") != "clusterAdmin" || user.Name != "clusterAdmin_RG_C" || user.AuthInfo.Token != "lease for 6dae42f8-4368-4678-94ff-3960e28e3630" {
		t.Errorf("user: %+v", user)
	}
	if !strings.Contains(string(user.AuthInfo.Extensions[0].Extension.Raw), "2026-11-22T04:00:00Z") {
		t.Errorf("the lease's end is not in the kubeconfig: %+v", user.AuthInfo.Extensions)
	}
	records := f.auditOf(func(r audit.Record) bool {
		return *r.Allowed && r.Action == "Microsoft.ContainerService/managedClusters/listClusterAdminCredential/action" && r.ObjectID == callers()["owner"].ObjectID
	})
	if len(records) != 1 || !strings.Contains(fmt.Sprint(records[0].Detail), "2026-11-22T04:00:00Z") || strings.Contains(fmt.Sprint(records[0]), "lease for") {
		t.Errorf("records: %+v", records)
	}

	v, _ = f.want(200, "POST", cluster+"/accessProfiles/clusteradmin/listCredential"+version, "")
	kubeconfigOf(t, at(v, "properties.kubeConfig"))
	if at(v, "name") != "clusterAdmin" || at(v, "location") != "eastus" {
		t.Errorf("access profile: %v", v)
	}
	f.want(404, "POST", cluster+"/accessProfiles/root/listCredential"+version, "")
	if resp := f.do("stranger", "POST", list, ""); resp.StatusCode != 403 {
		t.Errorf("a stranger: %d", resp.StatusCode)
	}

	f.mu.Lock()
	f.noAudit = true
	f.mu.Unlock()
	for _, url := range []string{list, cluster + "/listClusterUserCredential" + version} {
		if resp := f.do("owner", "POST", url, ""); resp.StatusCode != 503 {
			t.Errorf("%s without a record: %d", url, resp.StatusCode)
		}
	}
	f.mu.Lock()
	f.noAudit = false
	f.mu.Unlock()

	f.want(200, "PUT", cluster+version, `{"location":"eastus","properties":{"disableLocalAccounts":true}}`)
	for _, url := range []string{list, cluster + "/accessProfiles/clusterAdmin/listCredential" + version} {
		v, _ = f.want(400, "POST", url, "")
		if v["code"] != "BadRequest" || v["message"] != "Getting static credential is not allowed because this cluster is set to disable local accounts." {
			t.Errorf("local accounts disabled: %v", v)
		}
	}
	f.want(200, "POST", cluster+"/listClusterUserCredential"+version, "")
}

// TestAdminCredentialElsewhere: no token is made for a caller of another
// identity provider, and none at all without one.
func TestAdminCredentialElsewhere(t *testing.T) {
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.IssueLease = func(context.Context, access.Principal, string, time.Duration) (controlplane.Lease, error) {
			return controlplane.Lease{}, fmt.Errorf("tenant: %w", access.ErrNotFound)
		}
	})
	if v, _ := f.want(400, "POST", cluster+"/listClusterAdminCredential"+version, ""); !strings.Contains(fmt.Sprint(v["message"]), "Use listClusterUserCredential") {
		t.Errorf("answer: %v", v)
	}
	f = newFixture(t, nil)
	f.want(404, "POST", cluster+"/listClusterAdminCredential"+version, "")
}
