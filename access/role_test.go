package access_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
)

const mlworkload = "Microsoft.MachineLearningServices/workspaces/mlworkload"

func catalogue(t testing.TB) []access.Role {
	t.Helper()
	roles, err := access.Catalogue() // checks the digest
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

func TestItem25CatalogueIsTheReviewedOne(t *testing.T) {
	var names []string
	for _, r := range catalogue(t) {
		names = append(names, r.QualifiedName())
		if len(r.Rules) == 0 {
			t.Errorf("%s has no rules", r.QualifiedName())
		}
		if err := access.CheckRoleName(r.Name); err != nil {
			t.Error(err)
		}
	}
	want := []string{ // spec/trusted-access.md 6
		"Microsoft.DataProtection/backupVaults/backup-operator",
		"Microsoft.MachineLearningServices/workspaces/inference-v1",
		"Microsoft.MachineLearningServices/workspaces/mlworkload",
		"Microsoft.Security/pricings/mdc-response-operator",
		"Microsoft.Security/pricings/microsoft-defender-network-policy-operator",
		"Microsoft.Security/pricings/microsoft-defender-operator",
		"Microsoft.Security/pricings/microsoft-defender-policy-operator",
	}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("roles %v, want %v", names, want)
	}
	one, two := catalogue(t), catalogue(t)
	one[0].Rules[0].Verbs[0] = "changed"
	if two[0].Rules[0].Verbs[0] == "changed" {
		t.Error("two catalogues share memory")
	}
}

func TestRoleFits(t *testing.T) {
	for _, tc := range []struct {
		roleType, source string
		want             bool
	}{
		{"Microsoft.MachineLearningServices/workspaces", workspace, true},
		{"microsoft.machinelearningservices/WORKSPACES", workspace, true},
		{"Microsoft.Security/pricings", operator, true},
		{"Microsoft.Security/pricings", subscription + "/providers/Microsoft.Security/pricings/Containers", true},
		{"Microsoft.Security/pricings", subscription + "/providers/Microsoft.Security/pricingsX/Containers", false},
		{"Microsoft.Security/pricings", subscription + "/providers/Microsoft.SecurityX/pricings/Containers", false},
		{"Microsoft.Security/pricings", subscription + "/providers/Microsoft.Security/pricingsX/a/securityOperators/b", false},
		{"Microsoft.Security/pricing", operator, false},
		{"Microsoft.Security", operator, true}, // a prefix by whole segments; no shipped role has it
		{"Microsoft.Security/pricings/securityOperators", subscription + "/providers/Microsoft.Security/pricings/Containers", false},
		{"Microsoft.RecoveryServices/vaults", group + "/providers/Microsoft.DataProtection/backupVaults/v", false},
		{"Microsoft.MachineLearningServices/workspaces", group, false},
		{"Microsoft.MachineLearningServices/workspaces", subscription, false},
		{"Microsoft.MachineLearningServices/workspaces", group + "/providers/Other.NS/things/workspaces", false},
	} {
		role := access.Role{SourceResourceType: tc.roleType, Name: "r"}
		if got := role.Fits(parse(t, tc.source)); got != tc.want {
			t.Errorf("role of %s fits %s: %v", tc.roleType, tc.source, got)
		}
	}
	if (access.Role{SourceResourceType: "A.B/c"}).Fits(access.ResourceID{}) {
		t.Error("a role fits no resource")
	}
}

func TestFindRole(t *testing.T) {
	if r, ok := access.FindRole(catalogue(t), strings.ToUpper(mlworkload)); !ok || r.Name != "mlworkload" {
		t.Errorf("found %v %v", r.Name, ok)
	}
	for _, name := range []string{"", "mlworkload", mlworkload + "/", "/" + mlworkload, " " + mlworkload, mlworkload + "2"} {
		if r, ok := access.FindRole(catalogue(t), name); ok {
			t.Errorf("%q found %s", name, r.QualifiedName())
		}
	}
}

