package authenticate_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
)

// TestItem15LookAlikes holds ids that look like the workspace's and are not:
// each is refused, or is a resource id unequal to it (checklist item 15).
func TestItem15LookAlikes(t *testing.T) {
	const sub = "/subscriptions/55555555-5555-5555-5555-555555555555"
	const group = sub + "/resourcegroups/rg"
	const provider = group + "/providers/Microsoft.MachineLearningServices/workspaces"
	real, err := access.ParseResourceID(workspace)
	if err != nil {
		t.Fatal(err)
	}
	lookAlikes := []string{
		"", "/", " ", "//", sub, sub + "/", group, group + "/", provider, provider + "/",
		workspace + "/", "/" + workspace, workspace + "//", workspace + " ", " " + workspace, workspace + "\t", workspace + "\n", workspace + "\x00",
		workspace[1:], strings.ReplaceAll(workspace, "/", "\\"), strings.ReplaceAll(workspace, "/", "%2F"), strings.ReplaceAll(workspace, "/", "%2f"),
		workspace + "2", workspace[:len(workspace)-1] + "v", workspace + "%20", workspace + "%00", workspace + ".", workspace + "..", workspace + "?x=1", workspace + "#x",
		workspace + ";x", workspace + "/..", workspace + "/.", workspace + "/../w", workspace + "/jobs/j", workspace + "/jobs",
		strings.Replace(workspace, "/rg/", "/other/../rg/", 1), strings.Replace(workspace, "/rg/", "/./rg/", 1), strings.Replace(workspace, "/rg/", "//rg/", 1),
		strings.Replace(workspace, "/rg/", "/rg2/", 1), strings.Replace(workspace, "/rg/", "/%72g/", 1), strings.Replace(workspace, "/rg/", "/r\u0261/", 1),
		strings.Replace(workspace, "workspaces", "work\u017fpaces", 1), // long s, which folds to s
		strings.Replace(workspace, "workspaces", "wor\u212aspaces", 1), // Kelvin sign, which folds to k
		strings.Replace(workspace, "Microsoft.", "Microsoft", 1), strings.Replace(workspace, "Microsoft.", "Microsoft-", 1),
		strings.Replace(workspace, "Microsoft", "M\u0456crosoft", 1), // Cyrillic i
		strings.Replace(workspace, "workspaces", "workspace", 1), strings.Replace(workspace, "5555", "5556", 1), strings.Replace(workspace, "5555", "", 1),
		"https://management.azure.com" + workspace, workspace + "," + workspace, workspace + "\n" + workspace, "['" + workspace + "']",
		"/tenants/x" + workspace, strings.Replace(workspace, "/providers/", "/provider/", 1), strings.Replace(workspace, "/subscriptions/", "/subscription/", 1),
		"/subscriptions/{55555555-5555-5555-5555-555555555555}" + workspace[len(sub):], group + workspace,
		group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/w", group + "/providers/microsoft.managedidentity/USERASSIGNEDIDENTITIES/w",
		group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/w/federatedIdentityCredentials/f",
		strings.Repeat("/a", 5000),
	}
	if len(lookAlikes) < 50 {
		t.Fatalf("only %d", len(lookAlikes))
	}
	v := dataPlane(t)
	for _, id := range lookAlikes {
		p, err := v.Principal(t.Context(), token(fields{"xms_mirid": id}))
		if err == nil && p.Resource.Equal(real) {
			t.Errorf("%q passed for the workspace", id)
		}
		if err != nil {
			refusal(t, err)
		}
		if strings.Contains(strings.ToLower(id), "managedidentity") && err == nil {
			t.Errorf("user-assigned identity %q passed", id)
		}
	}
	for _, id := range []string{workspace, strings.ToUpper(workspace), strings.Replace(workspace, "resourcegroups", "resourceGroups", 1)} {
		if p, err := v.Principal(t.Context(), token(fields{"xms_mirid": id})); err != nil || !p.Resource.Equal(real) {
			t.Errorf("%q is not the workspace: %v", id, err)
		}
	}
}
