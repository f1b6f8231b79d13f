package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	agentless   = "d5a2ae44-610b-4500-93be-660a0c5f5ca6" // Kubernetes Agentless Operator
	inGroup     = sub + "/resourceGroups/RG"
)

// answer sends a request and returns the answer's status and body.
func (f *fixture) answer(caller, method, url, body string) (int, string) {
	f.t.Helper()
	resp := f.do(caller, method, url, body)
	text, err := io.ReadAll(resp.Body)
	must(f.t, err)
	return resp.StatusCode, string(text)
}

func assignmentURL(scope string) string {
	return scope + "/providers/Microsoft.Authorization/roleAssignments/" + uuid.NewString() + "?api-version=2022-04-01"
}

func assignmentBody(role, principal string) string {
	return `{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/` + role + `","principalId":"` + principal + `"}}`
}

// TestRolesOnRoutes: what Owner, Contributor and Reader may do, at the scopes
// where they have it.
func TestRolesOnRoutes(t *testing.T) {
	const other = sub + "/resourceGroups/Other"
	policy := cluster + "/providers/Sallyport.Gateway/accessPolicies/default" + version
	for _, c := range []struct {
		role, at string
		may      string // of the letters below
	}{
		{access.OwnerRole, sub, "rgcbpjea"},
		{access.OwnerRole, inGroup, "rgcbpjea"},
		{access.OwnerRole, cluster, "rcpjea"}, // it may not read the source, which is beside the cluster
		{contributor, sub, "rgcbpje"},
		{contributor, inGroup, "rgcbpje"},
		{access.ReaderRole, sub, "rg"},
		{access.ReaderRole, inGroup, "rg"},
		{access.ReaderRole, cluster, "r"},
		{access.OwnerRole, other, ""},
		{agentless, inGroup, "r"}, // it may write bindings, but not read the source
	} {
		t.Run(c.role+" at "+strings.TrimPrefix(c.at, sub), func(t *testing.T) {
			f := newFixture(t, nil)
			_, err := f.store.Groups.Put(t.Context(), access.ResourceGroup{ID: id(t, other), Location: "eastus"}, 0)
			must(t, err)
			f.assign(callers()["stranger"].ObjectID, c.role, c.at)
			for _, r := range []struct{ letter, method, url, body string }{
				{"r", "GET", cluster + version, ""},
				{"g", "GET", inGroup + version, ""},
				{"c", "PUT", cluster + version, `{"location":"eastus"}`},
				{"b", "PUT", binding + version, consentV},
				{"p", "PUT", policy, `{"properties":{"locked":true}}`},
				{"j", "POST", cluster + "/providers/Sallyport.Gateway/agents/default/joinToken" + version, ""},
				{"e", "DELETE", binding + version, ""},
				{"a", "PUT", assignmentURL(cluster), assignmentBody(access.ReaderRole, uuid.NewString())},
			} {
				code, text := f.answer("stranger", r.method, r.url, r.body)
				if may := strings.Contains(c.may, r.letter); may != (code < 300) || !may && code != 403 {
					if r.letter == "e" && c.role == agentless && code == 204 {
						continue // bindings are what it may delete
					}
					t.Errorf("%s %s: %d %s", r.method, r.url, code, text)
				}
			}
		})
	}
}

// TestItem27BindingNamesForeignSource: whoever may write a cluster's bindings
// cannot consent for a source that he may not even read, known here or not.
func TestItem27BindingNamesForeignSource(t *testing.T) {
	f := newFixture(t, nil)
	stranger := callers()["stranger"].ObjectID
	f.assign(stranger, contributor, cluster)
	code, text := f.answer("stranger", "PUT", binding+version, consentV)
	if want := "has permission to perform action 'Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write' on scope '" + binding +
		"'; however, it does not have permission to perform action 'Microsoft.DataProtection/backupVaults/read' on the linked scope(s) '" + vault + "'"; code != 403 ||
		!strings.Contains(text, "LinkedAuthorizationFailed") || !strings.Contains(text, want) {
		t.Errorf("without read on the source: %d %s", code, text)
	}
	// A vault of the real cloud: nobody here knows it, its id counts all the same.
	f.want(201, "PUT", assignmentURL(vault), assignmentBody(access.ReaderRole, stranger))
	if code, text := f.answer("stranger", "PUT", binding+version, consentV); code != 201 {
		t.Errorf("with read on the source: %d %s", code, text)
	}
	elsewhere := strings.ReplaceAll(consentV, sub, otherSub)
	if code, text := f.answer("owner", "PUT", binding+"2"+version, elsewhere); code != 400 {
		t.Errorf("a source of another subscription: %d %s", code, text)
	}
}

