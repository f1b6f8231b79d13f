package directory_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	one    = "11111111-1111-1111-1111-111111111111"
	two    = "22222222-2222-2222-2222-222222222222"
	app    = "33333333-3333-3333-3333-333333333333"
	person = "44444444-4444-4444-4444-444444444444"
)

func must(t *testing.T, _ int64, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seeded(t *testing.T) (*directory.Directory, *store.Store) {
	t.Helper()
	s := storetest.New(t)
	put := func(v int64, err error) { t.Helper(); must(t, v, err) }
	put(s.Tenants.Put(t.Context(), store.Tenant{ID: one}, 0))
	put(s.Tenants.Put(t.Context(), store.Tenant{ID: two, Domains: []string{"fabrikam.example", "fabrikam.onmicrosoft.test"}}, 0))
	put(s.Applications.Put(t.Context(), store.Application{TenantID: one, ClientID: app, ObjectID: person, IdentifierURIs: []string{"api://one/"}}, 0))
	put(s.Users.Put(t.Context(), store.User{TenantID: one, ObjectID: person, UPN: "Alice@sallyport.internal"}, 0))
	put(s.UserNames.Put(t.Context(), store.UserName{UPN: "Alice@sallyport.internal", ObjectID: person}, 0))
	return directory.New(s), s
}

func TestTenant(t *testing.T) {
	d, _ := seeded(t)
	for name, want := range map[string]string{
		one: one, "SALLYPORT.internal": one, strings.ToUpper(two): two, "Fabrikam.Example": two, "fabrikam.onmicrosoft.test": two,
		"contoso.example": "", app: "", "": "", "fabrikam.example/": "",
	} {
		got, err := d.Tenant(t.Context(), name)
		if got.ID != want || (want == "") != errors.Is(err, access.ErrNotFound) {
			t.Errorf("%q is %q, %v", name, got.ID, err)
		}
	}
}

// TestFirstParty: Microsoft's applications are in each tenant, with an object
// id that is the tenant's own and stays.
func TestFirstParty(t *testing.T) {
	d, _ := seeded(t)
	first, err := d.Application(t.Context(), one, strings.ToUpper(directory.AzureCLI))
	if err != nil || first.ClientID != directory.AzureCLI || !access.IsGUID(first.ObjectID) || !first.PublicClient {
		t.Errorf("got %+v, %v", first, err)
	}
	again, err := d.Application(t.Context(), one, directory.AzureCLI)
	other, err2 := d.Application(t.Context(), two, directory.AzureCLI)
	if err != nil || err2 != nil || again.ObjectID != first.ObjectID || other.ObjectID == first.ObjectID {
		t.Errorf("object ids are %s, %s and %s", first.ObjectID, again.ObjectID, other.ObjectID)
	}
	if home, err := d.Home(t.Context(), directory.AzureCLI); home != "" || err != nil {
		t.Errorf("its home is %q, %v", home, err)
	}
	if home, err := d.Home(t.Context(), app); home != one || err != nil {
		t.Errorf("the application's home is %q, %v", home, err)
	}
}

func TestAPI(t *testing.T) {
	d, _ := seeded(t)
	for audience, want := range map[string]string{
		"https://management.azure.com": directory.ARM, "https://management.core.windows.net/": directory.ARM,
		directory.ARM: directory.ARM, "https://graph.microsoft.com/": directory.Graph, "spn:" + directory.AKSServer: directory.AKSServer,
		directory.TrustedAccess: directory.TrustedAccess, "api://ONE": app, app: app,
		"": "", "/": "", "https://management.azure.com//": "", "api://two": "", two: "",
	} {
		got, err := d.API(t.Context(), one, audience)
		if got.ClientID != want || (want == "") != errors.Is(err, access.ErrNotFound) {
			t.Errorf("%q is %q, %v", audience, got.ClientID, err)
		}
	}
	if _, err := d.API(t.Context(), two, "api://one"); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("another tenant's API: %v", err)
	}
	if _, err := d.Application(t.Context(), two, app); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("another tenant's application: %v", err)
	}
}

func TestUser(t *testing.T) {
	d, _ := seeded(t)
	for _, name := range []string{person, "alice@SALLYPORT.internal"} {
		if u, err := d.User(t.Context(), one, name); err != nil || u.ObjectID != person {
			t.Errorf("%q is %+v, %v", name, u, err)
		}
	}
	for _, name := range []string{"bob@sallyport.internal", "", "a/b@c", "alice@sallyport.internal\n", app} {
		if _, err := d.User(t.Context(), one, name); !errors.Is(err, access.ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := d.User(t.Context(), two, person); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("in another tenant: %v", err)
	}
}

// TestGroups: through other groups, round a circle, and not those of another
// tenant.
func TestGroups(t *testing.T) {
	d, s := seeded(t)
	for _, g := range []store.Group{
		{TenantID: one, ObjectID: "a", Members: []string{strings.ToUpper(person), "c"}},
		{TenantID: one, ObjectID: "b", Members: []string{"a"}},
		{TenantID: one, ObjectID: "c", Members: []string{"b"}},
		{TenantID: one, ObjectID: "d", Members: []string{app}},
		{TenantID: two, ObjectID: "e", Members: []string{person}},
	} {
		v, err := s.UserGroups.Put(t.Context(), g, 0)
		must(t, v, err)
	}
	got, err := d.Groups(t.Context(), one, person)
	if err != nil || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("groups are %v, %v", got, err)
	}
}

func TestPassword(t *testing.T) {
	hash := directory.HashPassword("correct horse")
	if hash == directory.HashPassword("correct horse") || strings.Contains(hash, "horse") {
		t.Errorf("hash is %q", hash)
	}
	for _, test := range []struct {
		name, hash, password string
		want                 bool
	}{
		{"right", hash, "correct horse", true},
		{"wrong", hash, "correct horsf", false},
		{"empty", hash, "", false},
		{"no hash", "", "", false},
		{"the hash itself", hash, hash, false},
		{"cut off", hash[:20], "correct horse", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := directory.PasswordIs(test.hash, test.password); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
	for password, ok := range map[string]bool{"1234567": false, "12345678": true, "pässwörd": true, strings.Repeat("x", 256): true, strings.Repeat("x", 257): false} {
		if err := directory.CheckPassword(password); (err == nil) != ok || err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%q: %v", password, err)
		}
	}
}

// A command line takes a secret for an option if it begins as one.
func TestSecretIsAnArgument(t *testing.T) {
	for range 3000 { // without care, all of them pass once in 10^20 times
		if secret := directory.NewSecret(); len(secret) != 43 || strings.HasPrefix(secret, "-") {
			t.Fatalf("NewSecret() = %q", secret)
		}
	}
}

func TestSecrets(t *testing.T) {
	a, b := directory.NewSecret(), directory.NewSecret()
	if a == b || len(a) != 43 {
		t.Errorf("secrets are %q and %q", a, b)
	}
	tests := []struct {
		name, hash, secret string
		want               bool
	}{
		{"right", directory.HashSecret(a), a, true},
		{"wrong", directory.HashSecret(a), b, false},
		{"empty", directory.HashSecret(a), "", false},
		{"no hash", "", "", false},
		{"the hash itself", directory.HashSecret(a), directory.HashSecret(a), false},
		{"hash cut off", directory.HashSecret(a)[:10], a, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := directory.CheckSecret(test.hash, test.secret); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
