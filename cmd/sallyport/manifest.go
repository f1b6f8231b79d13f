package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/rbac"
)

// manifestFlags say what the agent may ever grant, and how it enrols.
type manifestFlags struct {
	name, roles, tokenFile string
	image, prefix          string
	impersonation          string
	reenrol, helmValues    bool
	token                  client.JoinTokenParameters
}

func newManifestCommand(c *cli) *cobra.Command {
	var f manifestFlags
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Print the YAML that installs the agent in a cluster",
		Long: `Prints the YAML that installs the agent. --roles is the ceiling: whatever bindings
are ever made, the agent can give these roles and no others, and the cluster's own
API server enforces it. 'all' means the whole catalogue; a short name will do where only one role
has it.

For a cluster that is not enrolled yet the YAML holds a one-time join token, which is a
secret: a new one, or that of --join-token-file, and then no server is asked. An enrolled
cluster's agent needs none, and none is issued; so apply the YAML again to change the roles.
--reenrol issues one all the same, with which the same cluster's agent may enrol again;
--reset one that any cluster's may, for when the service-account keys were rotated or are
gone, or the cluster is another.

--impersonation constrained (Kubernetes 1.36 or later) holds the proxy to what the bindings'
roles allow, and what every user may, such as discovery. Rights that you give a binding's user
beside its roles then have no effect; and a refusal names the proxy's account and the verb
impersonate-on:user-info:VERB, not the user.`,
		Example: `  sallyport agent manifest -g sallyport -n prod --roles mlworkload,backup-operator | kubectl apply -f -
  sallyport agent manifest -g sallyport -n prod --roles mlworkload --impersonation constrained > agent.yaml
  sallyport agent manifest --join-token-file join-token --roles all > agent.yaml
  sallyport agent manifest -g sallyport -n prod --roles mlworkload --helm-values |
    helm install sallyport-agent deploy/helm/sallyport-agent -n sallyport-system --create-namespace -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.printManifest(cmd.Context(), f) },
	}
	cmd.Flags().StringVarP(&f.name, "name", "n", "", "cluster name (required without --join-token-file)")
	cmd.Flags().StringVar(&f.roles, "roles", "", "roles that the agent may ever grant, separated by commas, or 'all' (required)")
	cmd.Flags().StringVar(&f.tokenFile, "join-token-file", "", "file with a join token; - is stdin")
	cmd.Flags().StringVar(&f.image, "image", "", "image of the agent; there is no published one, see deploy/Dockerfile")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "beginning of the names of objects and users (default "+access.DefaultPrefix+")")
	cmd.Flags().StringVar(&f.impersonation, "impersonation", string(rbac.Legacy), "how the proxy may be the bindings' users: legacy or constrained")
	cmd.Flags().BoolVar(&f.reenrol, "reenrol", false, "issue a join token although the cluster is enrolled; its agent proves that it is the same cluster")
	cmd.Flags().BoolVar(&f.helmValues, "helm-values", false, "print values for the Helm chart in deploy/helm/sallyport-agent instead")
	addResetFlag(cmd, &f.token)
	cmd.MarkFlagsMutuallyExclusive("join-token-file", "reenrol", "reset")
	mustRequire(cmd, "roles")
	return cmd
}

func (c *cli) printManifest(ctx context.Context, f manifestFlags) error {
	names, err := c.splitRoles(f.roles)
	if err != nil {
		return err
	}
	roles, err := resolveRoles(names)
	if err != nil {
		return err
	}
	options, err := c.manifestOptions(ctx, f)
	if err != nil {
		return err
	}
	options.Image, options.Prefix, options.Roles = f.image, f.prefix, roles
	options.Impersonation = rbac.Impersonation(f.impersonation)
	write := rbac.Manifest
	if f.helmValues {
		write = rbac.HelmValues
	}
	manifest, err := write(options)
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(manifest)
	return err
}

// manifestOptions says which gateway the agent is told of, and whether it gets
// a join token to enrol with. It needs one only once: a token that nobody uses
// lies in a Secret that others may read.
func (c *cli) manifestOptions(ctx context.Context, f manifestFlags) (rbac.ManifestOptions, error) {
	if f.tokenFile != "" {
		return c.joinTokenFile(f)
	}
	if f.name == "" {
		return rbac.ManifestOptions{}, usagef("name the cluster with -n, or give --join-token-file")
	}
	id, err := c.clusterID(f.name)
	if err != nil {
		return rbac.ManifestOptions{}, err
	}
	api, err := c.connect()
	if err != nil {
		return rbac.ManifestOptions{}, err
	}
	agent, err := api.AgentStatus(ctx, id)
	if err != nil {
		return rbac.ManifestOptions{}, err
	}
	enrolled := agent.Properties.Generation > 0
	if enrolled && !f.reenrol && !f.token.Reset {
		c.notef("cluster %s is enrolled (enrolment %d), so the YAML holds no join token; with --reenrol it does", f.name, agent.Properties.Generation)
		return rbac.ManifestOptions{Gateway: agent.Properties.GatewayAddress, CAHash: agent.Properties.CAHash, ClusterID: id}, nil
	}
	issued, err := api.NewJoinToken(ctx, id, f.token)
	if err != nil {
		return rbac.ManifestOptions{}, err
	}
	c.notef("issued a join token for cluster %s, valid once, until %s", f.name, issued.Expires.UTC().Format("2006-01-02 15:04:05 MST"))
	if f.token.Reset {
		c.notef("it is a reset: whoever may read Secrets in namespace %s can take the agent's place with it, so delete Secret sallyport-join once the agent is connected", access.AgentNamespace)
	}
	if enrolled {
		c.notef("a running agent reads it when it restarts: kubectl rollout restart -n %s deployment/sallyport-reconciler", access.AgentNamespace)
	}
	token, err := enroll.ParseJoinToken(issued.Token)
	return optionsOf(token), err
}

// joinTokenFile reads the token of --join-token-file.
func (c *cli) joinTokenFile(f manifestFlags) (rbac.ManifestOptions, error) {
	data, err := c.readSecret(f.tokenFile)
	if err != nil {
		return rbac.ManifestOptions{}, fmt.Errorf("--join-token-file: %w", err)
	}
	token, err := enroll.ParseJoinToken(strings.TrimSpace(string(data)))
	if err != nil {
		return rbac.ManifestOptions{}, fmt.Errorf("--join-token-file: %w", err)
	}
	if f.name != "" && !strings.EqualFold(f.name, token.ClusterID.Name()) {
		return rbac.ManifestOptions{}, usagef("the join token is for cluster %s, not for %q", token.ClusterID, f.name)
	}
	return optionsOf(token), nil
}

func optionsOf(t enroll.JoinToken) rbac.ManifestOptions {
	return rbac.ManifestOptions{Gateway: t.Address, ClusterID: t.ClusterID, CAHash: t.CAHash, JoinToken: t.Text()}
}

// resolveRoles finds roles of the shipped catalogue by qualified name, or by a
// short name that only one role has.
func resolveRoles(names []string) ([]access.Role, error) {
	catalogue, err := access.Catalogue()
	if err != nil {
		return nil, err
	}
	if len(names) == 1 && strings.EqualFold(names[0], "all") {
		return catalogue, nil
	}
	var roles []access.Role
	seen := map[string]bool{}
	for _, name := range names {
		var found []access.Role
		for _, r := range catalogue {
			if strings.EqualFold(r.QualifiedName(), name) || strings.EqualFold(r.Name, name) {
				found = append(found, r)
			}
		}
		switch len(found) {
		case 1:
		case 0:
			return nil, withHint(usagef("there is no role %q", name), "the roles are: %s; or all", listRoles(catalogue, func(access.Role) bool { return true }))
		default:
			return nil, withHint(usagef("%d roles are called %q", len(found), name), "use one of %s", listRoles(found, func(access.Role) bool { return true }))
		}
		if key := found[0].QualifiedName(); !seen[key] {
			seen[key] = true
			roles = append(roles, found[0])
		}
	}
	return roles, nil
}
