package controlplane_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	groupOwnerOID = "00000000-0000-0000-0000-00000000000e"
	ownGroup      = sub + "/resourceGroups/Mine"
	ownCluster    = ownGroup + "/providers/Microsoft.ContainerService/managedClusters/M"
	identities    = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities"
	canary        = "canary-7f3a"
)

// newHostile is a control plane with what an owner has: a cluster, a source, a
// binding, an identity, all with the canary in them. Three callers are after it,
// each with a token in order: a stranger without any role, an outsider who owns
// another subscription, and a groupOwner who owns the group Mine beside it.
func newHostile(t *testing.T) (f *fixture, canaries []string) {
	t.Helper()
	f = newRoles(t, func(cfg *controlplane.Config) {
		others := cfg.Authenticate
		cfg.Authenticate = func(ctx context.Context, token string) (access.Principal, error) {
			if token == "groupOwner" {
				return access.Principal{Issuer: "https://idp.test/", TenantID: tenantID, ObjectID: groupOwnerOID}, nil
			}
			return others(ctx, token)
		}
	})
	tagged := `{"location":"eastus","tags":{"secret":"` + canary + `"}%s}`
	f.want(200, "PUT", inGroup+version, fmt.Sprintf(tagged, ""))
	f.want(200, "PUT", cluster+version, fmt.Sprintf(tagged, ""))
	v, _ := f.want(201, "PUT", vault+version, fmt.Sprintf(tagged, `,"identity":{"type":"SystemAssigned"}`))
	f.want(201, "PUT", inGroup+identities+"/powerful"+version, fmt.Sprintf(tagged, ""))
	f.want(201, "PUT", binding+version, consentV)
	f.want(201, "PUT", ownGroup+version, `{"location":"eastus"}`)
	f.want(201, "PUT", ownCluster+version, `{"location":"eastus"}`)
	f.assign(groupOwnerOID, access.OwnerRole, ownGroup)
	item, err := f.store.Bindings.Get(t.Context(), id(t, binding).Key())
	must(t, err)
	return f, []string{canary, "cluster-uid-1", "join-canary", "header-of", item.Value.UID, at(v, "identity.principalId").(string)}
}

// dump is every record there is.
func (f *fixture) dump() map[string]string {
	f.t.Helper()
	revision, err := f.store.Revision(f.t.Context())
	must(f.t, err)
	all := map[string]string{}
	must(f.t, f.store.Export(f.t.Context(), revision, func(c store.Copy) error {
		all[c.Key] = string(c.Value)
		return nil
	}))
	return all
}

// attempt is one request of somebody who has no right to what it asks.
type attempt struct {
	caller, method, url, body string
	header                    http.Header
}

// make sends it and holds the answer to what every such answer is: refused, with
// nothing in it of the owner's.
func (f *fixture) make(a attempt, canaries []string, mayServe bool) (int, string) {
	f.t.Helper()
	r := httptest.NewRequestWithContext(f.t.Context(), "GET", "/", strings.NewReader(a.body))
	r.Method, r.Host = a.method, "arm.test:8443"
	u, err := r.URL.Parse(a.url)
	if err != nil {
		return 0, "" // net/http would not have it either
	}
	r.URL, r.RequestURI = u, a.url
	if a.header != nil {
		r.Header = a.header.Clone()
	}
	r.Header.Set("Authorization", "Bearer "+a.caller)
	w := httptest.NewRecorder()
	f.cp.ServeHTTP(w, r)
	resp := w.Result()
	text, err := io.ReadAll(resp.Body)
	must(f.t, err)
	what := fmt.Sprintf("%s: %s %.200s %v: %d %.300s", a.caller, a.method, a.url, a.header, resp.StatusCode, text)
	if resp.StatusCode >= 500 || resp.StatusCode < 400 && !mayServe {
		f.t.Error(what)
	}
	var head bytes.Buffer
	resp.Header.Write(&head)
	for _, c := range canaries {
		if strings.Contains(string(text)+head.String(), c) {
			f.t.Errorf("%s\nshows %q", what, c)
		}
	}
	return resp.StatusCode, string(text)
}

