package controlplane_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/controlplane"
)

const userAccessAdministrator = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"

// The classes of callers that a route is for. All but outsider have that role at
// the subscription; outsider is the Owner of another.
const (
	anyone   = "owner contributor reader access-administrator outsider"
	readers  = "owner contributor reader access-administrator"
	writers  = "owner contributor"
	grantors = "owner access-administrator"
)

// wantAdmitted has every route of the table, under whom it admits: a new one
// fails TestEveryRoute until it is here. What anyone may ask checks its caller
// itself: an operation is for who may read its resource, a subscription's PUT is
// in TestRightsAreNotWidened.
var wantAdmitted = map[string]string{
	anyone: `
		$sub$place/operationresults/{operation} GET
		$sub$place/operations/{operation} GET
		$sub/operationresults/{operation} GET
		//Microsoft.Authorization/roleDefinitions GET
		//Microsoft.Authorization/roleDefinitions/{definition} GET
		//Sallyport.Gateway/azureHosts/default GET
		//{namespace} GET
		/metadata/endpoints GET
		/providers GET
		/subscriptions GET
		/tenants GET
		$cluster//Sallyport.Gateway/agents/default/certificate POST
		$cluster//Sallyport.Gateway/agents/default/enrol POST
		$sub PUT
	`,
	readers: `
		$arc//Microsoft.KubernetesConfiguration/extensions GET
		$arc//Microsoft.KubernetesConfiguration/extensions/{extension} GET
		$arc//Microsoft.KubernetesConfiguration/extensions/{extension}/operations/{operation} GET
		$cluster GET
		$cluster//Microsoft.KubernetesConfiguration/extensions GET
		$cluster//Microsoft.KubernetesConfiguration/extensions/{extension} GET
		$cluster//Microsoft.KubernetesConfiguration/extensions/{extension}/operations/{operation} GET
		$cluster//Sallyport.Gateway/accessPolicies/default GET
		$cluster//Sallyport.Gateway/agents/default GET
		$cluster//Sallyport.Gateway/status/default GET
		$cluster/azureResourceRoleBindings GET
		$cluster/azureResourceRoleBindings/{binding} GET
		$cluster/maintenanceConfigurations GET
		$cluster/maintenanceConfigurations/{configuration} GET
		$cluster/trustedAccessRoleBindings GET
		$cluster/trustedAccessRoleBindings/{binding} GET
		$cluster/trustedAccessRoleBindings/{binding}//Sallyport.Gateway/accessPolicies/default GET
		$cluster/trustedAccessRoleBindings/{binding}//Sallyport.Gateway/status/default GET
		$group GET HEAD
		$group//Microsoft.ContainerService/managedClusters GET
		$group//Microsoft.ManagedIdentity/userAssignedIdentities/{identity}/federatedIdentityCredentials GET
		$group//Microsoft.ManagedIdentity/userAssignedIdentities/{identity}/federatedIdentityCredentials/{credential} GET
		$group//{resource:resource} GET HEAD
		$group//{type:collection} GET
		$group/resources GET
		$scope/Microsoft.Authorization/roleAssignments GET
		$scope/Microsoft.Authorization/roleAssignments/{assignment} GET
		$scope/Microsoft.Authorization/roleDefinitions GET
		$scope/Microsoft.Authorization/roleDefinitions/{definition} GET
		$scope/Microsoft.ManagedIdentity/identities/default GET
		$sub GET
		$sub$place/trustedAccessRoles GET
		$sub//Microsoft.ContainerService/managedClusters GET
		$sub//Microsoft.Features//{namespace}/features GET
		$sub//Microsoft.Features//{namespace}/features/{feature} GET
		$sub//Microsoft.Features/featureProviders/{namespace}/subscriptionFeatureRegistrations GET
		$sub//Microsoft.Features/featureProviders/{namespace}/subscriptionFeatureRegistrations/{feature} GET
		$sub//Microsoft.Features/features GET
		$sub//Microsoft.Features/subscriptionFeatureRegistrations GET
		$sub//Sallyport.Gateway/auditRecords GET
		$sub//Sallyport.Gateway/auditRecords/{record} GET
		$sub//{namespace} GET
		$sub//{resource:resource} GET HEAD
		$sub//{type:collection} GET
		$sub/locations GET
		$sub/providers GET
		$sub/resourceGroups GET
		$sub/resources GET
	`,
	writers: `
		$arc//Microsoft.KubernetesConfiguration/extensions/{extension} DELETE PATCH PUT
		$cluster DELETE PATCH PUT
		$cluster//Microsoft.KubernetesConfiguration/extensions/{extension} DELETE PATCH PUT
		$cluster//Sallyport.Gateway/accessPolicies/default DELETE PUT
		$cluster/azureResourceRoleBindings/{binding} DELETE PUT
		$cluster/trustedAccessRoleBindings/{binding} DELETE PUT
		$cluster/trustedAccessRoleBindings/{binding}//Sallyport.Gateway/accessPolicies/default DELETE PUT
		$group DELETE PATCH PUT
		$group//Microsoft.ManagedIdentity/userAssignedIdentities/{identity}/federatedIdentityCredentials/{credential} DELETE PUT
		$group//{resource:resource} DELETE PATCH PUT
		$sub//Microsoft.Features/featureProviders/{namespace}/subscriptionFeatureRegistrations/{feature} DELETE PUT
		$sub//{resource:resource} DELETE PATCH PUT
		$cluster//Sallyport.Gateway/agents/default/joinToken POST
		$cluster//Sallyport.Gateway/gateways/default/explain POST
		$cluster/accessProfiles/{profile}/listCredential POST
		$cluster/listClusterAdminCredential POST
		$cluster/listClusterUserCredential POST
		$group//{resource:resource}//Sallyport.Gateway/managedIdentities/default/listCredentials POST
		$sub//Microsoft.Features//{namespace}/features/{feature}/register POST
		$sub//Microsoft.Features//{namespace}/features/{feature}/unregister POST
		$sub//{namespace}/register POST
		$sub//{namespace}/unregister POST
		$sub//{resource:resource}//Sallyport.Gateway/managedIdentities/default/listCredentials POST
	`,
	grantors: `
		$scope/Microsoft.Authorization/roleAssignments/{assignment} DELETE PUT
		$scope/Microsoft.Authorization/roleDefinitions/{definition} DELETE PUT
	`,
}

