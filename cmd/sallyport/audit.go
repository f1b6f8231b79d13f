package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newAuditCommand(c *cli) *cobra.Command {
	return newGroup("audit", "The record of who did what", newAuditTailCommand(c))
}

const (
	defaultTail = 20
	mostTail    = 10000
)

// tailing is what `audit tail` is told.
type tailing struct {
	cluster, binding string
	refused, follow  bool
	since            time.Duration
	last             int
}

func newAuditTailCommand(c *cli) *cobra.Command {
	var t tailing
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the newest requests and consents, and with -f those that come",
		Long: `Shows the newest requests to your clusters, and the writes of consent, one line
each. DECISION is allowed, REFUSED (the reason stands at the end of the line) or
cut, for a live request that was ended when its consent was. STATUS is what the
cluster answered; a request that goes on has none yet.

With -o json each line is one record, as it stands in the audit log: a request
that was allowed has two, its decision and its completion. ID is the same in the
cluster's own audit log.`,
		Example: `  sallyport audit tail
  sallyport audit tail -f --cluster-name prod
  sallyport audit tail --refused --since 1h
  sallyport audit tail -n 1000 --binding ml -o json | jq -r .source | sort | uniq -c`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.since > 0 && !cmd.Flags().Changed("last") {
				t.last = mostTail
			}
			return c.tailAudit(cmd.Context(), t)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&t.last, "last", "n", defaultTail, "how many of the newest requests to begin with; with --since all of them")
	f.BoolVarP(&t.follow, "follow", "f", false, "go on with the requests that come")
	f.StringVar(&t.cluster, "cluster-name", "", "only of this cluster")
	f.StringVar(&t.binding, "binding", "", "only of this role binding")
	f.BoolVar(&t.refused, "refused", false, "only what was refused, here or by the cluster, or cut off")
	f.DurationVar(&t.since, "since", 0, "only of this last while, such as 1h")
	return cmd
}

func (c *cli) tailAudit(ctx context.Context, t tailing) error {
	if t.last < 0 || t.last > mostTail {
		return usagef("--last %d must be 0 to %d", t.last, mostTail)
	}
	if t.since < 0 {
		return usagef("--since %s must be a time that has passed, such as 1h", t.since)
	}
	q := client.AuditQuery{Binding: t.binding, Refused: t.refused, Last: t.last, Follow: t.follow}
	if t.since > 0 {
		q.Since = time.Now().Add(-t.since)
	}
	subscription, err := c.subscriptionID()
	if err == nil && t.cluster != "" {
		q.Cluster, err = c.clusterID(t.cluster)
	}
	if err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	read := func(ctx context.Context) iter.Seq2[client.AuditRecord, error] {
		return api.AuditRecords(ctx, subscription, q)
	}
	switch {
	case c.format != formatTable:
		err = c.printRecords(read(ctx))
	case t.follow:
		err = c.followEvents(ctx, read, t.cluster == "")
	default:
		err = c.printEvents(read(ctx), t.cluster == "")
	}
	if t.follow && ctx.Err() != nil {
		return nil // the user has seen enough
	}
	return err
}

// printRecords writes each record as it came.
func (c *cli) printRecords(records iter.Seq2[client.AuditRecord, error]) error {
	for r, err := range records {
		if err != nil {
			return err
		}
		if err := c.printLine(r.Raw); err != nil {
			return err
		}
	}
	return nil
}

