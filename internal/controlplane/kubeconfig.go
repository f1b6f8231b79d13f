package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// newKubeconfig leads to a cluster at the gateway, without a user yet. Names are
// those that AKS gives, which az and people's scripts know.
func newKubeconfig(cluster access.Cluster, server string, ca []byte) clientcmd.Config {
	name := cluster.ID.Name()
	return clientcmd.Config{
		Kind: "Config", APIVersion: "v1", CurrentContext: name,
		Clusters: []clientcmd.NamedCluster{{Name: name, Cluster: clientcmd.Cluster{Server: server, CertificateAuthorityData: ca}}},
	}
}

// setUser completes the kubeconfig.
func setUser(config *clientcmd.Config, user string, auth clientcmd.AuthInfo) {
	config.AuthInfos = []clientcmd.NamedAuthInfo{{Name: user, AuthInfo: auth}}
	config.Contexts = []clientcmd.NamedContext{{Name: config.CurrentContext, Context: clientcmd.Context{Cluster: config.CurrentContext, AuthInfo: user}}}
}

// asUser has kubelogin sign in, by its exec form or by the older auth-provider
// (spec/identity.md 4.2). A tenant of the embedded identity provider is found at
// its own address, unless the client came by the cloud's names.
func (q *request) asUser(ctx context.Context, config *clientcmd.Config, cluster access.Cluster, form string) error {
	user := clusterUser + "_" + cluster.ID.ResourceGroup() + "_" + cluster.ID.Name()
	switch form {
	case "azure":
		setUser(config, user, clientcmd.AuthInfo{AuthProvider: &clientcmd.AuthProviderConfig{Name: "azure", Config: map[string]string{
			"apiserver-id": aksServerApp, "client-id": aksClientApp, "config-mode": "1", "environment": "AzurePublicCloud", "tenant-id": cluster.TenantID,
		}}})
		return nil
	case "", "exec":
	default:
		return arm.InvalidParameter("format", "'%s' must be 'azure' or 'exec'.", access.Clip(form, 100))
	}
	args := []string{"get-token", "--environment", "AzurePublicCloud", "--server-id", aksServerApp, "--client-id", aksClientApp,
		"--tenant-id", cluster.TenantID, "--login", "devicecode"}
	embedded, err := q.c.embedded(ctx, cluster.TenantID)
	if err != nil {
		return err
	}
	if embedded && !arm.IsAzureHost(q.http.Host) {
		args = append(args, "--authority-host", "https://"+q.c.cfg.GatewayAddress+"/", "--disable-instance-discovery")
	}
	setUser(config, user, clientcmd.AuthInfo{Exec: &clientcmd.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1beta1", Command: "kubelogin", Args: args,
		InstallHint: "\nkubelogin is not installed which is required to connect to AAD enabled cluster.\n\nTo learn more, please go to https://aka.ms/aks/kubelogin\n",
	}})
	return nil
}

// embedded reports whether the tenant is one of the embedded identity provider.
func (c *ControlPlane) embedded(ctx context.Context, tenantID string) (bool, error) {
	_, err := c.store.Tenants.Get(ctx, strings.ToLower(tenantID))
	if errors.Is(err, access.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// asAdmin puts a lease in, and when it ends where tools can read it.
func asAdmin(config *clientcmd.Config, cluster access.Cluster, lease Lease) error {
	end, err := json.Marshal(map[string]string{"expires": lease.Expires.UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	setUser(config, clusterAdmin+"_"+cluster.ID.ResourceGroup()+"_"+cluster.ID.Name(), clientcmd.AuthInfo{
		Token:      lease.Token,
		Extensions: []clientcmd.NamedExtension{{Name: "sallyport/lease", Extension: runtime.RawExtension{Raw: end}}},
	})
	return nil
}
