package idp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	tenant      = "11111111-1111-1111-1111-aaaaaaaaaaaa"
	otherTenant = "22222222-2222-2222-2222-222222222222"
	clientID    = "33333333-3333-3333-3333-bbbbbbbbbbbb"
	clientOID   = "44444444-4444-4444-4444-444444444444"
	secret      = "canary-secret+/=%&"
	webApp      = "33333333-0000-0000-0000-000000000001"
	webOID      = "44444444-0000-0000-0000-000000000001"
	apiApp      = "33333333-0000-0000-0000-000000000002"
	apiOID      = "44444444-0000-0000-0000-000000000002"
	nobodyApp   = "33333333-0000-0000-0000-000000000003"
	aliceOID    = "99999999-0000-0000-0000-000000000001"
	malloryOID  = "99999999-0000-0000-0000-000000000002"
	groupOID    = "99999999-0000-0000-0000-000000000003"
	outerOID    = "99999999-0000-0000-0000-000000000004"
	password    = "canary-password"
	uid         = "55555555-5555-5555-5555-555555555555"
	sourceOID   = "66666666-6666-6666-6666-666666666666"
	sourceApp   = "77777777-7777-7777-7777-777777777777"
	workspace   = "/subscriptions/88888888-8888-8888-8888-888888888888/resourcegroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// alicePassword is the hash of password; one for all tests, since it is slow.
var alicePassword = directory.HashPassword(password)

// testDirectory is the real directory, with managed identities of its own, and
// can fail.
type testDirectory struct {
	*directory.Directory
	store *store.Store

	mu         sync.Mutex
	identities map[string]idp.Identity
	err        error
}

func (d *testDirectory) Tenant(ctx context.Context, name string) (store.Tenant, error) {
	if err := d.failure(); err != nil {
		return store.Tenant{}, err
	}
	return d.Directory.Tenant(ctx, name)
}

func (d *testDirectory) ManagedIdentity(_ context.Context, resourceUID string, want idp.WantedIdentity) (idp.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	identity, ok := d.identities[resourceUID]
	if d.err != nil {
		return idp.Identity{}, d.err
	}
	if !ok || !want.Is(identity) {
		return idp.Identity{}, fmt.Errorf("identity: %w", access.ErrNotFound)
	}
	return identity, nil
}

func (d *testDirectory) fail(err error) { d.mu.Lock(); defer d.mu.Unlock(); d.err = err }

func (d *testDirectory) failure() error { d.mu.Lock(); defer d.mu.Unlock(); return d.err }

// seed fills the store: two tenants, applications of each kind, and people.
func seed(t testing.TB, s *store.Store) {
	t.Helper()
	ctx := context.Background()
	hash := func(secret string) []byte { return []byte(directory.HashSecret(secret)) }
	hour := func(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }
	must := func(_ int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Tenants.Put(ctx, store.Tenant{ID: tenant, Name: "Contoso", Domains: []string{"contoso.example", "contoso.onmicrosoft.test"}}, 0))
	must(s.Tenants.Put(ctx, store.Tenant{ID: otherTenant, Domains: []string{"fabrikam.example"}}, 0))
	for _, app := range []store.Application{
		{ClientID: clientID, ObjectID: clientOID, Name: "operator", SecretHash: hash(secret)},
		{ClientID: webApp, ObjectID: webOID, RegistrationID: webOID, Name: "Contoso Web", RedirectURIs: []string{"https://web.example/callback", "http://intranet.example/callback", "http://localhost/signin", "http://localhost/both", "http://localhost:7000/both"}, WebRedirects: []string{"http://localhost/signin", "http://localhost:7000/both"},
			Certificates: []store.Certificate{{KeyID: "1", DER: testCertificate.Certificate[0], Start: hour(-1), End: hour(1)}, {KeyID: "2", DER: lateCertificate.Certificate[0], Start: hour(1), End: hour(2)}},
			Secrets:      []store.Secret{{KeyID: "3", Hash: hash("canary-old"), Start: hour(-2), End: hour(-1)}, {KeyID: "4", Hash: hash("canary-new"), Start: hour(-2), End: hour(2)}}},
		{ClientID: apiApp, ObjectID: apiOID, RegistrationID: apiOID, Name: "Contoso API", TokenVersion: 2, GroupClaims: true, IdentifierURIs: []string{"api://contoso"}, Scopes: []string{"Things.Read"}},
		{ClientID: nobodyApp, Name: "no service principal", SecretHash: hash(secret)},
	} {
		app.TenantID = tenant
		must(s.Applications.Put(ctx, app, 0))
	}
	for _, u := range []store.User{
		{ObjectID: aliceOID, UPN: "alice@contoso.example", DisplayName: "Alice Example", GivenName: "Alice", Surname: "Example"},
		{ObjectID: malloryOID, UPN: "mallory@contoso.example", DisplayName: "Mallory", Disabled: true},
	} {
		u.TenantID, u.Stamp, u.PasswordHash = tenant, "stamp", alicePassword
		must(s.Users.Put(ctx, u, 0))
		must(s.UserNames.Put(ctx, store.UserName{UPN: u.UPN, ObjectID: u.ObjectID}, 0))
	}
	must(s.UserGroups.Put(ctx, store.Group{TenantID: tenant, ObjectID: groupOID, DisplayName: "inner", Members: []string{aliceOID}}, 0))
	must(s.UserGroups.Put(ctx, store.Group{TenantID: tenant, ObjectID: outerOID, DisplayName: "outer", Members: []string{groupOID}}, 0))
}

