package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
)

// question is what `explain --as` is told.
type question struct {
	cluster, source, from string
	deed                  access.Deed
}

func newExplainCommand(c *cli) *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "explain [ID]",
		Short: "Say why a request was refused or allowed, or what would become of one",
		Long: `With the id of a request, as every refusal names it: says what the audit log has
of it, and what would help.

With --as: says what would become of a source's request, step by step, from the
code that decides and from the cluster's own answer to the binding's user. The
source does nothing, and nothing in the cluster is read or changed. The exit
code is 0 if it would be allowed, and 4 if not.

The cluster answers for the user. Of a cluster whose agent was installed with
--impersonation constrained, a yes for rights that the user was given beside the
binding's roles is one for the user alone: the agent's proxy may not use them.

--resource may be written as kubectl does: deployments.apps, pods/exec. Without
--namespace it is about all of them.`,
		Example: `  sallyport explain 7d6a1c0e-3f0b-4c59-9a53-0f3d7d3b9a11
  sallyport explain --cluster-name prod --as $WORKSPACE --verb list --resource pods
  sallyport explain --cluster-name prod --as $WORKSPACE --verb create --resource pods/exec --namespace ns --name web
  sallyport explain --cluster-name prod --as $WORKSPACE --verb get --path /metrics --from 203.0.113.7`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (q.source != "") {
				return usagef("give either the ID of a request, or --as and what it would do")
			}
			if len(args) == 1 {
				return c.explainRequest(cmd.Context(), args[0])
			}
			return c.explainQuestion(cmd.Context(), q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.cluster, "cluster-name", "", "the cluster")
	f.StringVar(&q.source, "as", "", "the source, by its resource id")
	f.StringVar(&q.deed.Verb, "verb", "", "get, list, watch, create, update, patch, delete, ...")
	f.StringVar(&q.deed.Resource, "resource", "", "such as pods, pods/exec or deployments.apps")
	f.StringVar(&q.deed.APIGroup, "group", "", "the resource's API group; none for the core's")
	f.StringVar(&q.deed.Subresource, "subresource", "", "such as exec")
	f.StringVar(&q.deed.Namespace, "namespace", "", "namespace (default: all)")
	f.StringVar(&q.deed.Name, "name", "", "name of the object (default: all)")
	f.StringVar(&q.deed.Path, "path", "", "a path that is no resource, such as /metrics")
	f.StringVar(&q.from, "from", "", "the address that the source would call from")
	cmd.MarkFlagsMutuallyExclusive("resource", "path")
	cmd.MarkFlagsRequiredTogether("as", "cluster-name", "verb")
	return cmd
}

// read turns what the user wrote into a question.
func (q question) read() (access.Question, error) {
	ask := access.Question{Deed: q.deed}
	var err error
	if ask.Source, err = access.ParseResourceID(q.source); err != nil {
		return ask, err
	}
	d := &ask.Deed
	if resource, sub, ok := strings.Cut(d.Resource, "/"); ok && d.Subresource == "" {
		d.Resource, d.Subresource = resource, sub
	}
	if resource, group, ok := strings.Cut(d.Resource, "."); ok && d.APIGroup == "" {
		d.Resource, d.APIGroup = resource, group
	}
	if q.from != "" {
		if ask.From, err = netip.ParseAddr(q.from); err != nil {
			return ask, fmt.Errorf("--from %q is not an IP address", q.from)
		}
	}
	return ask, access.CheckDeed(ask.Deed)
}

func (c *cli) explainQuestion(ctx context.Context, q question) error {
	ask, err := q.read()
	if err != nil {
		return asUsage(err)
	}
	cluster, err := c.clusterID(q.cluster)
	if err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	e, err := api.Explain(ctx, cluster, ask)
	if err != nil {
		return err
	}
	rows := [][]string{{"STEP", "OUTCOME", "WHY"}}
	for _, s := range e.Steps {
		rows = append(rows, []string{s.Name, strings.ToUpper(s.Outcome), s.Why})
	}
	if err := c.print(e.Raw, rows...); err != nil {
		return err
	}
	what := fmt.Sprintf("%s in cluster %s", e.Deed, cluster.Name())
	if e.Allowed {
		c.notef("\n%s may %s, by binding %s.", ask.Source.Name(), what, e.Binding)
		return nil
	}
	last := access.Step{}
	if len(e.Steps) > 0 {
		last = e.Steps[len(e.Steps)-1]
	}
	if last.Outcome == access.Failure {
		return fmt.Errorf("%s: %w", last.Why, access.ErrUnavailable)
	}
	a := advice{cluster: cluster, source: ask.Source, deed: e.Deed, binding: e.Binding, roles: e.Roles, better: e.RolesThatAllow, reason: last.Why, byCluster: last.Name == "cluster"}
	return withHint(fmt.Errorf("%s may not %s: %w", ask.Source.Name(), what, access.ErrForbidden), "%s", a.hint())
}