// hostileBody is what somebody would send to a route to have more by it.
func hostileBody(pattern string) string {
	switch {
	case strings.Contains(pattern, "roleAssignments/"):
		return assignmentBody(access.OwnerRole, groupOwnerOID)
	case strings.HasSuffix(pattern, "trustedAccessRoleBindings/{binding}"):
		return consentV
	case strings.HasSuffix(pattern, "/accessPolicies/default"):
		return `{"properties":{"locked":false}}`
	case strings.Contains(pattern, "federatedIdentityCredentials/"):
		return `{"properties":{"issuer":"https://evil.test","subject":"s","audiences":["a"]}}`
	case pattern == "/subscriptions/{subscription}":
		return `{"properties":{"owners":[{"tenantId":"` + tenantID + `","objectId":"` + groupOwnerOID + `"}]}}`
	}
	return `{"id":"` + ownCluster + `","location":"eastus","tags":{"owned":"yes"},"properties":{}}`
}

// spellings are ways to write a path and its query, so that who decides might
// read another one than who serves.
func spellings(path string) map[string]string {
	cut := strings.LastIndexByte(path, '/')
	mine := strings.Replace(path, "/resourceGroups/RG", "/resourceGroups/Mine", 1)
	return map[string]string{
		"lower case": strings.ToLower(path) + version, "upper case": strings.ToUpper(path) + version,
		"slash encoded": path[:cut] + "%2F" + path[cut+1:] + version, "encoded twice": path[:cut] + "%252F" + path[cut+1:] + version,
		"backslash": path[:cut] + "%5C" + path[cut+1:] + version, "NUL": path + "%00" + version, "letters encoded": strings.ReplaceAll(path, "s", "%73") + version,
		"two slashes": path[:cut] + "/" + path[cut:] + version, "first slash twice": "/" + path + version, "trailing slash": path + "/" + version,
		"dot": path[:cut] + "/." + path[cut:] + version, "dots": path[:cut] + "/x/.." + path[cut:] + version, "dots encoded": path[:cut] + "/x/%2e%2e" + path[cut:] + version,
		"out of one's own": ownGroup + "/../RG" + strings.TrimPrefix(path, inGroup) + version, "the same, encoded": ownGroup + "%2F..%2FRG" + strings.TrimPrefix(path, inGroup) + version,
		"parameters": path + ";a=b" + version, "fragment": path + "%23" + version, "space": path + "%20" + version, "full width": strings.Replace(path, "RG", "ＲG", 1) + version,
		"own ids in the query": path + version + "&subscriptionId=22222222-2222-2222-2222-222222222222&resourceGroupName=Mine&id=" + ownCluster,
		"method in the query":  path + version + "&_method=GET&$expand=all&$filter=true",
		"own id as a name":     mine + "/providers/Microsoft.Example/" + "things/" + strings.ReplaceAll(strings.Trim(path, "/"), "/", "%2F") + version,
		"no version":           path, "two versions": path + version + "&api-version=2024-01-01", "an old version": path + "?api-version=1999-01-01",
		"a version to come": path + "?api-version=2999-01-01-preview", "version in capitals": path + "?API-VERSION=2025-10-01", "a long query": path + version + "&x=" + strings.Repeat("a", 20<<10),
	}
}

