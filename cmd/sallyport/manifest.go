package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/rbac"
)

// manifestFlags say what the agent may ever grant, and how it enrols.
type manifestFlags struct {
	name, roles, tokenFile   string
	image, prefix, namespace string
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

The YAML holds a one-time join token, which is a secret. Without --join-token-file a new
one is issued; with it, no server is asked.`,
		Example: `  sallyport agent manifest -g sallyport -n prod --roles mlworkload,backup-operator | kubectl apply -f -
  sallyport agent manifest --join-token-file join-token --roles all > agent.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.printManifest(cmd.Context(), f) },
	}
	cmd.Flags().StringVarP(&f.name, "name", "n", "", "cluster name (required without --join-token-file)")
	cmd.Flags().StringVar(&f.roles, "roles", "", "roles that the agent may ever grant, separated by commas, or 'all' (required)")
	cmd.Flags().StringVar(&f.tokenFile, "join-token-file", "", "file with a join token; - is stdin")
	cmd.Flags().StringVar(&f.image, "image", "", "image of the agent (default "+rbac.DefaultImage+")")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "beginning of the names of objects and users (default "+rbac.DefaultPrefix+")")
	cmd.Flags().StringVar(&f.namespace, "namespace", "", "namespace of the agent (default "+rbac.DefaultNamespace+")")
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
	token, err := c.joinToken(ctx, f)
	if err != nil {
		return err
	}
	manifest, err := rbac.Manifest(rbac.ManifestOptions{
		Gateway:   token.Address,
		ClusterID: token.ClusterID,
		CAHash:    token.CAHash,
		JoinToken: token.Text(),
		Image:     f.image,
		Prefix:    f.prefix,
		Namespace: cmp.Or(f.namespace, rbac.DefaultNamespace),
		Roles:     roles,
	})
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(manifest)
	return err
}

// joinToken reads the token from the file, or has the server issue one.
func (c *cli) joinToken(ctx context.Context, f manifestFlags) (enroll.JoinToken, error) {
	if f.tokenFile != "" {
		data, err := c.readSecret(f.tokenFile)
		if err != nil {
			return enroll.JoinToken{}, fmt.Errorf("--join-token-file: %w", err)
		}
		token, err := enroll.ParseJoinToken(strings.TrimSpace(string(data)))
		if err != nil {
			return token, fmt.Errorf("--join-token-file: %w", err)
		}
		if f.name != "" && !strings.EqualFold(f.name, token.ClusterID.Name()) {
			return token, usagef("the join token is for cluster %s, not for %q", token.ClusterID, f.name)
		}
		return token, nil
	}
	if f.name == "" {
		return enroll.JoinToken{}, usagef("name the cluster with -n, or give --join-token-file")
	}
	id, err := c.clusterID(f.name)
	if err != nil {
		return enroll.JoinToken{}, err
	}
	api, err := c.connect()
	if err != nil {
		return enroll.JoinToken{}, err
	}
	issued, err := api.NewJoinToken(ctx, id)
	if err != nil {
		return enroll.JoinToken{}, err
	}
	c.notef("issued a join token for cluster %s, valid once, until %s", f.name, issued.Expires.UTC().Format("2006-01-02 15:04:05 MST"))
	return enroll.ParseJoinToken(issued.Token)
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
