package access_test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
)

func TestMatchesAction(t *testing.T) {
	for _, c := range []struct {
		pattern, action string
		want            bool
	}{
		{"*", "Microsoft.ContainerService/managedClusters/write", true},
		{"*/read", "Microsoft.ContainerService/managedClusters/read", true},
		{"*/read", "Microsoft.ContainerService/managedClusters/write", false},
		{"*/read", "Microsoft.ContainerService/managedClusters/readX", false},
		{"Microsoft.ContainerService/managedClusters/*", "microsoft.containerservice/MANAGEDCLUSTERS/trustedAccessRoleBindings/write", true},
		{"Microsoft.ContainerService/managedClusters/*", "Microsoft.ContainerService/managedClustersX/write", false},
		{"Microsoft.Authorization/*/Write", "Microsoft.Authorization/roleAssignments/write", true},
		{"Microsoft.Authorization/*/Write", "Microsoft.Authorization/a/b/write", true},
		{"Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action", "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action", true},
		{"Microsoft.ManagedIdentity/userAssignedIdentities/*/read", "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/read", true},
		{"Microsoft.ManagedIdentity/userAssignedIdentities/*/read", "Microsoft.ManagedIdentity/userAssignedIdentitiesread", false},
		{"a/*/b/*/c", "a/b/c", true},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"", "a", false},
		{"a", "", false},
	} {
		if got := access.MatchesAction(c.pattern, c.action); got != c.want {
			t.Errorf("%q covers %q: %v", c.pattern, c.action, got)
		}
	}
}

// randomActions makes patterns and actions of few words, so that many match.
func randomWords(random *rand.Rand, words ...string) string {
	var out []string
	for range 1 + random.IntN(4) {
		out = append(out, words[random.IntN(len(words))])
	}
	return strings.Join(out, "/")
}

// TestMatchesActionAsRegexp holds the matcher to what a regular expression
// makes of the same pattern.
func TestMatchesActionAsRegexp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	matched := 0
	const rounds = 20000
	for range rounds {
		pattern := randomWords(random, "a", "b", "*", "a*", "*b", "read")
		action := randomWords(random, "a", "A", "b", "ab", "read")
		expr := regexp.QuoteMeta(pattern)
		for strings.Contains(expr, `/\*/`) { // the next one may begin with this one's slash
			expr = strings.ReplaceAll(expr, `/\*/`, "\x00/")
		}
		expr = strings.ReplaceAll(expr, `\*`, ".*")
		expr = strings.ReplaceAll(expr, "\x00", "(/.*)?")
		want := regexp.MustCompile("(?i)^" + expr + "$").MatchString(action)
		if got := access.MatchesAction(pattern, action); got != want {
			t.Fatalf("%q covers %q: %v, as a regular expression %v", pattern, action, got, want)
		}
		if want {
			matched++
		}
	}
	if matched < rounds/20 {
		t.Errorf("%d of %d match, which compares little", matched, rounds)
	}
}

// TestRoleDefinitionAllows: of random roles, one allows exactly what one of its
// permissions has in its actions and not in its notActions. More actions, and
// more permissions, never take anything away; more notActions never add.
func TestRoleDefinitionAllows(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	some := func() []string {
		var out []string
		for range random.IntN(3) {
			out = append(out, randomWords(random, "a", "b", "*", "read", "write"))
		}
		return out
	}
	for range 5000 {
		action := randomWords(random, "a", "b", "read", "write")
		first := access.Permission{Actions: some(), NotActions: some()}
		second := access.Permission{Actions: some(), NotActions: some()}
		allows := func(p ...access.Permission) bool { return access.RoleDefinition{Permissions: p}.Allows(action) }
		if got, want := allows(first, second), allows(first) || allows(second); got != want {
			t.Fatalf("%+v and %+v allow %s: %v, each by itself %v", first, second, action, got, want)
		}
		wider, narrower := first, first
		wider.Actions = append(some(), first.Actions...)
		narrower.NotActions = append(some(), first.NotActions...)
		if allows(first) && !allows(wider) || allows(narrower) && !allows(first) {
			t.Fatalf("%+v: more actions took %s away, or more notActions gave it", first, action)
		}
		if allows(access.Permission{Actions: first.Actions, NotActions: []string{"*"}}) || allows(access.Permission{NotActions: first.NotActions}) {
			t.Fatalf("%+v allows %s without an action, or against notActions *", first, action)
		}
	}
}