// advice is what is known of a refusal, to say what would help.
type advice struct {
	cluster, source access.ResourceID
	deed            access.Deed
	binding         string
	roles, better   []string // those of the binding; those that would allow the deed
	reason          string
	byCluster       bool // the cluster refused, not the gateway
}

// hint says what would help. What the gateway refused is told apart by the
// beginnings and ends of its own words, which tests hold together.
func (a advice) hint() string {
	says := func(words string) bool { return strings.Contains(a.reason, words) }
	at := func(verb string) string {
		text := "sallyport " + verb + " -g " + shellQuote(a.cluster.ResourceGroup()) + " --cluster-name " + shellQuote(a.cluster.Name())
		if _, rest, ok := strings.Cut(a.reason, `binding "`); ok && verb != "rolebinding create" {
			name, _, _ := strings.Cut(rest, `"`)
			text += " -n " + shellQuote(name)
		}
		return text
	}
	switch {
	case a.byCluster:
		return a.roleHint()
	case says("no trusted access role binding"), says("must consent again"):
		role := "ROLE"
		if len(a.better) > 0 {
			role = a.better[0]
		}
		text := at("rolebinding create") + " -n NAME -s " + shellQuote(a.source.String()) + " -r " + shellQuote(role)
		if len(a.better) == 0 {
			text += "; no role that this source may have allows it"
		}
		return text
	case says(" is locked"):
		return at("unlock")
	case says(" expired on "):
		return at("expire") + " --in 2h"
	case says("is not in the source ranges"):
		return "the ranges are those of " + at("restrict") + "; with --from an explanation is about that address"
	case says("no agent of cluster"), says("has not put it in force"):
		return "sallyport cluster show -g " + shellQuote(a.cluster.ResourceGroup()) + " -n " + shellQuote(a.cluster.Name()) + " says whether the agent is connected"
	case says("is not registered here"):
		return "sallyport cluster list"
	}
	return "the reason above names what was wrong with the request; nothing here has to be changed"
}

// roleHint names the roles that would allow what the cluster's RBAC does not.
func (a advice) roleHint() string {
	for _, has := range a.roles {
		for _, role := range a.better {
			if strings.EqualFold(has, role) {
				return fmt.Sprintf("the binding's role %s should allow it: see whether the cluster has it in force, with 'sallyport rolebinding show --cluster-name %s -n %s'", role, shellQuote(a.cluster.Name()), shellQuote(a.binding))
			}
		}
	}
	if len(a.better) == 0 {
		return fmt.Sprintf("no role that this source may have allows it; in the cluster, its owner can grant more to the user of binding %q (which an agent of --impersonation constrained does not use)", a.binding)
	}
	roles := append(append([]string{}, a.roles...), a.better[0])
	return fmt.Sprintf("roles that would allow it: %s\nhint: sallyport rolebinding update -g %s --cluster-name %s -n %s -r %s", strings.Join(a.better, ", "),
		shellQuote(a.cluster.ResourceGroup()), shellQuote(a.cluster.Name()), shellQuote(a.binding), shellQuote(strings.Join(roles, ",")))
}

// explainRequest says what the audit log has of a request.
func (c *cli) explainRequest(ctx context.Context, id string) error {
	if !access.IsGUID(id) {
		return usagef("request id %q must be a GUID, as refusals and 'sallyport audit tail' give it", access.Clip(id, 100))
	}
	subscription, err := c.subscriptionID()
	if err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	found, err := api.AuditRecord(ctx, subscription, id)
	if err != nil {
		return err
	}
	if c.format != formatTable {
		return c.print(asciiJSON(found.Raw))
	}
	var e event
	for _, r := range found.Records {
		e.add(r)
	}
	fmt.Fprintln(c.stdout, strings.Join(e.story(), "\n"))
	if hint := e.advise(); hint != "" {
		fmt.Fprintln(c.stdout, "hint: "+printable(hint))
	}
	return nil
}

