package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newRoleBindingCommand(c *cli) *cobra.Command {
	return newGroup("rolebinding", "Consent: which source may act in a cluster, with which roles",
		newRoleBindingCreateCommand(c),
		newRoleBindingUpdateCommand(c),
		newRoleBindingShowCommand(c),
		newRoleBindingListCommand(c),
		newRoleBindingDeleteCommand(c),
	)
}

// bindingFlags are those of 'az aks trustedaccess rolebinding'
// (spec/trusted-access.md 4.1), and --no-wait.
type bindingFlags struct {
	cluster, name, source, roles string
	role                         string // of the draft form; see addDraft
	noWait, yes                  bool
	expiresIn                    time.Duration
}

func (f *bindingFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cluster, "cluster-name", "", "cluster name (required)")
	cmd.Flags().StringVarP(&f.name, "name", "n", "", "binding name, 1 to 24 letters, digits and dashes (required)")
	mustRequire(cmd, "cluster-name", "name")
}

func (f *bindingFlags) addRoles(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.roles, "roles", "r", "", "roles by qualified or short names, separated by commas (required); blanks around them are dropped")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "return when the request is accepted, before the role is in force")
}

// bindingID checks both names.
func (c *cli) bindingID(f bindingFlags) (access.ResourceID, error) {
	cluster, err := c.clusterID(f.cluster)
	if err != nil {
		return access.ResourceID{}, err
	}
	id, err := client.BindingID(cluster, f.name)
	if err != nil && len(f.name) > 24 {
		return id, withHint(asUsage(err), "Trusted Access limits names to 24 characters; %q would do", strings.TrimRight(f.name[:24], "-"))
	}
	return id, asUsage(err)
}

func newRoleBindingCreateCommand(c *cli) *cobra.Command {
	var f bindingFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Consent that a source acts in a cluster, and wait until it can",
		Example: `  sallyport rolebinding create -g sallyport --cluster-name prod -n ml \
    -s /subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W \
    -r Microsoft.MachineLearningServices/workspaces/mlworkload
  sallyport rolebinding create --cluster-name prod -n fix -s ID -r ROLE --expires-in 2h
  sallyport rolebinding create --cluster-name prod -n all --role mlworkload   # every workspace of the subscription`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.createRoleBinding(cmd.Context(), f) },
	}
	f.add(cmd)
	f.addRoles(cmd)
	cmd.Flags().DurationVar(&f.expiresIn, "expires-in", 0, "end the access after this time, such as 2h (default: it does not end)")
	cmd.Flags().StringVarP(&f.source, "source-resource-id", "s", "", "ARM id of the source (required, but for --role)")
	f.addDraft(cmd)
	return cmd
}

// addDraft adds the flags that drafts of 2022 had (spec/trusted-access.md 8):
// one role, by its short or qualified name, and the source by a longer name. In
// place of --roles they make the same binding; without a source one for all.
func (f *bindingFlags) addDraft(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.role, "role", "", "one role, by its short or qualified name, as drafts of 2022 had it; without a source, every resource of its type in the subscription may act (server with --preview-role-bindings)")
	cmd.Flags().StringVar(&f.source, "allowed-azure-resource-id-with-system-assigned-msi", "", "another name of --source-resource-id, as drafts of 2022 had it")
	cmd.MarkFlagsOneRequired("roles", "role")
	cmd.MarkFlagsMutuallyExclusive("roles", "role")
	cmd.MarkFlagsMutuallyExclusive("source-resource-id", "allowed-azure-resource-id-with-system-assigned-msi")
}