// printLine writes one of many bodies: a line of JSON, or a YAML document.
func (c *cli) printLine(raw json.RawMessage) error {
	if c.format == formatID {
		return c.printIDs(raw)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	line := append(asciiJSON(compact.Bytes()), '\n')
	if c.format == formatYAML {
		text, err := yaml.JSONToYAML(line)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		line = append([]byte("---\n"), text...)
	}
	_, err := c.stdout.Write(line)
	return err
}

// asciiJSON escapes what is not ASCII, which JSON has in strings only: some of it
// steers terminals or turns a line around.
func asciiJSON(raw json.RawMessage) []byte {
	var out bytes.Buffer
	for _, r := range string(raw) {
		switch {
		case r < 0x7f:
			out.WriteByte(byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// event is what the records of one request say together.
type event struct {
	client.AuditRecord
	ended bool
}

// add takes one more record of the same request.
func (e *event) add(r client.AuditRecord) {
	begun := e.Time
	if e.ID == "" || r.Stage != "complete" {
		e.AuditRecord = r
	} else {
		e.Status, e.Bytes, e.Duration, e.Reason = r.Status, r.Bytes, r.Duration, r.Reason
	}
	if !begun.IsZero() {
		e.Time = begun
	}
	e.ended = e.ended || r.Stage == "complete"
}

// verdict is the word for what became of it.
func (e *event) verdict() string {
	switch {
	case e.ended && e.Reason != "" && e.Status >= 400: // by the gateway or the agent, after the decision
		return "REFUSED"
	case e.Stage == "revoked", e.ended && e.Reason != "" && e.Reason != context.Canceled.Error():
		return "cut"
	case e.Allowed != nil && !*e.Allowed:
		return "REFUSED"
	case e.Allowed != nil || e.ended:
		return "allowed"
	}
	return e.Stage
}

func eventHeading(withCluster bool) []string {
	row := []string{"TIME", "DECISION", "WHO", "CLUSTER", "VERB", "RESOURCE", "OBJECT", "STATUS", "DURATION", "ID", "REASON"}
	return withoutCluster(row, withCluster)
}

func withoutCluster(row []string, withCluster bool) []string {
	if withCluster {
		return row
	}
	return append(row[:3], row[4:]...)
}

// row shows an event. Clients chose much of it, so each cell is plain and of
// bounded width.
func (e *event) row(withCluster bool) []string {
	verb, resource, object := e.deed()
	verdict, status, took, reason := e.verdict(), "", "", ""
	if e.Status != 0 {
		status = strconv.Itoa(e.Status)
	}
	if e.ended {
		took = shortDuration(e.Duration)
	}
	if verdict != "allowed" {
		reason = access.Message(fmt.Errorf("%s", e.Reason))
	}
	if e.Cut > 0 {
		object = fmt.Sprintf("%d live", e.Cut)
	}
	row := []string{
		e.Time.UTC().Format(time.RFC3339), verdict, plain(e.who(), 24), plain(lastSegment(e.Cluster), 24), plain(verb, 16),
		plain(resource, 40), plain(object, 48), status, took, plain(e.ID, 36), plain(reason, 300),
	}
	for i := range row[:len(row)-1] {
		row[i] = cmp.Or(row[i], "-")
	}
	return withoutCluster(row, withCluster)
}

// who is the source's name, or else the beginning of the caller's object id, or
// else where he called from.
func (e *event) who() string {
	if e.Source != "" {
		return lastSegment(e.Source)
	}
	if id, _, _ := strings.Cut(e.ObjectID, "-"); id != "" {
		return "object " + id
	}
	return e.Remote
}

// deed is the verb, the resource and the object's name.
func (e *event) deed() (verb, resource, object string) {
	if e.Action != "" { // such as Microsoft.ContainerService/managedClusters/write
		parts := strings.Split(e.Action, "/")
		if n := len(parts); n > 2 && parts[n-1] == "action" {
			parts = parts[:n-1] // the one before it says which
		}
		verb, parts = parts[len(parts)-1], parts[:len(parts)-1]
		if len(parts) > 0 {
			resource = parts[len(parts)-1]
		}
		return verb, resource, cmp.Or(e.Binding, lastSegment(e.Cluster), lastSegment(e.Path))
	}
	if verb = cmp.Or(e.Verb, strings.ToLower(e.Method)); e.Resource == "" {
		return verb, cmp.Or(e.Path, "-"), ""
	}
	resource = e.Resource
	if e.APIGroup != "" {
		resource += "." + e.APIGroup
	}
	if e.Subresource != "" {
		resource += "/" + e.Subresource
	}
	object = e.Name
	if e.Namespace != "" {
		object = e.Namespace + "/" + cmp.Or(e.Name, "*")
	}
	return verb, resource, object
}

func lastSegment(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

func shortDuration(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// plain writes a text that somebody else chose in printable ASCII, so that it
// can neither steer a terminal nor break columns.
func plain(s string, most int) string {
	quoted := strconv.QuoteToASCII(access.Clip(s, 4*most))
	s = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return s
}

// printEvents folds the records of each request into one line.
func (c *cli) printEvents(records iter.Seq2[client.AuditRecord, error], withCluster bool) error {
	var events []*event
	byID := map[string]*event{}
	for r, err := range records {
		if err != nil {
			return err
		}
		if byID[r.ID] == nil {
			byID[r.ID] = &event{}
			events = append(events, byID[r.ID])
		}
		byID[r.ID].add(r)
	}
	if len(events) == 0 {
		c.notef("no records")
		return nil
	}
	rows := [][]string{eventHeading(withCluster)}
	for _, e := range events {
		rows = append(rows, e.row(withCluster))
	}
	return table(c.stdout, rows)
}

// follower prints a line for each request when it ends, one before for those
// that take longer than holdFor, and everything else at once.
type follower struct {
	c           *cli
	withCluster bool
	lines       columns
	held        map[string]heldEvent // by id: decisions that wait for their completion
}

type heldEvent struct {
	*event
	since time.Time
}

// holdFor is how long a decision waits for its completion, to make one line.
const holdFor = time.Second

func (c *cli) followEvents(ctx context.Context, read func(context.Context) iter.Seq2[client.AuditRecord, error], withCluster bool) error {
	type item struct {
		record client.AuditRecord
		err    error
	}
	items := make(chan item)
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		defer close(items)
		for r, err := range read(ctx) {
			select {
			case items <- item{r, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	f := follower{c: c, withCluster: withCluster, held: map[string]heldEvent{}, lines: columns{20, 8, 16, 12, 8, 20, 28, 6, 8, 36}}
	if !withCluster {
		f.lines = slices.Delete(f.lines, 3, 4)
	}
	if err := f.lines.print(c, eventHeading(withCluster)); err != nil {
		return err
	}
	tick := time.NewTicker(holdFor / 4)
	defer tick.Stop()
	for {
		var err error
		select {
		case i, ok := <-items:
			if !ok || i.err != nil {
				return i.err
			}
			err = f.take(i.record)
		case <-tick.C:
			err = f.release(time.Now().Add(-holdFor))
		}
		if err != nil {
			return err
		}
	}
}

// take prints what a record completes, or holds it.
func (f *follower) take(r client.AuditRecord) error {
	e := f.held[r.ID].event
	if e == nil {
		e = &event{}
	}
	e.add(r)
	delete(f.held, r.ID)
	if e.Stage == "decision" && !e.ended && e.verdict() == "allowed" {
		f.held[r.ID] = heldEvent{e, time.Now()}
		return nil
	}
	return f.lines.print(f.c, e.row(f.withCluster))
}

// release prints the requests that go on since a time.
func (f *follower) release(since time.Time) error {
	var late []*event
	for id, e := range f.held {
		if !e.since.After(since) {
			late = append(late, e.event)
			delete(f.held, id)
		}
	}
	slices.SortFunc(late, func(a, b *event) int { return a.Time.Compare(b.Time) })
	for _, e := range late {
		if err := f.lines.print(f.c, e.row(f.withCluster)); err != nil {
			return err
		}
	}
	return nil
}

// columns are the widths of columns that are printed row by row, and only
// widen.
type columns []int

func (l columns) print(c *cli, row []string) error {
	var line strings.Builder
	for i, cell := range row {
		if i < len(l) {
			l[i] = max(l[i], len(cell))
			cell += strings.Repeat(" ", l[i]-len(cell)+3)
		}
		line.WriteString(cell)
	}
	_, err := fmt.Fprintln(c.stdout, strings.TrimRight(line.String(), " "))
	return err
}