// TestItem27SourceDoesNotConsent: a source with every role writes neither its own
// consent nor what bounds it, and gives nobody the right to.
func TestItem27SourceDoesNotConsent(t *testing.T) {
	f := newFixture(t, nil)
	source := callers()["source"].ObjectID
	f.assign(source, access.OwnerRole, sub)
	refused := func(method, url, body string) {
		t.Helper()
		if code, text := f.answer("source", method, url, body); code != 403 || !strings.Contains(text, "AuthorizationFailed") {
			t.Errorf("%s %s: %d %s", method, url, code, text)
		}
	}
	const policy = "/providers/Sallyport.Gateway/accessPolicies/default" + version
	refused("PUT", binding+version, consentV)
	f.want(201, "PUT", binding+version, consentV)
	refused("PUT", binding+version, consentV)
	refused("DELETE", binding+version, "")
	refused("PUT", binding+policy, `{"properties":{}}`)
	refused("DELETE", binding+policy, "")
	refused("PUT", cluster+policy, `{"properties":{}}`)
	refused("DELETE", cluster+policy, "")
	refused("PUT", assignmentURL(sub), assignmentBody(access.OwnerRole, callers()["stranger"].ObjectID))
	refused("PUT", sub+"?api-version=2022-12-01", `{"properties":{"owners":[]}}`)
	// Of others it writes what its roles allow.
	other := strings.ReplaceAll(consentV, "V1", "V2")
	if code, text := f.answer("source", "PUT", cluster+"/trustedAccessRoleBindings/b2"+version, other); code != 201 {
		t.Errorf("a binding of another source: %d %s", code, text)
	}
	if code, text := f.answer("source", "PUT", cluster+"/trustedAccessRoleBindings/b2"+policy, `{"properties":{"locked":true}}`); code != 201 {
		t.Errorf("the policy of another source: %d %s", code, text)
	}
}

// TestItem27ConsentDuringUnlock: a caller is given consent while he unlocks the
// cluster, between the look at whom its policy bounds and the write.
func TestItem27ConsentDuringUnlock(t *testing.T) {
	var between func()
	f := newFixture(t, func(cfg *controlplane.Config) {
		log := cfg.Audit
		cfg.Audit = func(r audit.Record) error {
			err := log(r)
			if do := between; do != nil && r.Method == "DELETE" {
				between = nil
				do()
			}
			return err
		}
	})
	f.assign(callers()["source"].ObjectID, access.OwnerRole, sub)
	const policy = "/providers/Sallyport.Gateway/accessPolicies/default" + version
	f.want(201, "PUT", cluster+policy, `{"properties":{"locked":true}}`)
	between = func() { f.want(201, "PUT", binding+version, consentV) }
	if code, text := f.answer("source", "DELETE", cluster+policy, ""); code != 403 {
		t.Errorf("a source unlocks: %d %s", code, text)
	}
	if between != nil {
		t.Error("nothing happened in between")
	}
	f.want(200, "GET", cluster+policy, "")
}