// story tells an event in sentences.
func (e *event) story() []string {
	who := "Somebody without an identity"
	switch {
	case e.Source != "":
		who = "The source " + plain(e.Source, 400)
	case e.ObjectID != "":
		who = "Object " + plain(e.ObjectID, 64) + " of tenant " + plain(e.TenantID, 64)
	}
	if e.Remote != "" {
		who += ", from " + plain(e.Remote, 64) + ","
	}
	at := e.Time.UTC().Format(time.RFC3339) + ": "
	switch e.Stage {
	case "revoked":
		return []string{fmt.Sprintf("%s%d live requests of binding uid %s were cut: %s.", at, e.Cut, plain(e.BindingUID, 64), plain(e.Reason, 400))}
	case "consent":
		return []string{at + fmt.Sprintf("%s asked for %s of %s.", who, plain(e.Action, 300), plain(e.Path, 400)), e.decisionText()}
	}
	what := plain(e.Method+" "+e.Path, 600)
	if e.Verb != "" {
		deed := e.deedOf()
		what = plain(deed.String(), 600)
		if deed.Path == "" {
			what += " (" + plain(e.Method+" "+e.Path, 600) + ")"
		}
	}
	story := []string{at + fmt.Sprintf("%s asked cluster %s to %s.", who, plain(lastSegment(e.Cluster), 100), what), e.decisionText()}
	return append(story, e.endText()...)
}

func (e *event) decisionText() string {
	reason := access.Message(fmt.Errorf("%s", e.Reason))
	switch {
	case e.Allowed != nil && !*e.Allowed:
		return "Sallyport REFUSED it: " + plain(reason, 1000) + "."
	case e.Binding != "" && e.Stage != "consent":
		return fmt.Sprintf("It was allowed by binding %s (uid %s), with %s.", plain(e.Binding, 64), plain(e.BindingUID, 64), plain(strings.Join(e.Roles, ", "), 600))
	}
	return "It was allowed."
}

func (e *event) endText() []string {
	switch {
	case e.Allowed != nil && !*e.Allowed:
		return nil
	case !e.ended:
		return []string{"It goes on, or the server was stopped before it ended."}
	case e.verdict() == "REFUSED":
		return []string{fmt.Sprintf("Then Sallyport REFUSED it, with status %d after %s: %s.", e.Status, shortDuration(e.Duration), plain(access.Message(fmt.Errorf("%s", e.Reason)), 1000))}
	case e.verdict() == "cut":
		return []string{fmt.Sprintf("It was cut after %s: %s.", shortDuration(e.Duration), plain(access.Message(fmt.Errorf("%s", e.Reason)), 1000))}
	}
	text := fmt.Sprintf("The answer was %d, after %s and with %d bytes.", e.Status, shortDuration(e.Duration), e.Bytes)
	if e.Status == 403 {
		text = fmt.Sprintf("The cluster REFUSED it: status 403, after %s.", shortDuration(e.Duration))
	}
	return []string{text}
}

func (e *event) deedOf() access.Deed {
	d := access.Deed{Verb: e.Verb, APIGroup: e.APIGroup, Resource: e.Resource, Subresource: e.Subresource, Namespace: e.Namespace, Name: e.Name}
	if d.Resource == "" {
		d.Path = e.Path
	}
	return d
}

// advise is the hint for a request that was refused, "" for any other.
func (e *event) advise() string {
	refused := e.verdict() == "REFUSED"
	if e.Stage != "decision" || !refused && (e.Status != 403 || e.verdict() != "allowed") {
		return ""
	}
	if refused && e.Source == "" {
		return "the reason is in the token or the address of the caller, or in the request itself; nothing here has to be changed"
	}
	a := advice{deed: e.deedOf(), binding: e.Binding, roles: e.Roles, reason: e.Reason, byCluster: !refused}
	var err error
	if a.cluster, err = access.ParseResourceID(e.Cluster); err != nil {
		return ""
	}
	if a.source, err = access.ParseResourceID(e.Source); err != nil {
		return ""
	}
	catalogue, err := access.Catalogue()
	if err != nil {
		return ""
	}
	a.better = access.RolesThatAllow(catalogue, a.source, a.deed)
	return a.hint()
}