// TestHostileOperator plays operators with a token and no right: each route, with
// each verb and in all spellings, with forged conditions and huge bodies. Nothing
// is answered but refusals, and what they may read of their own; nothing changes;
// and each attempt to write is on record as refused.
func TestHostileOperator(t *testing.T) {
	f, canaries := newHostile(t)
	before := f.dump()
	verbs := []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "MERGE", "get"}
	forged := []http.Header{
		{"If-Match": {"*"}}, {"If-Match": {`"1"`}}, {"If-None-Match": {"*"}},
		{"X-Http-Method-Override": {"GET"}, "X-Ms-Client-Principal-Id": {callers()["owner"].ObjectID}, "X-Forwarded-User": {"owner"}, "X-Ms-Home-Tenant-Id": {tenantID}},
		{"X-Ms-Authorization-Auxiliary": {"Bearer owner"}, "Cookie": {"token=owner"}},
	}
	seen := map[string]bool{}
	for _, rt := range f.cp.Routes() {
		path, body := samplePath(rt.Pattern), hostileBody(rt.Pattern)
		for _, caller := range []string{"stranger", "outsider", "groupOwner"} {
			// What anybody may ask, or whoever has a role somewhere below, is answered:
			// with what is his, or everybody's.
			mayServe := rt.Who != "owner" && (rt.Who != "listed" || caller == "groupOwner")
			f.make(attempt{caller: caller, method: rt.Method, url: path + version, body: body}, canaries, mayServe)
			for _, header := range forged {
				f.make(attempt{caller: caller, method: rt.Method, url: path + version, body: body, header: header}, canaries, mayServe)
			}
			for _, url := range spellings(path) {
				f.make(attempt{caller: caller, method: rt.Method, url: url, body: body}, canaries, mayServe || !strings.HasPrefix(strings.ToLower(url), strings.ToLower(path)))
			}
			if !seen[caller+rt.Pattern] {
				seen[caller+rt.Pattern] = true
				for _, verb := range verbs {
					f.make(attempt{caller: caller, method: verb, url: path + version, body: body}, canaries, true)
				}
			}
		}
	}
	huge := `{"properties":{"x":"` + strings.Repeat("a", 8<<20) + `"}}`
	deep := strings.Repeat(`{"properties":`, 20_000) + "1" + strings.Repeat("}", 20_000)
	for _, url := range []string{binding, cluster, vault, inGroup, sub, ownCluster + "/trustedAccessRoleBindings/x"} {
		for _, body := range []string{huge, deep, "[", "\x00", `{"location":"eastus","location":"westus"}`} {
			f.make(attempt{caller: "groupOwner", method: "PUT", url: url + version, body: body}, canaries, false)
		}
	}
	f.checkUnchanged(before)
}

