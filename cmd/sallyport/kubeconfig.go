package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
)

// kubeconfigFlags say for whom and where.
type kubeconfigFlags struct {
	cluster, resource          string
	file, identityFile, plugin string
	overwrite, hostName        bool
}

func newKubeconfigCommand(c *cli) *cobra.Command {
	var f kubeconfigFlags
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Write a kubeconfig with which a source reaches a cluster",
		Long: `Writes a kubeconfig with which a source reaches a cluster through the gateway. It
holds no secret: kubectl gets a token for each session from 'sallyport token get', which reads
IDENTITY_ENDPOINT and IDENTITY_HEADER when it runs, or an identity file.

The cluster's address is a path on the gateway, or with --host-name the cluster's own
host there: for tools that cannot live with a path, and for links of web applications in
the cluster. That takes a server with --cluster-domain, and a client that can resolve
the name.`,
		Example: `  sallyport kubeconfig -g sallyport --cluster-name prod --identity-file ws.identity -f ws.kubeconfig \
    --resource /subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W
  kubectl --kubeconfig ws.kubeconfig get services
  sallyport kubeconfig --cluster-name prod --host-name --identity-file ws.identity --resource ID`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.writeKubeconfig(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.cluster, "cluster-name", "", "cluster name (required)")
	cmd.Flags().StringVar(&f.resource, "resource", "", "ARM id of the source (required)")
	cmd.Flags().StringVarP(&f.file, "file", "f", "-", "file to write, mode 0600; - is stdout")
	cmd.Flags().StringVar(&f.identityFile, "identity-file", "", "file of the source's identity, in place of the environment")
	cmd.Flags().StringVar(&f.plugin, "command", "", "path of the sallyport binary where the kubeconfig is used (default: this one)")
	cmd.Flags().BoolVar(&f.hostName, "host-name", false, "address the cluster by its own host name on the gateway")
	cmd.Flags().BoolVar(&f.overwrite, "overwrite", false, "replace the file")
	mustRequire(cmd, "cluster-name", "resource")
	return cmd
}

func (c *cli) writeKubeconfig(ctx context.Context, f kubeconfigFlags) error {
	cluster, err := c.clusterID(f.cluster)
	if err != nil {
		return err
	}
	source, err := access.ParseResourceID(f.resource)
	if err != nil {
		return asUsage(fmt.Errorf("--resource: %w", err))
	}
	op, err := c.operator()
	if err != nil {
		return err
	}
	if f.plugin == "" {
		if f.plugin, err = os.Executable(); err != nil {
			return fmt.Errorf("path of this binary: %w", err)
		}
	}
	if f.identityFile != "" { // kubectl may run anywhere
		if f.identityFile, err = filepath.Abs(f.identityFile); err != nil {
			return err
		}
	}
	// By path, which is /k8s and the cluster's id.
	server := strings.TrimSuffix(op.Server, "/") + "/k8s" + cluster.String()
	if f.hostName {
		if server, err = c.clusterHost(ctx, cluster); err != nil {
			return err
		}
	}
	data, err := yaml.Marshal(newKubeconfig(server, op.ca, cluster, source, f))
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if f.file == "-" {
		_, err := c.stdout.Write(data)
		return err
	}
	if err := writePrivate(f.file, data, f.overwrite); err != nil {
		return err
	}
	c.notef("try it: kubectl --kubeconfig %s version", shellQuote(f.file))
	return nil
}

// clusterHost asks the server for the URL of a cluster's own host name.
func (c *cli) clusterHost(ctx context.Context, cluster access.ResourceID) (string, error) {
	api, err := c.connect()
	if err != nil {
		return "", err
	}
	status, err := api.AgentStatus(ctx, cluster)
	if err != nil {
		return "", err
	}
	if status.Properties.ClusterAddress == "" {
		return "", withHint(fmt.Errorf("the server gives clusters no host names: %w", access.ErrNotFound),
			"start it with --cluster-domain, or leave out --host-name to address the cluster by its path")
	}
	return status.Properties.ClusterAddress, nil
}

// newKubeconfig names the cluster by its address on the gateway.
func newKubeconfig(server string, ca []byte, cluster, source access.ResourceID, f kubeconfigFlags) clientcmd.Config {
	name := source.Name() + "@" + cluster.Name()
	args := []string{"token", "get", "--exec-credential", "--resource-identity", source.String()}
	if f.identityFile != "" {
		args = append(args, "--identity-file", f.identityFile)
	}
	return clientcmd.Config{
		Kind: "Config", APIVersion: "v1", CurrentContext: name,
		Clusters: []clientcmd.NamedCluster{{Name: cluster.Name(), Cluster: clientcmd.Cluster{
			Server: server, CertificateAuthorityData: ca,
		}}},
		AuthInfos: []clientcmd.NamedAuthInfo{{Name: source.Name(), AuthInfo: clientcmd.AuthInfo{Exec: &clientcmd.ExecConfig{
			APIVersion: "client.authentication.k8s.io/v1", Command: f.plugin, Args: args,
			InstallHint:     "sallyport is needed to get a token; see --command of 'sallyport kubeconfig'",
			InteractiveMode: clientcmd.NeverExecInteractiveMode,
		}}}},
		Contexts: []clientcmd.NamedContext{{Name: name, Context: clientcmd.Context{Cluster: cluster.Name(), AuthInfo: source.Name()}}},
	}
}