// TestBuiltInRoles pins what the roles mean for the actions that count here.
func TestBuiltInRoles(t *testing.T) {
	roles, err := access.BuiltInRoles()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]access.RoleDefinition{}
	for _, r := range roles {
		if _, twice := byName[r.RoleName]; twice || !access.IsGUID(r.Name) {
			t.Errorf("%s %s", r.RoleName, r.Name)
		}
		byName[r.RoleName] = r
	}
	if byName["Owner"].Name != access.OwnerRole || byName["Reader"].Name != access.ReaderRole {
		t.Error("the constants are not the roles' names")
	}
	const aks = "Microsoft.ContainerService/managedClusters/"
	all := []string{"Owner", "Contributor", "Reader", "User Access Administrator", "Role Based Access Control Administrator", "Managed Identity Operator", "Kubernetes Agentless Operator",
		"Azure Kubernetes Service Contributor Role", "Azure Kubernetes Service Cluster Admin Role"}
	for action, may := range map[string]string{
		aks + "read":                                                     "Owner,Contributor,Reader,User Access Administrator,Role Based Access Control Administrator,Kubernetes Agentless Operator,Azure Kubernetes Service Contributor Role,Azure Kubernetes Service Cluster Admin Role",
		aks + "trustedAccessRoleBindings/write":                          "Owner,Contributor,Kubernetes Agentless Operator,Azure Kubernetes Service Contributor Role",
		aks + "listClusterAdminCredential/action":                        "Owner,Contributor,Azure Kubernetes Service Contributor Role,Azure Kubernetes Service Cluster Admin Role",
		"Microsoft.Authorization/roleAssignments/write":                  "Owner,User Access Administrator,Role Based Access Control Administrator",
		"Microsoft.Authorization/roleDefinitions/write":                  "Owner,User Access Administrator",
		"Sallyport.Gateway/agents/joinToken/action":                      "Owner,Contributor",
		"Sallyport.Gateway/managedIdentities/listCredentials/action":     "Owner,Contributor",
		"Sallyport.Gateway/gateways/explain/action":                      "Owner,Contributor",
		"Sallyport.Gateway/accessPolicies/write":                         "Owner,Contributor",
		"Microsoft.ManagedIdentity/userAssignedIdentities/assign/action": "Owner,Contributor,Managed Identity Operator",
		"Microsoft.ManagedIdentity/userAssignedIdentities/write":         "Owner,Contributor",
		"Microsoft.Resources/subscriptions/resourceGroups/delete":        "Owner,Contributor",
		"Microsoft.MachineLearningServices/workspaces/read":              "Owner,Contributor,Reader,User Access Administrator,Role Based Access Control Administrator",
	} {
		for _, name := range all {
			want := strings.Contains(","+may+",", ","+name+",")
			if got := byName[name].Allows(action); got != want {
				t.Errorf("%s allows %s: %v", name, action, got)
			}
		}
	}
}

func TestRoleAssignmentAppliesTo(t *testing.T) {
	a := access.RoleAssignment{TenantID: "T1", PrincipalID: "O1"}
	for name, c := range map[string]struct {
		a    access.RoleAssignment
		p    access.Principal
		want bool
	}{
		"itself, in any case":             {a, access.Principal{TenantID: "t1", ObjectID: "o1"}, true},
		"the object id of another tenant": {a, access.Principal{TenantID: "T2", ObjectID: "O1"}, false},
		"by a group":                      {a, access.Principal{TenantID: "T1", ObjectID: "O2", Groups: []string{"G", "o1"}}, true},
		"by another tenant's group":       {a, access.Principal{TenantID: "T2", ObjectID: "O2", Groups: []string{"o1"}}, false},
		"an assignment to nobody":         {access.RoleAssignment{TenantID: "T1"}, access.Principal{TenantID: "T1", Groups: []string{""}}, false},
		"nobody":                          {a, access.Principal{}, false},
	} {
		if got := c.a.AppliesTo(c.p); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
