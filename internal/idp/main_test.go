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

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/idp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenant      = "11111111-1111-1111-1111-aaaaaaaaaaaa"
	otherTenant = "22222222-2222-2222-2222-222222222222"
	clientID    = "33333333-3333-3333-3333-bbbbbbbbbbbb"
	clientOID   = "44444444-4444-4444-4444-444444444444"
	secret      = "canary-secret+/=%&"
	uid         = "55555555-5555-5555-5555-555555555555"
	sourceOID   = "66666666-6666-6666-6666-666666666666"
	sourceApp   = "77777777-7777-7777-7777-777777777777"
	workspace   = "/subscriptions/88888888-8888-8888-8888-888888888888/resourcegroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// directory is a Directory that can change and fail.
type directory struct {
	mu         sync.Mutex
	identities map[string]idp.Identity
	err        error
}

func (d *directory) Application(_ context.Context, id string) (idp.Application, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return idp.Application{}, d.err
	}
	if id != clientID {
		return idp.Application{}, fmt.Errorf("application: %w", access.ErrNotFound)
	}
	return idp.Application{TenantID: tenant, ClientID: clientID, ObjectID: clientOID, SecretHash: idp.HashSecret(secret)}, nil
}

func (d *directory) ManagedIdentity(_ context.Context, resourceUID string) (idp.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	identity, ok := d.identities[resourceUID]
	if d.err != nil {
		return idp.Identity{}, d.err
	}
	if !ok {
		return idp.Identity{}, fmt.Errorf("identity: %w", access.ErrNotFound)
	}
	return identity, nil
}

func (d *directory) HasTenant(_ context.Context, id string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return id == tenant || id == otherTenant, d.err
}

func (d *directory) fail(err error) { d.mu.Lock(); defer d.mu.Unlock(); d.err = err }

// world is a provider with all that surrounds it.
type world struct {
	*idp.Provider
	keys      *idp.Keys
	directory *directory
	log       *bytes.Buffer
	now       time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	source, err := access.ParseResourceID(workspace)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		directory: &directory{identities: map[string]idp.Identity{
			uid: {ResourceID: source, TenantID: tenant, ObjectID: sourceOID, AppID: sourceApp},
		}},
		log: &bytes.Buffer{},
		now: start,
	}
	if w.keys, err = idp.OpenKeys(t.TempDir() + "/keys"); err != nil {
		t.Fatal(err)
	}
	w.Provider, err = idp.New(idp.Config{
		BaseURL:       func(r *http.Request) string { return "https://" + r.Host },
		Hosts:         []string{"localhost:8443"},
		Keys:          w.keys,
		Directory:     w.directory,
		AllowAudience: func(a string) bool { return a == "https://login.test" },
		Now:           func() time.Time { return w.now },
		Logger:        slog.New(slog.NewTextHandler(w.log, nil)),
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
		"$SOURCE", workspace, "$APP", sourceApp, "$OID", sourceOID,
		"$BASIC", basic(clientID, "canary-secret%2B%2F%3D%25%26"), "$BADBASIC", basic(clientID, "wrong"),
	).Replace(text)
}
