package controlplane_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
)

// TestExplain holds who may ask what, whom the source is taken to be, and that
// a question that cannot be recorded is not asked.
func TestExplain(t *testing.T) {
	type call struct {
		p access.Principal
		q access.Question
	}
	var calls []call
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.Explain = func(_ context.Context, p access.Principal, c access.ResourceID, q access.Question, id string) access.Explanation {
			calls = append(calls, call{p, q})
			if c.String() != cluster {
				t.Errorf("cluster %s", c)
			}
			return access.Explanation{ID: id, Question: q, Steps: []access.Step{{Name: "consent", Outcome: access.Refused, Why: "no"}}}
		}
	})
	const known = sub + "/resourceGroups/RG/providers/Microsoft.DataProtection/backupVaults/known"
	_, err := f.store.Resources.Put(t.Context(), access.Resource{ID: id(t, known), UID: "u", TenantID: tenantID, Identity: &access.Identity{ObjectID: "oid-of-known"}}, 0)
	must(t, err)
	const url = cluster + "/providers/Sallyport.Gateway/gateways/default/explain" + version
	for name, c := range map[string]struct {
		caller, url, body string
		code              int
		oid               string
	}{
		"an owner":               {"owner", url, `{"source":"` + known + `","verb":"list","resource":"configmaps","from":"192.0.2.1"}`, 200, "oid-of-known"},
		"an unknown source":      {"owner", url, `{"source":"` + vault + `","verb":"list","resource":"configmaps"}`, 200, ""},
		"a stranger":             {"stranger", url, `{"source":"` + known + `","verb":"list","resource":"pods"}`, 403, ""},
		"the source itself":      {"source", url, `{"source":"` + vault + `","verb":"list","resource":"pods"}`, 403, ""},
		"no source":              {"owner", url, `{"verb":"list","resource":"pods"}`, 400, ""},
		"a source that is none":  {"owner", url, `{"source":"known","verb":"list","resource":"pods"}`, 400, ""},
		"no verb":                {"owner", url, `{"source":"` + known + `","resource":"pods"}`, 400, ""},
		"an address that is not": {"owner", url, `{"source":"` + known + `","verb":"list","resource":"pods","from":"home"}`, 400, ""},
		"another cluster":        {"owner", cluster + "x/providers/Sallyport.Gateway/gateways/default/explain" + version, `{"source":"` + known + `","verb":"list","resource":"pods"}`, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			calls = nil
			resp := f.do(c.caller, "POST", c.url, c.body)
			if resp.StatusCode != c.code || len(calls) != map[bool]int{true: 1}[c.code == 200] {
				t.Fatalf("status %d, want %d; the gateway was asked %d times", resp.StatusCode, c.code, len(calls))
			}
			if c.code != 200 {
				return
			}
			if p := calls[0].p; p.ObjectID != c.oid || p.TenantID != tenantID || !p.Resource.Equal(calls[0].q.Source) {
				t.Errorf("the source is taken to be %+v", p)
			}
			var e access.Explanation
			must(t, json.NewDecoder(resp.Body).Decode(&e))
			if len(e.Steps) != 1 || e.Verb != "list" || len(e.RolesThatAllow) != 1 || e.RolesThatAllow[0] != "Microsoft.DataProtection/backupVaults/backup-operator" {
				t.Errorf("%+v", e)
			}
			if got := f.auditOf(func(r audit.Record) bool { return r.ID == e.ID && r.Detail != nil && *r.Allowed }); len(got) != 1 || got[0].Action != "Sallyport.Gateway/gateways/explain/action" {
				t.Errorf("recorded as %+v", got)
			}
		})
	}
	f.mu.Lock()
	f.noAudit = true
	f.mu.Unlock()
	calls = nil
	if resp := f.do("owner", "POST", url, `{"source":"`+known+`","verb":"list","resource":"pods"}`); resp.StatusCode != 503 || len(calls) != 0 {
		t.Errorf("not recorded: status %d, asked %d times", resp.StatusCode, len(calls))
	}
}