// scopes are where extension resources of any scope may be.
var scopes = [...]string{
	"/subscriptions/{subscription}",
	"/subscriptions/{subscription}/resourceGroups/{group}",
	"/subscriptions/{subscription}/providers/{resource:resource}",
	"/subscriptions/{subscription}/resourceGroups/{group}/providers/{resource:resource}",
}

// shortPattern is how wantAdmitted writes a pattern; an extension resource of any
// scope is there once, so it must be for the same at each.
func shortPattern(pattern string) string {
	for _, namespace := range []string{"/Microsoft.Authorization/", "/Microsoft.ManagedIdentity/identities/"} {
		for _, scope := range scopes {
			if rest, ok := strings.CutPrefix(pattern, scope+"/providers"+namespace); ok {
				return "$scope" + namespace + rest
			}
		}
	}
	return strings.NewReplacer(
		"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}", "$cluster",
		"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Kubernetes/connectedClusters/{connected}", "$arc",
		"/subscriptions/{subscription}/resourceGroups/{group}", "$group", "/subscriptions/{subscription}", "$sub",
		"/providers/Microsoft.ContainerService/locations/{location}", "$place", "/providers/", "//",
	).Replace(pattern)
}

// samplePath is a path of a pattern.
func samplePath(pattern string) string {
	const guid = "11111111-2222-3333-4444-555555555555"
	return strings.NewReplacer(
		"{subscription}", strings.TrimPrefix(sub, "/subscriptions/"), "{group}", "RG", "{cluster}", "C", "{binding}", "b1", "{location}", "eastus",
		"{resource:resource}", "Microsoft.DataProtection/backupVaults/V1", "{type:collection}", "Microsoft.DataProtection/backupVaults",
		"{connected}", "arc", "{namespace}", "Microsoft.Example", "{feature}", "f", "{extension}", "x", "{credential}", "fc", "{identity}", "i",
		"{profile}", "clusterAdmin", "{configuration}", "default", "{record}", guid, "{operation}", guid, "{assignment}", guid, "{definition}", access.ReaderRole,
	).Replace(pattern)
}

// newRoles is newFixture with a caller for each of the classes, by its name.
func newRoles(t *testing.T, edit func(*controlplane.Config)) *fixture {
	t.Helper()
	roles := map[string]struct{ role, at, objectID string }{
		"contributor":          {contributor, sub, uuid.NewString()},
		"reader":               {access.ReaderRole, sub, uuid.NewString()},
		"access-administrator": {userAccessAdministrator, sub, uuid.NewString()},
		"outsider":             {access.OwnerRole, otherSub, uuid.NewString()},
	}
	f := newFixture(t, func(cfg *controlplane.Config) {
		others := cfg.Authenticate
		cfg.Authenticate = func(ctx context.Context, token string) (access.Principal, error) {
			if r, ok := roles[token]; ok {
				return access.Principal{Issuer: "https://idp.test/", TenantID: tenantID, ObjectID: r.objectID}, nil
			}
			return others(ctx, token)
		}
		if edit != nil {
			edit(cfg)
		}
	})
	for _, r := range roles {
		f.assign(r.objectID, r.role, r.at)
	}
	return f
}