// TestGroupsHaveRoles: a role of a group is its members', also through a group in
// it, and until they leave it, whatever a token of before says.
func TestGroupsHaveRoles(t *testing.T) {
	outer, inner := uuid.NewString(), uuid.NewString()
	f := newFixture(t, func(cfg *controlplane.Config) {
		known := cfg.Authenticate
		cfg.Authenticate = func(ctx context.Context, token string) (access.Principal, error) {
			p, err := known(ctx, token)
			p.Groups = []string{outer}
			return p, err
		}
	})
	tenant, err := f.store.Tenants.Put(t.Context(), store.Tenant{ID: tenantID}, 0)
	must(t, err)
	_, err = f.store.UserGroups.Put(t.Context(), store.Group{TenantID: tenantID, ObjectID: outer, Members: []string{inner}}, 0)
	must(t, err)
	members := store.Group{TenantID: tenantID, ObjectID: inner, Members: []string{callers()["stranger"].ObjectID}}
	version1, err := f.store.UserGroups.Put(t.Context(), members, 0)
	must(t, err)
	if code, _ := f.answer("stranger", "GET", cluster+version, ""); code != 403 {
		t.Errorf("before: %d", code)
	}
	v, _ := f.want(201, "PUT", assignmentURL(inGroup), assignmentBody(access.ReaderRole, outer))
	if at(v, "properties.principalType") != "Group" {
		t.Errorf("assignment: %v", v)
	}
	if code, text := f.answer("stranger", "GET", cluster+version, ""); code != 200 {
		t.Errorf("a member: %d %s", code, text)
	}
	if code, _ := f.answer("stranger", "PUT", cluster+version, `{"location":"eastus"}`); code != 403 {
		t.Errorf("a member writes: %d", code)
	}
	if code, text := f.answer("stranger", "GET", "/subscriptions"+version, ""); code != 200 || !strings.Contains(text, sub) {
		t.Errorf("a member's subscriptions: %d %s", code, text)
	}
	members.Members = nil
	_, err = f.store.UserGroups.Put(t.Context(), members, version1)
	must(t, err)
	if code, _ := f.answer("stranger", "GET", cluster+version, ""); code != 403 {
		t.Errorf("after: %d", code)
	}
	must(t, f.store.Tenants.Delete(t.Context(), tenantID, tenant))
	if code, text := f.answer("stranger", "GET", cluster+version, ""); code != 200 {
		t.Errorf("of a tenant that is not kept here, whose tokens alone say: %d %s", code, text)
	}
}

// TestPrincipalNotFound: in a tenant that is kept here there is nobody else.
func TestPrincipalNotFound(t *testing.T) {
	f := newFixture(t, nil)
	_, err := f.store.Tenants.Put(t.Context(), store.Tenant{ID: tenantID}, 0)
	must(t, err)
	v, _ := f.want(400, "PUT", assignmentURL(inGroup), assignmentBody(access.ReaderRole, uuid.NewString()))
	if at(v, "error.code") != "PrincipalNotFound" {
		t.Errorf("%v", v)
	}
	v, _ = f.want(201, "PUT", assignmentURL(inGroup), assignmentBody(access.ReaderRole, callers()["operator"].ObjectID))
	if at(v, "properties.principalType") != "ServicePrincipal" {
		t.Errorf("%v", v)
	}
	v, _ = f.want(201, "PUT", vault+version, `{"location":"eastus","identity":{"type":"SystemAssigned"}}`)
	f.want(201, "PUT", assignmentURL(inGroup), assignmentBody(access.ReaderRole, at(v, "identity.principalId").(string)))
}

// TestAssignmentRaces: of many that give the same, one does; of two owners that
// are removed at once, one stays; and each is in the audit log.
func TestAssignmentRaces(t *testing.T) {
	f := newFixture(t, nil)
	var mu sync.Mutex
	statuses := map[int]int{}
	race := func(n int, do func(i int) int) map[int]int {
		clear(statuses)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				code := do(i)
				mu.Lock()
				defer mu.Unlock()
				statuses[code]++
			})
		}
		wg.Wait()
		return statuses
	}
	other := uuid.NewString()
	if got := race(8, func(int) int {
		code, _ := f.answer("owner", "PUT", assignmentURL(sub), assignmentBody(access.OwnerRole, other))
		return code
	}); got[201] != 1 || got[409] != 7 {
		t.Errorf("the same at once: %v", got)
	}
	owners, err := f.store.RoleAssignmentsAt(t.Context(), id(t, sub))
	must(t, err)
	f.assign(callers()["stranger"].ObjectID, "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", sub) // User Access Administrator
	if got := race(len(owners), func(i int) int {
		code, _ := f.answer("stranger", "DELETE", owners[i].ID()+"?api-version=2022-04-01", "")
		return code
	}); len(owners) != 2 || got[200] != 1 || got[412] != 1 {
		t.Errorf("%d owners removed at once: %v", len(owners), got)
	}
	for action, principal := range map[string]string{"/write": other, "/delete": owners[0].PrincipalID + " " + owners[1].PrincipalID} {
		records := f.auditOf(func(r audit.Record) bool {
			detail, _ := r.Detail.(map[string]any)
			return r.Action == access.RoleAssignmentType+action && *r.Allowed && strings.Contains(principal, fmt.Sprint(detail["principalId"]))
		})
		if len(records) == 0 {
			t.Errorf("no record of %s with who it is about", action)
		}
	}
}
