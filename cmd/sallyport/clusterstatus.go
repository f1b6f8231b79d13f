package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newClusterShowCommand(c *cli) *cobra.Command {
	var name string
	var watch bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show a cluster, its agent, and what is in force of its bindings",
		Long: `Shows a cluster, whether its agent is connected and since when, and for each
binding which generation was written, which one the cluster has in force, since when,
how long that took, and what is being waited for.

--watch goes on with a line for whatever changes: the agent, a binding, a lock or
another bound. With -o json it writes the server's whole status, one JSON object a
line, each time that something has changed. It outlives a server that restarts.`,
		Example: `  sallyport cluster show -g sallyport -n prod
  sallyport cluster show -n prod --watch
  sallyport cluster show -n prod --watch -o json`,
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
			if watch {
				return c.watchCluster(cmd.Context(), api, id)
			}
			return c.showCluster(cmd.Context(), api, id)
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "cluster name (required)")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what changes")
	mustRequire(cmd, "name")
	return cmd
}

func (c *cli) showCluster(ctx context.Context, api *client.Client, id access.ResourceID) error {
	cluster, err := api.Cluster(ctx, id)
	if err != nil {
		return err
	}
	if c.format != formatTable {
		return c.print(cluster.Raw)
	}
	status, err := api.ClusterStatus(ctx, id)
	if err != nil {
		return err
	}
	s := status.Properties
	for _, line := range policyLines("cluster "+id.Name(), s.Policy, time.Now()) {
		c.notef("%s", line)
	}
	if err := c.print(nil, append(clusterHeading(), "AGENT", "ENROLMENT"),
		append(clusterRow(cluster), agentText(s.Agent), fmt.Sprint(s.Agent.Generation))); err != nil {
		return err
	}
	if len(s.Bindings) == 0 {
		return nil
	}
	rows := [][]string{{"BINDING", "IN CLUSTER", "WRITTEN", "IN FORCE", "SINCE", "TOOK", "DETAIL"}}
	for _, b := range s.Bindings {
		rows = append(rows, bindingStatusRow(b, time.Now()))
	}
	if _, err := fmt.Fprintln(c.stdout); err != nil {
		return err
	}
	return c.print(nil, rows...)
}

// bindingStatusRow compares the generation that was written with the one that
// is in force.
func bindingStatusRow(b client.NamedBindingStatus, now time.Time) []string {
	s := b.Status
	inForce, since, took := "none", "", ""
	if s.AppliedGeneration > 0 {
		inForce, since = fmt.Sprintf("generation %d", s.AppliedGeneration), s.AppliedAt.UTC().Format(time.RFC3339)
	}
	if s.TookMs > 0 {
		took = (time.Duration(s.TookMs) * time.Millisecond).String()
	}
	return []string{b.Name, s.State, fmt.Sprintf("generation %d", s.Generation), inForce, since, took, statusDetail(b, now)}
}

// statusDetail is what is waited for or went wrong, and what bounds access.
func statusDetail(b client.NamedBindingStatus, now time.Time) string {
	var parts []string
	if b.Status.WaitingFor != "" {
		parts = append(parts, "waiting for "+b.Status.WaitingFor)
	}
	if b.Status.Message != "" {
		parts = append(parts, b.Status.Message)
	}
	return strings.Join(append(parts, policyLines("binding "+b.Name, b.Policy, now)...), "; ")
}

// agentText names the halves only when one is missing.
func agentText(p client.AgentStatusProperties) string {
	link := func(connected bool, since time.Time) string {
		switch {
		case !connected:
			return "not connected"
		case since.IsZero():
			return "connected"
		}
		return "connected since " + since.UTC().Format(time.RFC3339)
	}
	if p.Reconciler.Connected != p.Proxy.Connected {
		return "reconciler " + link(p.Reconciler.Connected, p.Reconciler.Since) + ", proxy " + link(p.Proxy.Connected, p.Proxy.Since)
	}
	return link(p.Connected, p.Since)
}

// watchEvery is how often a status that is followed is asked for.
const watchEvery = time.Second

// watchCluster prints what changes until ctx ends, or the cluster is gone.
func (c *cli) watchCluster(ctx context.Context, api *client.Client, id access.ResourceID) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	w := statusWatch{c: c, id: id, lines: columns{20, 12, 16}}
	for {
		status, err := api.ClusterStatus(ctx, id)
		if ctx.Err() != nil {
			return nil // the user has seen enough
		}
		if err := w.take(status, err); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// statusWatch prints the difference between one status and the next.
type statusWatch struct {
	c     *cli
	id    access.ResourceID
	lines columns
	begun bool
	lost  bool // the server, and that was said
	last  []statusLine
}

// statusLine is one thing that can change, in words.
type statusLine struct{ what, state, detail string }

// take prints what is new in a status. A server that is away is waited for,
// once the first answer has shown that there is one.
func (w *statusWatch) take(status client.ClusterStatus, err error) error {
	if errors.Is(err, access.ErrUnavailable) && w.begun {
		if !w.lost {
			w.c.notef("the server cannot be reached, still trying: %s", access.Message(err))
		}
		w.lost = true
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	lines := statusLines(w.id, status.Properties, now)
	changed := changedLines(w.last, lines)
	first := !w.begun
	w.last, w.begun, w.lost = lines, true, false
	if len(changed) == 0 {
		return nil
	}
	if w.c.format != formatTable {
		return w.c.printLine(status.Raw)
	}
	if first {
		if err := w.lines.print(w.c, []string{"TIME", "WHAT", "STATE", "DETAIL"}); err != nil {
			return err
		}
	}
	for _, l := range changed {
		if err := w.lines.print(w.c, []string{now.UTC().Format(time.RFC3339), printable(l.what), printable(l.state), printable(l.detail)}); err != nil {
			return err
		}
	}
	return nil
}

// statusLines says in words all that a status tells.
func statusLines(id access.ResourceID, s client.ClusterStatusProperties, now time.Time) []statusLine {
	agent := statusLine{"agent", "connected", agentText(s.Agent)}
	if !s.Agent.Connected {
		agent.state = "NotConnected"
	}
	cluster := statusLine{"cluster", "open", strings.Join(policyLines("cluster "+id.Name(), s.Policy, now), "; ")}
	if cluster.detail != "" {
		cluster.state = "bounded"
	}
	lines := []statusLine{agent, cluster}
	for _, b := range s.Bindings {
		detail := propagation(b.Status)
		if bounds := policyLines("binding "+b.Name, b.Policy, now); len(bounds) > 0 {
			detail += "; " + strings.Join(bounds, "; ")
		}
		lines = append(lines, statusLine{"binding " + b.Name, b.Status.State, detail})
	}
	return lines
}

// changedLines are the lines of now that were not there before, and those of
// bindings that are gone. A first status is all new, but for a cluster that
// nothing bounds.
func changedLines(before, now []statusLine) []statusLine {
	var changed []statusLine
	for _, l := range now {
		if !slices.Contains(before, l) && !(before == nil && l.state == "open") {
			changed = append(changed, l)
		}
	}
	for _, l := range before {
		if !slices.ContainsFunc(now, func(n statusLine) bool { return n.what == l.what }) {
			changed = append(changed, statusLine{l.what, "deleted", ""})
		}
	}
	return changed
}
