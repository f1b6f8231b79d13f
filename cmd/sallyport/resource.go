package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newResourceCommand(c *cli) *cobra.Command {
	return newGroup("resource", "Cloud resources with an identity: the sources of bindings",
		newResourceCreateCommand(c),
		newResourceShowCommand(c),
		newResourceListCommand(c),
		newResourceDeleteCommand(c),
		newResourceIdentityCommand(c),
	)
}

// resourceFlags name a resource: by a whole id, or by type, group and name.
type resourceFlags struct{ id, typ, name string }

func (f *resourceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.id, "id", "", "whole ARM id, in place of --type, -g and -n")
	cmd.Flags().StringVar(&f.typ, "type", "", "type, such as Microsoft.MachineLearningServices/workspaces")
	cmd.Flags().StringVarP(&f.name, "name", "n", "", "name; of a nested type, the names separated by /")
}

func (c *cli) resourceID(f resourceFlags) (access.ResourceID, error) {
	if f.id != "" {
		if f.typ != "" || f.name != "" {
			return access.ResourceID{}, usagef("--id already names the resource; leave --type and -n out")
		}
		id, err := access.ParseResourceID(f.id)
		if err == nil && id.Type() == "" {
			err = fmt.Errorf("%q names no resource, but a subscription or a resource group", f.id)
		}
		return id, asUsage(err)
	}
	if f.typ == "" || f.name == "" {
		return access.ResourceID{}, usagef("name the resource with --type and -n, or with --id")
	}
	subscription, group, err := c.scope()
	if err != nil {
		return access.ResourceID{}, err
	}
	id, err := client.ResourceID(subscription, group, f.typ, f.name)
	return id, asUsage(err)
}

// identityFlags say where an identity's secret goes.
type identityFlags struct {
	file      string
	overwrite bool
}

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "identity-file", "", "write the identity's endpoint and secret to this file, mode 0600, for 'sallyport token get'")
	cmd.Flags().BoolVar(&f.overwrite, "overwrite", false, "replace the identity file")
}

func newResourceCreateCommand(c *cli) *cobra.Command {
	var f resourceFlags
	var identity identityFlags
	var location string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a resource with a system-assigned identity",
		Example: `  sallyport resource create -g sallyport -n ws --type Microsoft.MachineLearningServices/workspaces --identity-file ws.identity
  sallyport resource create --id /subscriptions/S/providers/Microsoft.Security/pricings/CloudPosture/securityOperators/Op`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.createResource(cmd.Context(), f, identity, location)
		},
	}
	f.add(cmd)
	identity.add(cmd)
	cmd.Flags().StringVarP(&location, "location", "l", "", "location (default: the resource group's)")
	return cmd
}

func (c *cli) createResource(ctx context.Context, f resourceFlags, identity identityFlags, location string) error {
	id, err := c.resourceID(f)
	if err != nil {
		return err
	}
	if identity.file != "" { // before anything is created
		if err := checkWritable(identity.file, identity.overwrite); err != nil {
			return err
		}
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	if location, err = c.ensureGroup(ctx, api, id, location); err != nil {
		return err
	}
	resource, poller, err := api.PutResource(ctx, id, location)
	if err != nil {
		return err
	}
	if !poller.Done() {
		if err := c.follow(ctx, "resource "+id.Name(), poller, nil); err != nil {
			return err
		}
		if resource, err = api.Resource(ctx, id); err != nil {
			return err
		}
	}
	if identity.file != "" {
		cred, err := api.IdentityCredentials(ctx, id)
		if err != nil {
			return err
		}
		if err := writeIdentity(identity, id, cred); err != nil {
			return err
		}
		c.notef("identity written to %s", identity.file)
	}
	return c.print(resource.Raw, resourceHeading(), resourceRow(resource))
}

func resourceHeading() []string {
	return []string{"NAME", "TYPE", "RESOURCE GROUP", "PRINCIPAL ID", "ID"}
}

func resourceRow(r client.Resource) []string {
	return []string{r.ID.Name(), r.ID.Type(), r.ID.ResourceGroup(), r.Identity.PrincipalID, r.ID.String()}
}

func newResourceShowCommand(c *cli) *cobra.Command {
	var f resourceFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show a resource and its principal id",
		Example: "  sallyport resource show -g sallyport -n ws --type Microsoft.MachineLearningServices/workspaces",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.resourceID(f)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			resource, err := api.Resource(cmd.Context(), id)
			if err != nil {
				return err
			}
			return c.print(resource.Raw, resourceHeading(), resourceRow(resource))
		},
	}
	f.add(cmd)
	return cmd
}

func newResourceListCommand(c *cli) *cobra.Command {
	cmd := newListCommand(c, (*client.Client).Resources, resourceHeading(), resourceRow, func(v client.Resource) json.RawMessage { return v.Raw })
	cmd.Short, cmd.Example = "List the resources of the subscription, or with -g of a resource group", "  sallyport resource list -g sallyport"
	return cmd
}

func newResourceDeleteCommand(c *cli) *cobra.Command {
	var f resourceFlags
	var yes, noWait bool
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Delete a resource; its identity and secret die with it",
		Example: "  sallyport resource delete -g sallyport -n ws --type Microsoft.MachineLearningServices/workspaces --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.resourceID(f)
			if err != nil {
				return err
			}
			return c.delete(cmd.Context(), deletion{
				what: "resource " + id.Name(), id: id, yes: yes, noWait: noWait,
				remove: (*client.Client).DeleteResource,
			})
		},
	}
	f.add(cmd)
	addDeleteFlags(cmd, &yes, &noWait)
	return cmd
}
