package controlplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
)

const auditRecords = sub + "/providers/Sallyport.Gateway/auditRecords" + version

// auditFixture is a control plane with a real audit log, whose callers' tokens
// are good for a validity.
func auditFixture(t *testing.T, validity time.Duration) (f *fixture, file *audit.File, stop func()) {
	t.Helper()
	file, err := audit.Open(audit.Config{Path: filepath.Join(t.TempDir(), "audit.log"), MaxSize: 500})
	must(t, err)
	t.Cleanup(func() { file.Close() })
	f = newStopped(t)
	stop = f.start(func(cfg *controlplane.Config) {
		inner := cfg.Authenticate
		cfg.Records = file
		cfg.Authenticate = func(ctx context.Context, token string) (access.Principal, error) {
			p, err := inner(ctx, token)
			p.Expires = cfg.Now().Add(validity)
			return p, err
		}
	})
	return f, file, stop
}

func yes() *bool { b := true; return &b }

// TestAuditRecords holds what each caller sees: an owner what is in his
// subscription, an operator also what belongs to none, and nobody else anything.
func TestAuditRecords(t *testing.T) {
	f, file, _ := auditFixture(t, time.Hour)
	operator := callers()["operator"]
	const third = "/subscriptions/33333333-3333-3333-3333-333333333333"
	_, err := f.store.Subscriptions.Put(t.Context(), access.Subscription{ID: id(t, third), TenantID: tenantID}, 0)
	must(t, err)
	f.assign(operator.ObjectID, access.OwnerRole, third)
	start := time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)
	ids := map[string]string{}
	for i, r := range []audit.Record{
		{ID: "allowed", Stage: audit.Decision, Cluster: cluster, Binding: "b1", Allowed: yes()},
		{ID: "allowed", Stage: audit.Complete, Cluster: cluster, Binding: "b1", Status: 200},
		{ID: "forbidden", Stage: audit.Complete, Cluster: strings.ToUpper(cluster), Binding: "b2", Status: 403},
		{ID: "cut", Stage: audit.Complete, Cluster: cluster + "2", Binding: "b1", Status: 200, Reason: "deleted"},
		{ID: "refused", Stage: audit.Decision, Cluster: cluster, Allowed: new(bool)},
		{ID: "consent", Stage: audit.Consent, Path: sub + "/resourceGroups/RG", Allowed: yes()},
		{ID: "other", Stage: audit.Decision, Cluster: strings.Replace(cluster, sub, otherSub, 1), Allowed: new(bool)},
		{ID: "unreadable path", Stage: audit.Decision, Path: sub + "/forged", Allowed: new(bool)},
		{ID: "summary", Stage: audit.Revoked, Cut: 1},
	} {
		if ids[r.ID] == "" {
			ids[r.ID] = uuid.NewString()
		}
		r.ID, r.Time = ids[r.ID], start.Add(time.Duration(i)*time.Minute)
		must(t, file.Log(r))
	}
	names := map[string]string{}
	for name, id := range ids {
		names[id] = name
	}
	read := func(caller, url string) (int, string) {
		resp := f.do(caller, "GET", url, "")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return resp.StatusCode, ""
		}
		var seen []string
		for line := range strings.Lines(string(body)) {
			var r audit.Record
			must(t, json.Unmarshal([]byte(line), &r))
			seen = append(seen, names[r.ID])
		}
		return resp.StatusCode, strings.Join(seen, ", ")
	}
	const all = "allowed, allowed, forbidden, cut, refused, consent"
	theirs := strings.Replace(auditRecords, sub, "/subscriptions/33333333-3333-3333-3333-333333333333", 1)
	for name, c := range map[string]struct {
		caller, url string
		code        int
		want        string
	}{
		"an owner":              {"owner", auditRecords, 200, all},
		"an operator":           {"operator", theirs, 200, "unreadable path, summary"},
		"a stranger":            {"stranger", auditRecords, 403, ""},
		"an operator, not his":  {"operator", auditRecords, 403, ""},
		"a source":              {"source", auditRecords, 403, ""},
		"a source of his id":    {"twin", auditRecords, 200, all},
		"nobody":                {"", auditRecords, 401, ""},
		"another subscription":  {"owner", strings.Replace(auditRecords, sub, otherSub, 1), 403, ""},
		"one cluster":           {"owner", auditRecords + "&cluster=" + cluster, 200, "allowed, allowed, forbidden, refused"},
		"one binding":           {"owner", auditRecords + "&binding=B1", 200, "allowed, allowed, cut"},
		"refused":               {"owner", auditRecords + "&refused=true", 200, "forbidden, cut, refused"},
		"since":                 {"owner", auditRecords + "&since=2026-11-22T04:03:00Z", 200, "cut, refused, consent"},
		"last":                  {"owner", auditRecords + "&last=2", 200, "refused, consent"},
		"none":                  {"owner", auditRecords + "&last=0", 200, ""},
		"too many":              {"owner", auditRecords + "&last=10001", 400, ""},
		"an unknown filter":     {"owner", auditRecords + "&verb=get", 400, ""},
		"a cluster's name":      {"owner", auditRecords + "&cluster=C", 400, ""},
		"since some words":      {"owner", auditRecords + "&since=yesterday", 400, ""},
		"refused, of two minds": {"owner", auditRecords + "&refused=maybe", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if code, got := read(c.caller, c.url); code != c.code || got != c.want {
				t.Errorf("%d, %q; want %d, %q", code, got, c.code, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		caller, subscription string
		code, records        int
	}{
		"allowed":         {"owner", sub, 200, 2},
		"refused":         {"owner", sub, 200, 1},
		"other":           {"owner", sub, 404, 0},
		"summary":         {"owner", sub, 404, 0},
		"unreadable path": {"operator", "/subscriptions/33333333-3333-3333-3333-333333333333", 200, 1},
		"consent":         {"stranger", sub, 403, 0},
	} {
		t.Run("find "+name, func(t *testing.T) {
			resp := f.do(c.caller, "GET", c.subscription+"/providers/Sallyport.Gateway/auditRecords/"+ids[name]+version, "")
			var body struct {
				Type       string
				Properties struct{ Records []audit.Record }
			}
			must(t, json.NewDecoder(resp.Body).Decode(&body))
			if resp.StatusCode != c.code || len(body.Properties.Records) != c.records {
				t.Errorf("status %d with %d records", resp.StatusCode, len(body.Properties.Records))
			}
			if c.code == 200 && body.Type != "Sallyport.Gateway/auditRecords" {
				t.Errorf("type %q", body.Type)
			}
		})
	}
}

// TestAuditRecordsFollow reads what comes, until the token or the control plane
// ends.
func TestAuditRecordsFollow(t *testing.T) {
	for name, c := range map[string]struct {
		validity time.Duration
		end      func(stop func())
	}{
		"until the token ends":         {2 * time.Second, func(func()) {}},
		"until the control plane ends": {time.Hour, func(stop func()) { stop() }},
	} {
		t.Run(name, func(t *testing.T) {
			f, file, stop := auditFixture(t, c.validity)
			server := httptest.NewServer(f.cp)
			defer server.Close()
			must(t, file.Log(audit.Record{ID: "0", Cluster: cluster}))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", server.URL+auditRecords+"&follow=true&last=1", nil)
			must(t, err)
			req.Header.Set("Authorization", "Bearer owner")
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for i := 0; i < 3 && lines.Scan(); i++ {
				if want := fmt.Sprintf(`"id":"%d"`, i); !strings.Contains(lines.Text(), want) {
					t.Errorf("line %q, want %s", lines.Text(), want)
				}
				must(t, file.Log(audit.Record{ID: "hidden", Cluster: otherSub + "/x"}))
				must(t, file.Log(audit.Record{ID: fmt.Sprint(i + 1), Cluster: cluster}))
			}
			c.end(stop)
			for lines.Scan() {
			}
			if err := lines.Err(); err != nil {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
}
