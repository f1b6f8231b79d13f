package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// policyFlags name what a policy bounds: a cluster, or one of its bindings.
type policyFlags struct{ cluster, binding string }

func (f *policyFlags) add(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.Flags().StringVar(&f.cluster, "cluster-name", "", "cluster name (required)")
	cmd.Flags().StringVarP(&f.binding, "name", "n", "", "binding name (default: the whole cluster)")
	mustRequire(cmd, "cluster-name")
}

func (c *cli) policyTarget(f policyFlags) (access.ResourceID, error) {
	if f.binding == "" {
		return c.clusterID(f.cluster)
	}
	return c.bindingID(bindingFlags{cluster: f.cluster, name: f.binding})
}

func newLockCommand(c *cli) *cobra.Command {
	var f policyFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Shut a cluster, or one binding, at once; the consent stays",
		Long: `Locks a cluster, or with -n one of its bindings. When the command returns, the
gateway refuses every request under it and has cut those that were live. The
agent in the cluster does the same as soon as its feed tells it. Roles and
consent stay as they are, so 'sallyport unlock' brings all of it back.`,
		Example: `  sallyport lock --cluster-name prod --reason "incident 4711"
  sallyport lock --cluster-name prod -n ml --reason "key may have leaked"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := c.policyTarget(f)
			if err != nil {
				return err
			}
			if err := access.CheckPolicy(access.Policy{Locked: true, LockReason: reason}); err != nil {
				return asUsage(err)
			}
			return c.changePolicy(cmd.Context(), target, func(p *client.AccessPolicyProperties) { p.Locked, p.LockReason = true, reason })
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, in one line; told to everybody who is refused")
	return cmd
}

func newUnlockCommand(c *cli) *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Take back 'sallyport lock'; an expiry and source ranges stay",
		Example: `  sallyport unlock --cluster-name prod
  sallyport unlock --cluster-name prod -n ml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := c.policyTarget(f)
			if err != nil {
				return err
			}
			return c.changePolicy(cmd.Context(), target, func(p *client.AccessPolicyProperties) { p.Locked, p.LockReason = false, "" })
		},
	}
	f.add(cmd)
	return cmd
}

func newExpireCommand(c *cli) *cobra.Command {
	var f policyFlags
	var in time.Duration
	var at string
	var never bool
	cmd := &cobra.Command{
		Use:   "expire",
		Short: "Say when access to a cluster, or by one binding, ends",
		Long: `Sets the moment at which access to a cluster, or with -n by one of its bindings,
ends. At that moment the gateway refuses, and cuts what is live; nobody needs to
be there. The earlier of a cluster's and a binding's expiry holds. To create a
binding that never exists without its end: rolebinding create --expires-in.`,
		Example: `  sallyport expire --cluster-name prod -n ml --in 2h
  sallyport expire --cluster-name prod -n ml --at 2026-12-24T18:00:00Z
  sallyport expire --cluster-name prod -n ml --never`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := c.policyTarget(f)
			if err != nil {
				return err
			}
			var end time.Time
			switch {
			case never:
			case at != "":
				if end, err = time.Parse(time.RFC3339, at); err != nil {
					return usagef("--at %q must be a time with its zone, such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00", at)
				}
				if !end.After(time.Now()) {
					c.notef("note: %s is over, so access ends now", at)
				}
			case in > 0:
				end = expiryIn(in)
			default:
				return usagef("--in %s must be more than zero; to shut the door now, use 'sallyport lock'", in)
			}
			if err := access.CheckPolicy(access.Policy{ExpiresOn: end}); err != nil {
				return asUsage(err)
			}
			return c.changePolicy(cmd.Context(), target, func(p *client.AccessPolicyProperties) { p.ExpiresOn = end })
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&in, "in", 0, "from now, such as 30m or 2h")
	cmd.Flags().StringVar(&at, "at", "", "at this time (RFC 3339)")
	cmd.Flags().BoolVar(&never, "never", false, "not at all")
	cmd.MarkFlagsMutuallyExclusive("in", "at", "never")
	cmd.MarkFlagsOneRequired("in", "at", "never")
	return cmd
}

func newRestrictCommand(c *cli) *cobra.Command {
	var f policyFlags
	var ranges []string
	var anywhere bool
	cmd := &cobra.Command{
		Use:   "restrict",
		Short: "Say from which addresses a cluster, or one binding, may be used",
		Long: `Sets the addresses from which requests to a cluster, or with -n under one of its
bindings, may come: CIDR ranges, single addresses, or names of Azure service
tags. An address must be in the ranges of both levels, where both have some.
Leaving out a range cuts what is live; whoever is still allowed comes back.`,
		Example: `  sallyport restrict --cluster-name prod --allow-from 10.0.0.0/8,2001:db8::/32
  sallyport restrict --cluster-name prod -n ml --allow-from AzureMachineLearning.WestEurope
  sallyport restrict --cluster-name prod --anywhere`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			target, err := c.policyTarget(f)
			if err != nil {
				return err
			}
			if len(ranges) == 0 && !anywhere {
				return usagef("--allow-from names no range; to allow all addresses, use --anywhere")
			}
			if err := access.CheckPolicy(access.Policy{AllowedSourceRanges: ranges}); err != nil {
				return asUsage(err)
			}
			return c.changePolicy(cmd.Context(), target, func(p *client.AccessPolicyProperties) { p.AllowedSourceRanges = ranges })
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&ranges, "allow-from", nil, "CIDR ranges, addresses or service tags, separated by commas")
	cmd.Flags().BoolVar(&anywhere, "anywhere", false, "allow all addresses again")
	cmd.MarkFlagsMutuallyExclusive("allow-from", "anywhere")
	cmd.MarkFlagsOneRequired("allow-from", "anywhere")
	return cmd
}