// checkUnchanged compares all records with what they were, and looks that no
// write of those who attack was allowed.
func (f *fixture) checkUnchanged(before map[string]string) {
	f.t.Helper()
	after := f.dump()
	for _, key := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[key]; !ok || was != after[key] {
			f.t.Errorf("written: %s", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[key]; !ok {
			f.t.Errorf("deleted: %s", key)
		}
	}
	refused := 0
	for _, r := range f.auditOf(func(r audit.Record) bool { return r.ObjectID != callers()["owner"].ObjectID }) {
		if *r.Allowed {
			f.t.Errorf("allowed: %+v", r)
		}
		refused++
	}
	if refused == 0 {
		f.t.Error("no refusal is on record")
	}
	f.t.Logf("%d records as before, %d refusals of writes recorded", len(after), refused)
}

// TestHostileOperatorReaches: who owns a group is refused what lies beside it,
// also where he asks for it at something of his own.
func TestHostileOperatorReaches(t *testing.T) {
	f, canaries := newHostile(t)
	before := f.dump()
	item, err := f.store.Bindings.Get(t.Context(), id(t, binding).Key())
	must(t, err)
	operation := item.Value.Operation
	const ours = "/providers/Sallyport.Gateway"
	uses := `{"location":"eastus","identity":{"type":"UserAssigned","userAssignedIdentities":{"` + inGroup + identities + `/powerful":{}}}}`
	place := sub + "/providers/Microsoft.ContainerService/locations/eastus"
	for _, a := range []attempt{
		{method: "PUT", url: ownCluster + "/trustedAccessRoleBindings/x" + version, body: consentV}, // somebody else's source
		{method: "PUT", url: binding + version, body: consentV},                                     // somebody else's cluster
		{method: "PUT", url: cluster + "/trustedAccessRoleBindings/new" + version, body: consentV},
		{method: "PUT", url: ownCluster + "/azureResourceRoleBindings/x?api-version=2022-04-02-preview", body: `{"properties":{"role":"Microsoft.DataProtection/backupVaults/backup-operator"}}`},
		{method: "PUT", url: ownCluster + version, body: uses}, // an identity that may more than he
		{method: "PUT", url: ownGroup + "/providers/Microsoft.DataProtection/backupVaults/mine" + version, body: uses},
		{method: "POST", url: vault + ours + "/managedIdentities/default/listCredentials" + version},
		{method: "PUT", url: inGroup + identities + "/powerful/federatedIdentityCredentials/x" + version, body: hostileBody("federatedIdentityCredentials/")},
		{method: "PUT", url: assignmentURL(sub), body: assignmentBody(access.OwnerRole, groupOwnerOID)},
		{method: "PUT", url: assignmentURL(inGroup), body: assignmentBody(access.OwnerRole, groupOwnerOID)},
		{method: "PUT", url: assignmentURL(cluster), body: assignmentBody(access.OwnerRole, groupOwnerOID)},
		{method: "PUT", url: sub + version, body: hostileBody("/subscriptions/{subscription}")},
		{method: "GET", url: sub + ours + "/auditRecords" + version},
		{method: "GET", url: binding + ours + "/status/default" + version},
		{method: "GET", url: cluster + ours + "/status/default" + version},
		{method: "GET", url: place + "/operations/" + operation + version},
		{method: "GET", url: place + "/operationresults/" + operation + version},
		{method: "GET", url: sub + "/operationresults/" + operation + version},
	} {
		a.caller = "groupOwner"
		if code, text := f.make(a, canaries, false); code != 403 && code != 404 {
			t.Errorf("%s %s: %d %s, want 403 or 404", a.method, a.url, code, text)
		}
	}
	f.checkUnchanged(before)
	// What he may list has his own in it and nothing else.
	for _, list := range []string{"/resourceGroups", "/resources", "/providers/Microsoft.ContainerService/managedClusters"} {
		if code, text := f.make(attempt{caller: "groupOwner", method: "GET", url: sub + list + version}, canaries, true); code != 200 || !strings.Contains(text, "/Mine") || strings.Contains(text, "/RG") {
			t.Errorf("GET %s: %d %s", list, code, text)
		}
	}
}

// TestHostileOperatorLearnsNothing: a refusal is the same, word by word, whether
// what it is about exists. As with ARM itself, that a subscription exists can be
// told: without it the answer is 404.
func TestHostileOperatorLearnsNothing(t *testing.T) {
	f, canaries := newHostile(t)
	other := strings.NewReplacer("/RG", "/R_", "managedClusters/C", "managedClusters/_", "backupVaults/V1", "backupVaults/V_", "b1", "b_")
	for _, rt := range f.cp.Routes() {
		for _, caller := range []string{"stranger", "outsider", "groupOwner"} {
			path := samplePath(rt.Pattern)
			if rt.Who != "owner" && rt.Who != "listed" || other.Replace(path) == path {
				continue // for everybody, or about the subscription
			}
			is, isText := f.make(attempt{caller: caller, method: rt.Method, url: path + version}, canaries, true)
			not, notText := f.make(attempt{caller: caller, method: rt.Method, url: other.Replace(path) + version}, canaries, true)
			if is != not || other.Replace(isText) != other.Replace(notText) {
				t.Errorf("%s: %s %s: %d %s\nand without it %d %s", caller, rt.Method, path, is, isText, not, notText)
			}
		}
	}
	if code, text := f.answer("stranger", "GET", strings.Replace(cluster, "1111", "3333", 1)+version, ""); code != 404 || !strings.Contains(text, "SubscriptionNotFound") {
		t.Errorf("a subscription that does not exist: %d %s", code, text)
	}
}