// createForAll consents to every resource of the role's type.
func (c *cli) createForAll(ctx context.Context, f bindingFlags, id access.ResourceID) error {
	if f.expiresIn != 0 {
		return withHint(usagef("--expires-in needs a source"), "create the binding, and bound it with 'sallyport expire'")
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	if _, err = api.RoleBinding(ctx, id); err == nil {
		return fmt.Errorf("binding %s exists already: %w", f.name, access.ErrConflict)
	} else if !errors.Is(err, access.ErrNotFound) {
		return err
	}
	poller, err := api.PutSubscriptionWideBinding(ctx, id, f.role)
	var refused *client.Error
	if errors.As(err, &refused) && refused.Code == client.CodeInvalidResourceType {
		return withHint(err, "consent to all resources of a type takes a server with --preview-role-bindings; name one with --source-resource-id")
	}
	if err != nil {
		return explainRefusal(err)
	}
	if !f.noWait {
		if err := c.follow(ctx, "rolebinding "+id.Name(), poller, nil); err != nil {
			return explainRefusal(err)
		}
	}
	binding, err := api.RoleBinding(ctx, id)
	if err != nil {
		return err
	}
	c.notef("every resource of the role's type in subscription %s may act with it", id.Subscription())
	return c.print(binding.Raw, bindingHeading(), bindingRow(binding))
}

func (c *cli) createRoleBinding(ctx context.Context, f bindingFlags) error {
	id, err := c.bindingID(f)
	if err != nil {
		return err
	}
	switch {
	case f.source == "" && f.role != "":
		return c.createForAll(ctx, f, id)
	case f.source == "":
		return usagef("required flag(s) \"source-resource-id\" not set")
	}
	source, err := access.ParseResourceID(f.source)
	if err != nil {
		return asUsage(fmt.Errorf("--source-resource-id: %w", err))
	}
	roles, err := c.splitRoles(cmp.Or(f.roles, f.role))
	if err != nil {
		return err
	}
	if roles, err = checkRoles(source, roles); err != nil {
		return err
	}
	if f.expiresIn < 0 {
		return usagef("--expires-in %s must be more than zero", f.expiresIn)
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	_, err = api.RoleBinding(ctx, id)
	if err == nil {
		return withHint(fmt.Errorf("TrustedAccess RoleBinding %s already existed, please use 'az aks trustedaccess rolebinding update' command to update!: %w", f.name, access.ErrConflict),
			"here that is 'sallyport rolebinding update'; it replaces the roles and keeps the source")
	}
	if !errors.Is(err, access.ErrNotFound) {
		return err
	}
	props := client.RoleBindingProperties{SourceResourceID: source, Roles: roles}
	if f.expiresIn != 0 {
		props.AccessPolicy = &client.AccessPolicyProperties{ExpiresOn: expiryIn(f.expiresIn)}
	}
	if err := c.writeRoleBinding(ctx, api, id, props, f.noWait); err != nil {
		return err
	}
	for _, other := range othersOf(ctx, api, id, source) {
		c.notef("note: binding %s names the same source; the older one speaks for it", other)
	}
	return nil
}

// othersOf names the other bindings of the same source in the same cluster. It
// is only for a note: what cannot be read is not worth an error.
func othersOf(ctx context.Context, api *client.Client, id, source access.ResourceID) []string {
	if source.IsZero() {
		return nil
	}
	all, err := api.RoleBindings(ctx, id.Parent())
	if err != nil {
		return nil
	}
	var names []string
	for _, b := range all {
		if b.Properties.SourceResourceID.Equal(source) && !b.ID.Equal(id) {
			names = append(names, b.ID.Name())
		}
	}
	return names
}

func newRoleBindingUpdateCommand(c *cli) *cobra.Command {
	var f bindingFlags
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Replace the roles of a binding; its source stays",
		Example: `  sallyport rolebinding update -g sallyport --cluster-name prod -n ml \
    -r Microsoft.MachineLearningServices/workspaces/inference-v1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.updateRoleBinding(cmd.Context(), f) },
	}
	f.add(cmd)
	f.addRoles(cmd)
	mustRequire(cmd, "roles")
	return cmd
}

func (c *cli) updateRoleBinding(ctx context.Context, f bindingFlags) error {
	id, err := c.bindingID(f)
	if err != nil {
		return err
	}
	roles, err := c.splitRoles(f.roles)
	if err != nil {
		return err
	}
	if roles, err = checkRoles(access.ResourceID{}, roles); err != nil { // the source is not known yet
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	current, err := api.RoleBinding(ctx, id)
	if errors.Is(err, access.ErrNotFound) {
		return withHint(err, "create it with 'sallyport rolebinding create'")
	}
	if err != nil {
		return err
	}
	if roles, err = checkRoles(current.Properties.SourceResourceID, roles); err != nil {
		return err
	}
	return c.writeRoleBinding(ctx, api, id, client.RoleBindingProperties{SourceResourceID: current.Properties.SourceResourceID, Roles: roles}, f.noWait)
}

// writeRoleBinding puts, waits and says how long the cluster took.
func (c *cli) writeRoleBinding(ctx context.Context, api *client.Client, id access.ResourceID, props client.RoleBindingProperties, noWait bool) error {
	binding, poller, err := api.PutRoleBinding(ctx, id, props)
	if err != nil {
		return explainRefusal(err)
	}
	if props.AccessPolicy != nil {
		if err := confirmBound(ctx, api, id, *props.AccessPolicy); err != nil {
			return err
		}
		c.notef("expires %s", props.AccessPolicy.ExpiresOn.Format(time.RFC3339))
	}
	if noWait {
		return c.print(binding.Raw, bindingHeading(), bindingRow(binding))
	}
	detail := func(ctx context.Context) string {
		s, err := api.BindingStatus(ctx, id)
		if err != nil || s.Properties.WaitingFor == "" {
			return "" // only a detail: the operation itself will tell
		}
		return ", waiting for " + s.Properties.WaitingFor
	}
	if err := c.follow(ctx, "rolebinding "+id.Name(), poller, detail); err != nil {
		return explainRefusal(err)
	}
	if binding, err = api.RoleBinding(ctx, id); err != nil {
		return err
	}
	if status, err := api.BindingStatus(ctx, id); err == nil {
		c.notef("%s", propagation(status.Properties))
	}
	return c.print(binding.Raw, bindingHeading(), bindingRow(binding))
}

// explainRefusal adds what the user can do.
func explainRefusal(err error) error {
	var e *client.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Code == client.CodeAgentNotConnected:
		return withHint(err, "the binding is stored and takes effect when the agent connects; see 'sallyport cluster show'")
	case e.Code == client.CodeRoleNotAllowed:
		return withHint(err, "install the agent again with that role among 'sallyport agent manifest --roles', or leave the role out")
	case strings.Contains(e.Message, "non-exist role"):
		return withHint(err, "'sallyport role list -l LOCATION' shows what there is")
	}
	return err
}

// propagation says in words how far a binding has got into its cluster.
func propagation(s client.BindingStatusProperties) string {
	if s.State == "InForce" {
		text := "in force in the cluster"
		if s.TookMs > 0 {
			text += fmt.Sprintf(" after %s", time.Duration(s.TookMs)*time.Millisecond)
		}
		return text + appliedText(s)
	}
	text := fmt.Sprintf("stored, not in force in the cluster (%s)", s.State)
	if s.WaitingFor != "" {
		text += ", waiting for " + s.WaitingFor
	}
	if s.Message != "" {
		text += ": " + s.Message
	}
	if s.AppliedGeneration > 0 {
		text += "; still in force is what was written before" + appliedText(s)
	}
	return text
}

// appliedText names the generation that the cluster has.
func appliedText(s client.BindingStatusProperties) string {
	if s.AppliedAt.IsZero() {
		return ""
	}
	return fmt.Sprintf(" (generation %d, since %s)", s.AppliedGeneration, s.AppliedAt.UTC().Format(time.RFC3339))
}

func bindingHeading() []string { return []string{"NAME", "STATE", "SOURCE", "ROLES"} }

func bindingRow(b client.RoleBinding) []string {
	return []string{b.ID.Name(), string(b.Properties.ProvisioningState), b.Properties.SourceResourceID.String(), strings.Join(b.Properties.Roles, ",")}
}

func newRoleBindingShowCommand(c *cli) *cobra.Command {
	var f bindingFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show a binding, what of it is in force in the cluster, and since when",
		Example: "  sallyport rolebinding show -g sallyport --cluster-name prod -n ml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.bindingID(f)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			binding, err := api.RoleBinding(cmd.Context(), id)
			if err != nil {
				return err
			}
			if c.format == formatTable {
				status, err := api.BindingStatus(cmd.Context(), id)
				if err != nil {
					return err
				}
				c.notef("%s", propagation(status.Properties))
				agent, err := api.AgentStatus(cmd.Context(), id.Parent())
				if err != nil {
					return err
				}
				c.notef("agent: %s", agentText(agent.Properties))
				if err := c.notePolicies(cmd.Context(), api, id.Parent(), id); err != nil {
					return err
				}
			}
			return c.print(binding.Raw, bindingHeading(), bindingRow(binding))
		},
	}
	f.add(cmd)
	return cmd
}

func newRoleBindingListCommand(c *cli) *cobra.Command {
	var f bindingFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List a cluster's bindings",
		Example: "  sallyport rolebinding list -g sallyport --cluster-name prod",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := c.clusterID(f.cluster)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			bindings, err := api.RoleBindings(cmd.Context(), cluster)
			if err != nil {
				return err
			}
			rows := [][]string{bindingHeading()}
			for _, b := range bindings {
				rows = append(rows, bindingRow(b))
			}
			return c.print(listBody(bindings, func(b client.RoleBinding) json.RawMessage { return b.Raw }), rows...)
		},
	}
	cmd.Flags().StringVar(&f.cluster, "cluster-name", "", "cluster name (required)")
	mustRequire(cmd, "cluster-name")
	return cmd
}

func newRoleBindingDeleteCommand(c *cli) *cobra.Command {
	var f bindingFlags
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Withdraw consent; what runs under it is cut",
		Example: "  sallyport rolebinding delete -g sallyport --cluster-name prod -n ml --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.bindingID(f)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			// The source is gone with the binding; without it there is no note.
			binding, _ := api.RoleBinding(cmd.Context(), id)
			err = c.delete(cmd.Context(), deletion{
				what: "rolebinding " + f.name, id: id, yes: f.yes, noWait: f.noWait,
				remove: (*client.Client).DeleteRoleBinding,
			})
			if err != nil {
				return err
			}
			for _, other := range othersOf(cmd.Context(), api, id, binding.Properties.SourceResourceID) {
				c.notef("note: binding %s still names the same source", other)
			}
			return nil
		},
	}
	f.add(cmd)
	addDeleteFlags(cmd, &f.yes, &f.noWait)
	return cmd
}