func TestCheckRoleName(t *testing.T) {
	for name, ok := range map[string]bool{
		"mlworkload": true, "inference-v1": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "a/b": false, "a:b": false, "a b": false, "ä": false, "a\nb": false, "a.b": false, "*": false,
	} {
		if err := access.CheckRoleName(name); (err == nil) != ok || err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestItem06CheckBindingName(t *testing.T) {
	for name, ok := range map[string]bool{
		"b": true, "B-1": true, "-": true, "-a-": true, "16987634996993c51c18b-7": true, strings.Repeat("a", 24): true,
		"": false, strings.Repeat("a", 25): false, "a_b": false, "a.b": false, "a b": false, "a/b": false, "a:b": false, "a\r\nb": false,
		"a\n": false, "a\x00": false, "bïnding": false, "ｂ": false, "b\u200b": false, strings.Repeat("a", 100_000): false,
	} {
		err := access.CheckBindingName(name)
		if (err == nil) != ok || err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%.30q: %v", name, err)
		}
		if err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\r\n\x00")) {
			t.Errorf("%.30q: error %.100q", name, err)
		}
	}
	// The user learns the length from the error (spec/trusted-access.md 9, item 3).
	if err := access.CheckBindingName(strings.Repeat("a", 25)); !strings.Contains(err.Error(), "25 characters") || !strings.Contains(err.Error(), "1 to 24") {
		t.Error(err)
	}
}

func TestCheckClusterName(t *testing.T) {
	for name, ok := range map[string]bool{
		"c": true, "C_1-x": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "-a": false, "a-": false, "_a": false, "a.b": false, "a\n": false, "ä": false, "a/b": false,
	} {
		if err := access.CheckClusterName(name); (err == nil) != ok || err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCheckRoles(t *testing.T) {
	clash := append(catalogue(t), access.Role{SourceResourceType: "Microsoft.MachineLearningServices", Name: "MLWorkload"})
	vault := group + "/providers/Microsoft.DataProtection/backupVaults/v"
	for _, tc := range []struct {
		name, source string
		roles        []string
		text         []string // nil means accepted
	}{
		{"one", workspace, []string{mlworkload}, nil},
		{"two", workspace, []string{mlworkload, "Microsoft.MachineLearningServices/workspaces/inference-v1"}, nil},
		{"capitals", workspace, []string{strings.ToUpper(mlworkload)}, nil},
		{"prefix", operator, []string{"Microsoft.Security/pricings/microsoft-defender-operator"}, nil},
		{"none", workspace, nil, []string{"at least one role", "Microsoft.MachineLearningServices/workspaces/"}},
		{"none for an unknown type", cluster, nil, []string{"{sourceResourceType}/{roleName}"}},
		{"short name", workspace, []string{"mlworkload"}, []string{"non-exist role: mlworkload"}},
		{"leading space", workspace, []string{mlworkload, " " + mlworkload}, []string{"non-exist role:  Microsoft"}},
		{"unknown", workspace, []string{"Microsoft.Compute/virtualMachineScaleSets/test-node-reader"}, []string{"non-exist role: Microsoft.Compute/virtualMachineScaleSets/test-node-reader"}},
		{"other type", vault, []string{mlworkload}, []string{mlworkload, "Microsoft.DataProtection/backupVaults", "may have: Microsoft.DataProtection/backupVaults/backup-operator"}},
		{"type without roles", cluster, []string{mlworkload}, []string{access.ClusterType, "may have: none"}},
		{"twice", workspace, []string{mlworkload, mlworkload}, []string{"twice", mlworkload}},
		{"twice in capitals", workspace, []string{mlworkload, strings.ToUpper(mlworkload)}, []string{"twice"}},
		{"one short name", workspace, []string{mlworkload, "Microsoft.MachineLearningServices/MLWorkload"}, []string{"same short name", "MLWorkload", mlworkload}},
	} {
		err := access.CheckRoles(clash, parse(t, tc.source), tc.roles)
		if tc.text == nil {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		for _, want := range tc.text {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", tc.name, err, want)
			}
		}
	}
	var unknown access.UnknownRoleError
	if err := access.CheckRoles(catalogue(t), parse(t, workspace), []string{"x"}); !errors.As(err, &unknown) || unknown.Role != "x" {
		t.Errorf("unknown role: %v", err)
	}
}

func TestRoleBindingNames(t *testing.T) {
	b := access.RoleBinding{ID: parse(t, binding)}
	if b.Name() != "b1" || !b.Cluster().Equal(parse(t, cluster)) {
		t.Errorf("name %s, cluster %s", b.Name(), b.Cluster())
	}
}