// expiryIn is a time from now, in whole seconds.
func expiryIn(in time.Duration) time.Time {
	return time.Now().Add(in + time.Second - 1).UTC().Truncate(time.Second)
}

// changePolicy changes one part of a policy and keeps the others, also when
// somebody else changes them at the same time.
func (c *cli) changePolicy(ctx context.Context, target access.ResourceID, change func(*client.AccessPolicyProperties)) error {
	const attempts = 8
	api, err := c.connect()
	if err != nil {
		return err
	}
	var written client.AccessPolicy
	for range attempts {
		policy, err := api.AccessPolicy(ctx, target)
		if err != nil && !errors.Is(err, access.ErrNotFound) {
			return err
		}
		change(&policy.Properties)
		written, err = api.PutAccessPolicy(ctx, target, policy.Properties, policy.ETag)
		if err == nil {
			break
		}
		if !errors.Is(err, access.ErrConflict) {
			return err
		}
	}
	if written.ETag == "" {
		return fmt.Errorf("the access policy of %s is being changed by others again and again; nothing was changed here: %w", target.Name(), access.ErrConflict)
	}
	if target.IsType(access.BindingType) && written.Properties.Locked {
		c.noteOthers(ctx, api, target)
	}
	return c.print(written.Raw, policyHeading(), policyRow(target, written.Properties))
}

// noteOthers says which bindings still let the same source in.
func (c *cli) noteOthers(ctx context.Context, api *client.Client, id access.ResourceID) {
	binding, err := api.RoleBinding(ctx, id)
	if err != nil {
		return // only a note
	}
	for _, other := range othersOf(ctx, api, id, binding.Properties.SourceResourceID) {
		c.notef("note: binding %s names the same source and speaks for it now; to shut all of them, lock the cluster", other)
	}
}

func policyHeading() []string {
	return []string{"NAME", "LOCKED", "REASON", "EXPIRES", "ALLOWED FROM"}
}

func policyRow(target access.ResourceID, p client.AccessPolicyProperties) []string {
	locked, expires, from := "no", "never", "anywhere"
	if p.Locked {
		locked = "LOCKED"
	}
	if !p.ExpiresOn.IsZero() {
		expires = p.ExpiresOn.UTC().Format(time.RFC3339)
	}
	if len(p.AllowedSourceRanges) > 0 {
		from = strings.Join(p.AllowedSourceRanges, ",")
	}
	return []string{target.Name(), locked, p.LockReason, expires, from}
}

// notePolicies says what bounds access at each of the levels.
func (c *cli) notePolicies(ctx context.Context, api *client.Client, levels ...access.ResourceID) error {
	for _, id := range levels {
		policy, err := api.AccessPolicy(ctx, id)
		if errors.Is(err, access.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		what := "cluster " + id.Name()
		if id.IsType(access.BindingType) {
			what = "binding " + id.Name()
		}
		for _, line := range policyLines(what, policy.Properties, time.Now()) {
			c.notef("%s", line)
		}
	}
	return nil
}

func policyLines(what string, p client.AccessPolicyProperties, now time.Time) (lines []string) {
	if p.Locked {
		line := what + " is LOCKED"
		if p.LockReason != "" {
			line += ": " + p.LockReason
		}
		lines = append(lines, line)
	}
	if at := p.ExpiresOn; !at.IsZero() {
		word := "expires"
		if !now.Before(at) {
			word = "EXPIRED"
		}
		lines = append(lines, fmt.Sprintf("access to %s %s %s", what, word, at.UTC().Format(time.RFC3339)))
	}
	if len(p.AllowedSourceRanges) > 0 {
		lines = append(lines, what+" may be used from "+strings.Join(p.AllowedSourceRanges, ", "))
	}
	return lines
}

// confirmBound makes sure that a binding which was created with a policy has
// it: an older server drops what it does not know. Without it the binding goes.
func confirmBound(ctx context.Context, api *client.Client, id access.ResourceID, want client.AccessPolicyProperties) error {
	policy, err := api.AccessPolicy(ctx, id)
	if err == nil && policy.Properties.ExpiresOn.Equal(want.ExpiresOn) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("binding %s has another expiry than was asked for, %s: %w", id.Name(), policy.Properties.ExpiresOn, access.ErrConflict)
	}
	if !errors.Is(err, access.ErrNotFound) {
		return fmt.Errorf("binding %s was created; whether it expires could not be learnt: %w", id.Name(), err)
	}
	if _, _, err := api.DeleteRoleBinding(ctx, id); err != nil {
		return fmt.Errorf("the server does not know access policies, so binding %s has no end, and it could not be deleted: %w", id.Name(), err)
	}
	return fmt.Errorf("the server does not know access policies: binding %s would never have expired, and was deleted again: %w", id.Name(), access.ErrUnavailable)
}
