package arm_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

func TestFilter(t *testing.T) {
	item := arm.Filterable{
		Name: "Vault-1", Type: "Microsoft.DataProtection/backupVaults", Group: "RG", Location: "westeurope", PrincipalID: "oid-1",
		Tags: map[string]string{"env": "prod", "team": "it's"},
	}
	for _, c := range []struct {
		filter string
		want   string // "yes", "no", or "refused"
	}{
		{"", "yes"},
		{"resourceType eq 'microsoft.dataprotection/BACKUPVAULTS'", "yes"},
		{"resourceType eq 'Microsoft.DataProtection/backupVaultsX'", "no"},
		{"resourceType ne 'Microsoft.Web/sites'", "yes"},
		{"resourceGroup eq 'rg' and name eq 'vault-1'", "yes"},
		{"resourceGroup eq 'rg' and name eq 'vault-2'", "no"},
		{"name eq 'x' or name eq 'vault-1'", "yes"},
		{"name eq 'x' or name eq 'y' and location eq 'westeurope'", "no"},
		{"location eq 'West Europe'", "yes"},
		{"identity/principalId eq 'OID-1'", "yes"},
		{"tagName eq 'env' and tagValue eq 'prod'", "yes"},
		{"tagname eq 'team' and tagvalue eq 'it''s'", "yes"},
		{"tagName eq 'env' and tagValue eq 'it''s'", "no"}, // of one and the same tag
		{"startswith(tagName, 'en')", "yes"},
		{"startswith(name,'x')", "no"},
		{"substringof('ault', name)", "yes"},
		{"  name   eq   'vault-1'  ", "yes"},
		{"name", "refused"},
		{"name eq", "refused"},
		{"name eq vault-1", "refused"},
		{"name eq 'vault-1", "refused"},
		{"name eq 'vault-1' and", "refused"},
		{"name eq 'vault-1' name eq 'x'", "refused"},
		{"name gt 'a'", "refused"},
		{"(name eq 'vault-1')", "refused"},
		{"properties/x eq 'y'", "refused"},
		{"name tagname eq 'y'", "refused"},
		{"substringof(name, 'x')", "refused"},
		{"startswith(name 'x')", "refused"},
	} {
		got := "refused"
		if f, err := arm.ParseFilter(request(c.filter)); err == nil {
			got = map[bool]string{true: "yes", false: "no"}[f.Matches(item)]
		} else if !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v is not ErrInvalid", c.filter, err)
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.filter, got, c.want)
		}
	}
}

func request(filter string) (r *http.Request) {
	return httptest.NewRequest("GET", "/x?"+url.Values{"$filter": {filter}}.Encode(), nil)
}

// FuzzFilter: what is read ends, and a filter of one comparison holds of an item
// with that very value.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"name eq 'a'", "name eq 'a''b' and tagname eq 'c'", "startswith(name,'')", "''''", "name eq '", "or or", "name eq 'a' or"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := arm.ParseFilter(request(text))
		if err != nil {
			return
		}
		filter.Matches(arm.Filterable{Name: text, Tags: map[string]string{text: text}})
		one, err := arm.ParseFilter(request("name eq '" + strings.ReplaceAll(text, "'", "''") + "'"))
		if err != nil || !one.Matches(arm.Filterable{Name: text}) {
			t.Errorf("%q quoted: %v", text, err)
		}
	})
}

// TestPatchDocument: members replace, null removes, tags go as a whole, and
// what is write-only is kept from neither.
func TestPatchDocument(t *testing.T) {
	for _, c := range []struct{ kept, patch, want string }{
		{`{"a":1}`, `{}`, `{"a":1}`},
		{`{"a":1}`, `{"a":2,"b":3}`, `{"a":2,"b":3}`},
		{`{"properties":{"a":{"x":1,"y":2}}}`, `{"properties":{"a":{"y":null,"z":3}}}`, `{"properties":{"a":{"x":1,"z":3}}}`},
		{`{"properties":{"a":1}}`, `{"Properties":{"A":2}}`, `{"properties":{"a":2}}`}, // one member of a name
		{`{"tags":{"a":"b"}}`, `{"tags":{"c":"d"}}`, `{"tags":{"c":"d"}}`},
		{`{"tags":{"a":"b"}}`, `{"tags":null}`, `{}`},
		{`{"list":[1,2]}`, `{"list":[3]}`, `{"list":[3]}`},
		{`{"a":1}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{`{}`, `{"properties":{"adminPassword":"x","n":9007199254740993}}`, `{"properties":{"n":9007199254740993}}`},
	} {
		patch, err := arm.ParseDocument([]byte(c.patch))
		if err != nil {
			t.Fatal(err)
		}
		got, err := arm.PatchDocument([]byte(c.kept), patch)
		if err != nil || string(got) != c.want {
			t.Errorf("%s with %s: %s, %v, want %s", c.kept, c.patch, got, err, c.want)
		}
	}
}