// TestEveryRoute walks the table and asks for each route whom of the callers it
// admits.
func TestEveryRoute(t *testing.T) {
	want := map[string]string{}
	for class, lines := range wantAdmitted {
		for line := range strings.Lines(lines) {
			if fields := strings.Fields(line); len(fields) > 0 {
				for _, method := range fields[1:] {
					want[method+" "+fields[0]] = class
				}
			}
		}
	}
	f, seen := newRoles(t, nil), map[string]bool{}
	for _, rt := range f.cp.Routes() {
		name := rt.Method + " " + shortPattern(rt.Pattern)
		seen[name] = true
		if _, ok := want[name]; !ok {
			t.Errorf("%s: a route that wantAdmitted does not have: say there whom it is for", name)
			continue
		}
		for _, caller := range strings.Fields(anyone) {
			r := httptest.NewRequestWithContext(t.Context(), rt.Method, samplePath(rt.Pattern)+version, nil)
			r.Header.Set("Authorization", "Bearer "+caller)
			pattern, err := f.cp.Admit(r)
			if pattern != rt.Pattern {
				t.Fatalf("%s: %s is of the route %s", name, r.URL, pattern)
			}
			if may := slices.Contains(strings.Fields(want[name]), caller); may != (err == nil) {
				t.Errorf("%s: %s: %v, want it admitted: %t", name, caller, err, may)
			} else if err != nil && arm.FromError(err).Status != http.StatusForbidden {
				t.Errorf("%s: %s: %v, want 403", name, caller, err)
			}
		}
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("%s: no such route", name)
		}
	}
}

// TestRightsAreNotWidened: nobody gets more than his role gives, neither a secret
// that is somebody's nor a role.
func TestRightsAreNotWidened(t *testing.T) {
	f := newRoles(t, func(c *controlplane.Config) { c.PreviewRoleBindings = true })
	const identities = sub + "/resourceGroups/Other/providers/Microsoft.ManagedIdentity/userAssignedIdentities"
	f.want(201, "PUT", vault+version, `{"location":"eastus","identity":{"type":"SystemAssigned"}}`)
	f.want(201, "PUT", sub+"/resourceGroups/Other"+version, `{"location":"eastus"}`)
	f.want(201, "PUT", identities+"/powerful"+version, `{"location":"eastus"}`)
	stranger := callers()["stranger"].ObjectID
	f.assign(stranger, contributor, inGroup) // of nothing else

	const ours = "/providers/Sallyport.Gateway"
	grant := assignmentBody(access.OwnerRole, stranger)
	owners := `{"properties":{"owners":[{"tenantId":"` + tenantID + `","objectId":"` + stranger + `"}]}}`
	uses := `{"location":"eastus","identity":{"type":"UserAssigned","userAssignedIdentities":{"` + identities + `/powerful":{}}}}`
	for _, c := range []struct{ method, url, body, refused string }{
		{"POST", cluster + ours + "/agents/default/joinToken" + version, "", "reader access-administrator outsider"},
		{"POST", vault + ours + "/managedIdentities/default/listCredentials" + version, "", "reader access-administrator outsider"},
		{"POST", cluster + "/listClusterAdminCredential" + version, "", "reader access-administrator outsider"},
		{"POST", cluster + "/listClusterUserCredential" + version, "", "reader access-administrator outsider"},
		{"POST", cluster + "/accessProfiles/clusterAdmin/listCredential" + version, "", "reader access-administrator outsider"},
		{"POST", cluster + ours + "/gateways/default/explain" + version, "{}", "reader access-administrator outsider"},
		{"GET", sub + ours + "/auditRecords" + version, "", "stranger outsider"},
		{"GET", otherSub + ours + "/auditRecords" + version, "", "owner contributor reader access-administrator stranger"},
		{"PUT", assignmentURL(sub), grant, "contributor reader stranger outsider"},
		{"PUT", assignmentURL(inGroup), grant, "contributor reader stranger outsider"},
		{"PUT", assignmentURL(cluster), grant, "contributor reader stranger outsider"},
		{"PUT", assignmentURL(vault), grant, "contributor reader stranger outsider"},
		{"PUT", sub + version, owners, "contributor reader access-administrator stranger outsider"},
		{"PUT", "/subscriptions/33333333-3333-3333-3333-333333333333" + version, owners, "contributor reader access-administrator stranger outsider source"},
		{"PUT", vault + version, uses, "stranger"},
		{"PATCH", vault + version, uses, "stranger"},
		// To every vault of the subscription, of which he may read one group's.
		{"PUT", cluster + "/azureResourceRoleBindings/wide?api-version=2022-04-02-preview", `{"properties":{"role":"Microsoft.DataProtection/backupVaults/backup-operator"}}`, "stranger"},
		{"PUT", identities + "/powerful/federatedIdentityCredentials/mine" + version, `{"properties":{"issuer":"https://evil.test","subject":"s","audiences":["a"]}}`, "reader access-administrator stranger outsider"},
	} {
		for _, caller := range strings.Fields(c.refused) {
			if code, text := f.answer(caller, c.method, c.url, c.body); code != 403 || !strings.Contains(text, "AuthorizationFailed") || strings.Contains(text, "canary") || strings.Contains(text, "header-of") {
				t.Errorf("%s: %s %s: %d %s", caller, c.method, c.url, code, text)
			}
		}
	}
	// Each is refused for its caller alone.
	f.want(200, "POST", vault+ours+"/managedIdentities/default/listCredentials"+version, "")
	f.want(200, "PUT", vault+version, uses)
	f.want(200, "PUT", cluster+"/azureResourceRoleBindings/wide?api-version=2022-04-02-preview", `{"properties":{"role":"Microsoft.DataProtection/backupVaults/backup-operator"}}`)
}
