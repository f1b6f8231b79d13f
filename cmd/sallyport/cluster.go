package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newClusterCommand(c *cli) *cobra.Command {
	return newGroup("cluster", "Clusters that are registered",
		newClusterRegisterCommand(c),
		newClusterListCommand(c),
		newClusterShowCommand(c),
		newClusterDeleteCommand(c),
		newClusterJoinTokenCommand(c),
	)
}

func newClusterRegisterCommand(c *cli) *cobra.Command {
	var name, location string
	var wait bool
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Register an existing cluster, and print the command that installs its agent",
		Long: `Registers an existing cluster. Subscription and resource group are created
where they are missing. No join token is issued yet: until the first one, writes
of bindings wait for no agent, so a registration alone is enough to work with
the API.`,
		Example: `  sallyport cluster register -g sallyport -n prod -l eastus
  sallyport cluster register -n prod -l eastus --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.registerCluster(cmd.Context(), name, location, wait)
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "cluster name (required)")
	cmd.Flags().StringVarP(&location, "location", "l", "", "location, such as eastus (default: the resource group's)")
	cmd.Flags().BoolVar(&wait, "wait", false, "also wait until the cluster's agent is connected")
	cmd.Flags().StringVar(&c.tenant, "tenant", "", "tenant of the subscription, if it is created here: a real Entra tenant that the server trusts (default: the server's own)")
	mustRequire(cmd, "name")
	return cmd
}

func (c *cli) registerCluster(ctx context.Context, name, location string, wait bool) error {
	id, err := c.clusterID(name)
	if err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	_, err = api.Cluster(ctx, id)
	if err == nil {
		return withHint(fmt.Errorf("cluster %s is registered already in resource group %s: %w", name, id.ResourceGroup(), access.ErrConflict),
			"for another agent: sallyport cluster join-token -g %s -n %s, with --reset if the cluster itself is another", id.ResourceGroup(), name)
	}
	if !errors.Is(err, access.ErrNotFound) {
		return err
	}
	if location, err = c.ensureGroup(ctx, api, id, location); err != nil {
		return err
	}
	_, poller, err := api.PutCluster(ctx, id, client.ClusterParameters{Location: location})
	if err != nil {
		return err
	}
	if err := c.follow(ctx, "cluster "+name, poller, nil); err != nil {
		return err
	}
	cluster, err := api.Cluster(ctx, id)
	if err != nil {
		return err
	}
	if err := c.print(cluster.Raw, clusterHeading(), clusterRow(cluster)); err != nil {
		return err
	}
	c.notef("\nInstall the agent, with the roles that this cluster may ever give away:\n\n  sallyport agent manifest -g %s -n %s --roles ROLE[,ROLE...] | kubectl apply -f -\n",
		shellQuote(id.ResourceGroup()), shellQuote(name))
	if !wait {
		return nil
	}
	return c.waitForAgent(ctx, api, id)
}

// waitForAgent asks each second whether the agent is connected.
func (c *cli) waitForAgent(ctx context.Context, api *client.Client, id access.ResourceID) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for told := false; ; told = true {
		status, err := api.AgentStatus(ctx, id)
		if err != nil {
			return err
		}
		if status.Properties.Connected {
			c.notef("agent connected (enrolment %d)", status.Properties.Generation)
			return nil
		}
		if !told {
			c.notef("waiting for the agent, at most %s", c.timeout)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("agent of cluster %s did not connect within %s: %w", id.Name(), c.timeout, access.ErrUnavailable)
		case <-tick.C:
		}
	}
}

func clusterHeading() []string { return []string{"NAME", "RESOURCE GROUP", "LOCATION", "STATE"} }

func clusterRow(cl client.Cluster) []string {
	return []string{cl.ID.Name(), cl.ID.ResourceGroup(), cl.Location, string(cl.Properties.ProvisioningState)}
}

func newClusterListCommand(c *cli) *cobra.Command {
	cmd := newListCommand(c, (*client.Client).Clusters, clusterHeading(), clusterRow, func(v client.Cluster) json.RawMessage { return v.Raw })
	cmd.Short, cmd.Example = "List the clusters of the subscription, or with -g of a resource group", "  sallyport cluster list -o json"
	return cmd
}

func newClusterDeleteCommand(c *cli) *cobra.Command {
	var name string
	var yes, noWait bool
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Remove a registration with all its bindings; the cluster itself stays",
		Example: "  sallyport cluster delete -g sallyport -n prod --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.clusterID(name)
			if err != nil {
				return err
			}
			return c.delete(cmd.Context(), deletion{
				what: "cluster " + name, id: id, yes: yes, noWait: noWait,
				remove: (*client.Client).DeleteCluster,
			})
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "cluster name (required)")
	addDeleteFlags(cmd, &yes, &noWait)
	mustRequire(cmd, "name")
	return cmd
}

func newClusterJoinTokenCommand(c *cli) *cobra.Command {
	var name string
	var params client.JoinTokenParameters
	cmd := &cobra.Command{
		Use:   "join-token",
		Short: "Issue a one-time token with which the cluster's agent enrols",
		Long: `Issues a one-time token with which the cluster's agent enrols. It is a secret,
and the only thing on stdout. A second enrolment retires the first agent, and must be of
the same cluster: its agent proves that by the service-account keys on record. --reset
waives the proof, for keys that were rotated or are gone, or for another cluster; whoever
gets hold of such a token can take the agent's place, so use it at once. From the first
token on, writes of bindings wait until the agent has applied them.`,
		Example: `  (umask 077; sallyport cluster join-token -g sallyport -n prod > join-token)
  (umask 077; sallyport cluster join-token -g sallyport -n prod --reset > join-token)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.clusterID(name)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			token, err := api.NewJoinToken(cmd.Context(), id, params)
			if err != nil {
				return err
			}
			if c.format != formatTable {
				return c.print(token.Raw)
			}
			c.notef("valid once, until %s", token.Expires.UTC().Format(time.RFC3339))
			_, err = fmt.Fprintln(c.stdout, token.Token)
			return err
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "cluster name (required)")
	addResetFlag(cmd, &params)
	mustRequire(cmd, "name")
	return cmd
}

func addResetFlag(cmd *cobra.Command, params *client.JoinTokenParameters) {
	cmd.Flags().BoolVar(&params.Reset, "reset", false, "let the agent enrol without proof that it is of the cluster enrolled now: its service-account keys were rotated or are gone, or it is another cluster")
}
