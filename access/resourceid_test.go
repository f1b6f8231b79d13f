package access_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
)

const (
	subscription = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa"
	group        = subscription + "/resourceGroups/rg"
	workspace    = group + "/providers/Microsoft.MachineLearningServices/workspaces/ml1"
	cluster      = group + "/providers/Microsoft.ContainerService/managedClusters/c1"
	binding      = cluster + "/trustedAccessRoleBindings/b1"
	operator     = subscription + "/providers/Microsoft.Security/pricings/CloudPosture/securityOperators/DefenderCSPMSecurityOperator"
)

func parse(t testing.TB, s string) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestResourceIDParts(t *testing.T) {
	for _, tc := range []struct {
		id, group, fullType, name, parent string
	}{
		{subscription, "", "", "11111111-2222-3333-4444-aaaaaaaaaaaa", ""},
		{group, "rg", "", "rg", subscription},
		{workspace, "rg", "Microsoft.MachineLearningServices/workspaces", "ml1", group},
		{cluster, "rg", access.ClusterType, "c1", group},
		{binding, "rg", access.BindingType, "b1", cluster},
		{operator, "", "Microsoft.Security/pricings/securityOperators", "DefenderCSPMSecurityOperator", subscription + "/providers/Microsoft.Security/pricings/CloudPosture"},
		{subscription + "/providers/Microsoft.Security/pricings/CloudPosture", "", "Microsoft.Security/pricings", "CloudPosture", subscription},
		{subscription + "/resourcegroups/RG", "RG", "", "RG", subscription},
	} {
		id := parse(t, tc.id)
		if id.String() != tc.id {
			t.Errorf("%s: written back as %s", tc.id, id)
		}
		if !strings.EqualFold(id.Subscription(), "11111111-2222-3333-4444-aaaaaaaaaaaa") || id.ResourceGroup() != tc.group || id.Type() != tc.fullType || id.Name() != tc.name {
			t.Errorf("%s: subscription %q group %q type %q name %q", tc.id, id.Subscription(), id.ResourceGroup(), id.Type(), id.Name())
		}
		parent := id.Parent()
		if parent.String() != tc.parent || parent.IsZero() != (tc.parent == "") {
			t.Errorf("%s: parent %q, want %q", tc.id, parent, tc.parent)
		}
		if tc.parent == "" {
			continue
		}
		again := parse(t, tc.parent)
		if parent.Type() != again.Type() || parent.Name() != again.Name() || parent.ResourceGroup() != again.ResourceGroup() || !parent.Equal(again) {
			t.Errorf("%s: its parent differs from %s parsed", tc.id, again)
		}
		if tc.fullType != "" && !id.IsType(strings.ToUpper(tc.fullType)) {
			t.Errorf("%s: is not of its own type in capitals", tc.id)
		}
		if id.IsType("") || id.IsType(tc.fullType+"/x") {
			t.Errorf("%s: is of a type that it is not", tc.id)
		}
	}
}

func TestResourceIDChild(t *testing.T) {
	child, err := parse(t, cluster).Child("trustedAccessRoleBindings", "b1")
	if err != nil || child.String() != binding || !child.Parent().Equal(parse(t, cluster)) {
		t.Errorf("child %s, %v", child, err)
	}
	for _, name := range []string{"", ".", "..", "a%2fb", "a b", "a\nb", "ä", "a\\b", "b?x", "b#x"} {
		if _, err := parse(t, cluster).Child("trustedAccessRoleBindings", name); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("child %q: %v", name, err)
		}
	}
}

func TestParseResourceIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "/", "//", "subscriptions/x", "/subscriptions", "/subscriptions/", "/subscriptions/not-a-guid",
		"/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaag",
		subscription + "/", group + "/", workspace + "/", " " + workspace, workspace + " ",
		subscription + "/resourceGroups", subscription + "/resourceGroups/", subscription + "/other/x",
		group + "/providers", group + "/providers/NS", group + "/providers/NS/type", group + "/providers/NS/type/name/child",
		group + "/resourceGroups/rg2",
		subscription + "//resourceGroups/rg", subscription + "/./resourceGroups/rg", subscription + "/../resourceGroups/rg",
		strings.ReplaceAll(workspace, "workspaces", "work%73paces"), strings.ReplaceAll(workspace, "/rg/", "/r%67/"),
		strings.ReplaceAll(workspace, "/", `\`), strings.ReplaceAll(workspace, "ml1", "ml1\x00"), strings.ReplaceAll(workspace, "ml1", "ml1\r\nX: y"),
		strings.ReplaceAll(workspace, "workspaces", "wor\u212Aspaces"), // the Kelvin sign folds to k
		strings.ReplaceAll(workspace, "ml1", "mⅼ1"), strings.ReplaceAll(workspace, "ml1", "ml1\u200b"), strings.ReplaceAll(workspace, "ml1", "ml1;x"),
		"https://management.azure.com" + workspace, workspace + "?api-version=1", workspace + "#x",
		subscription + "/resourceGroups/" + strings.Repeat("a", 2048),
	} {
		id, err := access.ParseResourceID(s)
		if !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%.80q: parsed as %v, error %v", s, id, err)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%.80q: an error of %d bytes", s, len(err.Error()))
		}
		if err != nil && strings.ContainsAny(err.Error(), "\r\n\x00") {
			t.Errorf("%.80q: the error has raw control characters", s)
		}
	}
}

// lookAlikes are spellings near the id of one workspace; the first few are the
// same id (checklist, item 15).
func lookAlikes() (same, different []string) {
	s := workspace
	swap := func(old, new string) string { return strings.ReplaceAll(s, old, new) }
	same = []string{
		s, strings.ToLower(s), strings.ToUpper(s), swap("resourceGroups", "resourcegroups"), swap("resourceGroups", "RESOURCEGROUPS"),
		swap("aaaaaaaaaaaa", "AAAAAAAAAAAA"), swap("ml1", "ML1"), swap("/rg/", "/RG/"), swap("Microsoft.", "microsoft."), swap("workspaces", "WorkSpaces"),
		swap("subscriptions", "Subscriptions"), swap("providers", "Providers"),
	}
	different = []string{
		s + "/", s + "//", "/" + s, s + " ", " " + s, s + "\t", s + "\n", s + "\x00", s + ".", s + "0", s + "-", s + "_",
		swap("ml1", "ml"), swap("ml1", "m11"), swap("ml1", "mI1"), swap("ml1", "ml1l"), swap("ml1", "ml%31"), swap("ml1", "ml1/"), swap("ml1", "ml1/."),
		swap("ml1", "ml1/../ml1"), swap("ml1", "./ml1"), swap("ml1", "mⅼ1"), swap("ml1", "ml1\u200b"), swap("ml1", "ml１"),
		swap("/rg/", "/rg2/"), swap("/rg/", "/r%67/"), swap("/rg/", "/rg./"), swap("/rg/", "//rg/"), swap("/rg/", "/r-g/"), swap("/rg/", "/rg(1)/"),
		swap("1111-2222", "1111-2223"), swap("aaaaaaaaaaaa", "aaaaaaaaaaab"), swap("11111111-", "11111111"), swap("11111111-2222", "{11111111-2222"),
		swap("workspaces", "workspace"), swap("workspaces", "workspaces2"), swap("workspaces", "wor\u212Aspaces"), swap("workspaces", "workſpaces"),
		swap("Microsoft.", "Micros0ft."), swap("Microsoft.", "Microsoft"), swap("Microsoft.", "Microsoft.."), swap("Services", "Service"),
		swap("/providers/", "/"), swap("/providers/", "/providers/providers/"), swap("/resourceGroups/rg", ""), swap("/resourceGroups/rg", "/resourceGroups/rg/resourceGroups/rg"),
		s + "/jobs/j1", s + "/computes/c/" + "x/y", swap("/resourceGroups/", `\resourceGroups\`), "https://management.azure.com" + s, s + "?x", s + "#x", s + ";x", s + "%00",
		group, subscription, "", operator, cluster,
	}
	return same, different
}

func TestItem15LookAlikeIDs(t *testing.T) {
	want := parse(t, workspace)
	same, different := lookAlikes()
	if n := len(same) + len(different); n < 50 {
		t.Fatalf("only %d look-alikes", n)
	}
	for _, s := range same {
		if id := parse(t, s); !id.Equal(want) || !want.Equal(id) || id.Key() != want.Key() || id.String() != s {
			t.Errorf("%q is not equal", s)
		}
	}
	seen := map[string]string{}
	for _, s := range different {
		id, err := access.ParseResourceID(s)
		if err != nil {
			continue // no id at all equals nothing
		}
		if id.Equal(want) || want.Equal(id) || id.Key() == want.Key() {
			t.Errorf("%q is equal", s)
		}
		if other, ok := seen[id.Key()]; ok {
			t.Errorf("%q and %q have one key", s, other)
		}
		seen[id.Key()] = s
	}
}

func TestZeroResourceID(t *testing.T) {
	var zero access.ResourceID
	if !zero.IsZero() || zero.Equal(zero) || zero.Equal(parse(t, workspace)) || parse(t, workspace).Equal(zero) || zero.Type() != "" || !zero.Parent().IsZero() {
		t.Error("the zero id must be zero, untyped, and equal to nothing")
	}
	if _, err := zero.Child("providers", "x"); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("child of no id: %v", err)
	}
}

func TestResourceIDAsJSON(t *testing.T) {
	type document struct{ ID access.ResourceID }
	for _, tc := range []struct {
		text, id string
		fails    bool
	}{
		{`{"ID":"` + workspace + `"}`, workspace, false},
		{`{"ID":""}`, "", false},
		{`{"ID":"/subscriptions/x"}`, "", true},
		{`{"ID":7}`, "", true},
	} {
		var d document
		err := json.Unmarshal([]byte(tc.text), &d)
		if (err != nil) != tc.fails || d.ID.String() != tc.id {
			t.Errorf("%s: %q, %v", tc.text, d.ID, err)
			continue
		}
		if tc.fails {
			continue
		}
		back, err := json.Marshal(d)
		if err != nil || string(back) != tc.text {
			t.Errorf("%s: written back as %s, %v", tc.text, back, err)
		}
	}
}

func TestIsGUID(t *testing.T) {
	for s, want := range map[string]bool{
		"11111111-2222-3333-4444-aaaaaaaaaaaa": true, "11111111-2222-3333-4444-AAAAAAAAAAAA": true, "": false,
		"11111111222233334444aaaaaaaaaaaa": false, "{1111111-2222-3333-4444-aaaaaaaaaaa}": false, "11111111-2222-3333-4444-aaaaaaaaaaa": false,
		"11111111-2222-3333-4444-aaaaaaaaaaaa\n": false, "11111111-2222-3333-4444-aaaaaaaaaaäa": false, "g1111111-2222-3333-4444-aaaaaaaaaaaa": false,
	} {
		if access.IsGUID(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func FuzzItem15ResourceID(f *testing.F) {
	same, different := lookAlikes()
	for _, s := range append(same, different...) {
		f.Add(s, workspace)
	}
	f.Add(binding, strings.ToUpper(binding))
	f.Fuzz(func(t *testing.T, a, b string) {
		id, err := access.ParseResourceID(a)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) || !id.IsZero() {
				t.Fatalf("%q: %v, %v", a, id, err)
			}
			return
		}
		if id.String() != a || !id.Equal(parse(t, id.String())) || !id.Equal(parse(t, id.Key())) {
			t.Fatalf("%q: not equal to what it is written as", a)
		}
		for p := id.Parent(); !p.IsZero(); p = p.Parent() {
			if again := parse(t, p.String()); !again.Equal(p) || again.Type() != p.Type() || again.Name() != p.Name() || p.Equal(id) {
				t.Fatalf("%q: parent %q", a, p)
			}
		}
		other, err := access.ParseResourceID(b)
		if err != nil {
			return
		}
		segments := func(id access.ResourceID) string {
			return strings.ToLower(strings.Join(strings.Split(id.String(), "/"), "\n"))
		}
		if equal := id.Equal(other); equal != (id.Key() == other.Key()) || equal != other.Equal(id) || equal != (segments(id) == segments(other)) {
			t.Fatalf("%q and %q: equal %v, keys %q and %q", a, b, equal, id.Key(), other.Key())
		}
	})
}
