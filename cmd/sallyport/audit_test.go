package main

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
)

// auditRecords reads JSON lines as the client would.
func auditRecords(t *testing.T, lines string) func(context.Context) iter.Seq2[client.AuditRecord, error] {
	t.Helper()
	return func(context.Context) iter.Seq2[client.AuditRecord, error] {
		return func(yield func(client.AuditRecord, error) bool) {
			for line := range strings.Lines(lines) {
				var r client.AuditRecord
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				r.Raw = json.RawMessage(strings.TrimSpace(line))
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

const auditSample = `{"time":"2026-11-22T05:00:00Z","stage":"decision","id":"1","source":"/subscriptions/s/workspaces/ml","cluster":"/x/managedClusters/prod","verb":"list","resource":"pods","namespace":"default","allowed":true}
{"time":"2026-11-22T05:00:01Z","stage":"decision","id":"2","remote":"192.0.2.1:99","cluster":"/x/managedClusters/prod","method":"GET","path":"/api/\u001b[31mv1\u202e","allowed":false,"reason":"no token: not authenticated"}
{"time":"2026-11-22T05:00:02Z","stage":"complete","id":"1","source":"/subscriptions/s/workspaces/ml","cluster":"/x/managedClusters/prod","verb":"list","resource":"pods","namespace":"default","status":403,"durationNs":1234567}
{"time":"2026-11-22T05:00:03Z","stage":"complete","id":"3","objectId":"12-34","cluster":"/x/managedClusters/prod","verb":"create","apiGroup":"","resource":"pods","subresource":"exec","namespace":"ns","name":"日本","status":101,"durationNs":90000000000,"reason":"the binding was deleted: forbidden"}
{"time":"2026-11-22T05:00:04Z","stage":"decision","id":"4","source":"/s/ml","cluster":"/x/managedClusters/prod","verb":"get","apiGroup":"apps","resource":"deployments","name":"web","allowed":true}
{"time":"2026-11-22T05:00:05Z","stage":"consent","id":"5","objectId":"12-34","cluster":"/x/managedClusters/prod","binding":"b","action":"Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write","allowed":true}
{"time":"2026-11-22T05:00:06Z","stage":"revoked","id":"6","reason":"deleted","cut":2}
{"time":"2026-11-22T05:00:07Z","stage":"complete","id":"7","source":"/s/ml","cluster":"/x/managedClusters/prod","verb":"watch","resource":"pods","status":200,"reason":"context canceled"}
`

// TestAuditTable holds the table to its text: one line for each request, and
// nothing that a client chose as it came.
func TestAuditTable(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out, stderr: &out, format: formatTable}
	if err := c.printEvents(auditRecords(t, auditSample)(t.Context()), false); err != nil {
		t.Fatal(err)
	}
	want := `TIME                   DECISION   WHO            VERB     RESOURCE                    OBJECT            STATUS   DURATION   ID   REASON
2026-11-22T05:00:00Z   allowed    ml             list     pods                        default/*         403      1.2ms      1    -
2026-11-22T05:00:01Z   REFUSED    192.0.2.1:99   get      /api/\x1b[31mv1\u202e       -                 -        -          2    no token
2026-11-22T05:00:03Z   cut        object 12      create   pods/exec                   ns/\u65e5\u672c   101      1m30s      3    the binding was deleted
2026-11-22T05:00:04Z   allowed    ml             get      deployments.apps            web               -        -          4    -
2026-11-22T05:00:05Z   allowed    object 12      write    trustedAccessRoleBindings   b                 -        -          5    -
2026-11-22T05:00:06Z   cut        -              -        -                           2 live            -        -          6    deleted
2026-11-22T05:00:07Z   allowed    ml             watch    pods                        -                 200      0s         7    -
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestAuditJSON holds -o json to ASCII, and to the same values.
func TestAuditJSON(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out, format: formatJSON}
	sample := auditSample + "{\"id\":\"8\",\"path\":\"\u0085\u009b2J \U0001f600\x7f\"}\n"
	if err := c.printRecords(auditRecords(t, sample)(t.Context())); err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(out.String(), "\n"), strings.Split(sample, "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	for i := range want[:len(want)-1] {
		var a, b client.AuditRecord
		if err := json.Unmarshal([]byte(got[i]), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want[i]), &b); err != nil {
			t.Fatal(err)
		}
		if a.Path != b.Path || a.Name != b.Name || a.ID != b.ID {
			t.Errorf("%q became %q", want[i], got[i])
		}
	}
	for _, b := range out.Bytes() {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x in %q", b, out.String())
		}
	}
}

// TestAuditFollow prints a request that ends at once as one line, and one that
// goes on before it ends.
func TestAuditFollow(t *testing.T) {
	var out buffer
	c := &cli{stdout: &out, format: formatTable}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	read := func(ctx context.Context) iter.Seq2[client.AuditRecord, error] {
		return func(yield func(client.AuditRecord, error) bool) {
			for r := range auditRecords(t, auditSample)(ctx) {
				if !yield(r, nil) {
					return
				}
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for !strings.Contains(out.String(), "deployments.apps") && ctx.Err() == nil {
				<-tick.C
			}
			for r := range auditRecords(t, strings.Replace(strings.Split(auditSample, "\n")[4], "decision", "complete", 1))(ctx) {
				yield(r, nil)
			}
		}
	}
	if err := c.followEvents(ctx, read, true); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); got != 1+7+1 {
		t.Errorf("%d lines:\n%s", got, out.String())
	}
	if strings.Count(out.String(), "deployments.apps") != 2 || strings.Count(out.String(), "default/*") != 1 {
		t.Errorf("want the long request twice and the short one once:\n%s", out.String())
	}
}
