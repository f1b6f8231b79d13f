package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newRoleCommand(c *cli) *cobra.Command {
	return newGroup("role", "Roles that bindings can give", newRoleListCommand(c))
}

func newRoleListCommand(c *cli) *cobra.Command {
	var location string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the roles of a location, by the names that bindings take",
		Example: `  sallyport role list -l eastus
  sallyport role list -l eastus -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			subscription, err := c.subscriptionID()
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			roles, err := api.Roles(cmd.Context(), subscription, location)
			if err != nil {
				return err
			}
			rows := [][]string{{"ROLE", "RULES", "VERBS"}}
			for _, r := range roles {
				rows = append(rows, []string{r.QualifiedName(), fmt.Sprint(len(r.Rules)), verbs(r.Role)})
			}
			return c.print(listBody(roles, func(r client.Role) json.RawMessage { return r.Raw }), rows...)
		},
	}
	cmd.Flags().StringVarP(&location, "location", "l", "", "location, such as eastus (required)")
	mustRequire(cmd, "location")
	return cmd
}

// verbs lists the distinct verbs of a role, in order of appearance.
func verbs(r access.Role) string {
	var all []string
	seen := map[string]bool{}
	for _, rule := range r.Rules {
		for _, v := range rule.Verbs {
			if !seen[v] {
				seen[v] = true
				all = append(all, v)
			}
		}
	}
	return strings.Join(all, ",")
}

// splitRoles reads the value of --roles. Unlike az it drops blanks around the
// commas, which would become part of a name (spec/trusted-access.md 9, item
// 16), and says so.
func (c *cli) splitRoles(value string) ([]string, error) {
	var names []string
	trimmed := false
	for part := range strings.SplitSeq(value, ",") {
		name := strings.TrimSpace(part)
		trimmed = trimmed || name != part
		if name == "" {
			return nil, usagef("--roles %q has an empty name; separate names with single commas", value)
		}
		names = append(names, name)
	}
	if trimmed {
		c.notef("note: blanks around the names in --roles were dropped")
	}
	return names, nil
}

// checkRoles makes qualified names of short ones, and refuses what no server could
// accept: roles for another type of source. Whether a qualified name exists is
// for the server to say; source is zero while it is not known.
func checkRoles(source access.ResourceID, names []string) ([]string, error) {
	catalogue, err := access.Catalogue()
	if err != nil {
		return nil, err
	}
	qualified := slices.Clone(names)
	for n, name := range names {
		if !strings.Contains(name, "/") {
			if name, err = qualifiedRole(catalogue, name); err != nil {
				return nil, err
			}
			qualified[n] = name
		}
		i := strings.LastIndexByte(name, '/')
		role := access.Role{SourceResourceType: name[:i], Name: name[i+1:]}
		if source.IsZero() || role.Fits(source) {
			continue
		}
		err := usagef("role %q is offered to sources of type %q, but the source is of type %q", name, role.SourceResourceType, source.Type())
		if source.IsType("Microsoft.RecoveryServices/vaults") {
			return nil, withHint(err, "Azure Backup for Kubernetes uses a Backup vault (Microsoft.DataProtection/backupVaults), not a Recovery Services vault")
		}
		return nil, withHint(err, "roles for this source: %s", listRoles(catalogue, func(r access.Role) bool { return r.Fits(source) }))
	}
	return qualified, nil
}

// qualifiedRole is the one role of the shipped catalogue with that short name.
func qualifiedRole(catalogue []access.Role, name string) (string, error) {
	same := listRoles(catalogue, func(r access.Role) bool { return strings.EqualFold(r.Name, name) })
	switch {
	case same == "none":
		return "", withHint(usagef("there is no role %q", name), "the roles are: %s", listRoles(catalogue, func(access.Role) bool { return true }))
	case strings.Contains(same, ","):
		return "", withHint(usagef("several roles are called %q", name), "use one of %s", same)
	}
	return same, nil
}

func listRoles(catalogue []access.Role, keep func(access.Role) bool) string {
	var names []string
	for _, r := range catalogue {
		if keep(r) {
			names = append(names, r.QualifiedName())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// mustRequire marks flags that cobra demands before it runs the command.
func mustRequire(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag was not defined: a mistake in this package
		}
	}
}