// world is a provider with all that surrounds it.
type world struct {
	*idp.Provider
	keys      *idp.Keys
	directory *testDirectory
	log       *bytes.Buffer
	now       time.Time
	arc       string // folder of Arc's challenges
}

func newWorld(t testing.TB) *world {
	t.Helper()
	source, err := access.ParseResourceID(workspace)
	if err != nil {
		t.Fatal(err)
	}
	records := storetest.New(t)
	seed(t, records)
	w := &world{
		directory: &testDirectory{Directory: directory.New(records), store: records, identities: map[string]idp.Identity{
			uid: {ResourceID: source, Location: "westeurope", TenantID: tenant, ObjectID: sourceOID, AppID: sourceApp},
		}},
		arc: t.TempDir(),
		log: &bytes.Buffer{},
		now: start,
	}
	if w.keys, err = idp.OpenKeys(t.TempDir()+"/keys", func() time.Time { return w.now }); err != nil {
		t.Fatal(err)
	}
	w.Provider, err = idp.New(idp.Config{
		BaseURL:   func(r *http.Request) string { return "https://" + r.Host },
		Hosts:     []string{"localhost:8443"},
		Keys:      w.keys,
		Directory: w.directory,
		Address:   "https://login.test",
		ArcTokens: w.arc,
		Aliases:   map[string]string{"https://login.test": directory.ARM, "https://login.test/graph": directory.Graph},
		Now:       func() time.Time { return w.now },
		Logger:    slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// verifier believes the provider's tokens, as the server's wiring makes it.
func (w *world) verifier(t testing.TB, requireSource bool, audiences ...string) *authenticate.Verifier {
	t.Helper()
	v, err := authenticate.New(authenticate.Config{
		Issuers: []authenticate.Issuer{{
			Issuer: w.Issuer(tenant), TenantID: tenant, Version: "1.0",
			Fetch: func(context.Context) ([]byte, error) { return w.keys.JWKS(), nil },
		}},
		Audiences: audiences, RequireSource: requireSource, Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// expand fills in a script's variables.
func (w *world) expand(text string) string {
	return strings.NewReplacer(
		"$TENANT", tenant, "$OTHER", otherTenant, "$CLIENT", clientID, "$SECRET", "canary-secret%2B%2F%3D%25%26",
		"$HEADER", w.keys.IdentityHeader(uid), "$GONE", w.keys.IdentityHeader(otherTenant),
		"$WEB", webApp, "$API", apiApp, "$NOBODY", nobodyApp, "$ALICE", aliceOID, "$GROUP", groupOID, "$OUTER", outerOID, "$AZ", directory.AzureCLI, "$ARC", w.arc, "$UID", uid,
		"$SOURCE", workspace, "$APP", sourceApp, "$OID", sourceOID,
		"$BASIC", basic(clientID, "canary-secret%2B%2F%3D%25%26"), "$BADBASIC", basic(clientID, "wrong"),
	).Replace(text)
}
