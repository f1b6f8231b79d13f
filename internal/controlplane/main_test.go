package controlplane_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	sub      = "/subscriptions/11111111-1111-1111-1111-111111111111"
	otherSub = "/subscriptions/22222222-2222-2222-2222-222222222222"
	cluster  = sub + "/resourceGroups/RG/providers/Microsoft.ContainerService/managedClusters/C"
	binding  = cluster + "/trustedAccessRoleBindings/b1"
	vault    = sub + "/resourcegroups/RG/providers/Microsoft.DataProtection/backupVaults/V1"
	tenantID = "99999999-9999-9999-9999-999999999999"
	version  = "?api-version=2025-10-01"
	consentV = `{"properties":{"sourceResourceId":"` + vault + `","roles":["Microsoft.DataProtection/backupVaults/backup-operator"]}}`
)

// callers are the tokens that the fixture's Authenticate knows.
func callers() map[string]access.Principal {
	source, err := access.ParseResourceID(vault)
	if err != nil {
		panic(err)
	}
	p := func(oid, app string) access.Principal {
		return access.Principal{Issuer: "https://idp.test/", TenantID: tenantID, ObjectID: oid, AppID: app}
	}
	asSource := p("aaaaaaaa-0000-0000-0000-000000000001", "aaaaaaaa-0000-0000-0000-000000000002")
	asSource.Resource = source
	// A source that has the owner's object id is still a source.
	twin := p("00000000-0000-0000-0000-00000000000a", "")
	twin.Resource = source
	return map[string]access.Principal{
		"owner":    p("00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-0000000000aa"),
		"stranger": p("00000000-0000-0000-0000-00000000000b", ""),
		"operator": p("00000000-0000-0000-0000-00000000000c", "00000000-0000-0000-0000-0000000000cc"),
		"source":   asSource,
		"twin":     twin,
	}
}

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

// fixture is a control plane on a store of its own, with one subscription, one
// group and one cluster.
type fixture struct {
	t     *testing.T
	cp    *controlplane.ControlPlane
	store *store.Store
	clock *clock
	log   *lockedBuffer

	mu      sync.Mutex
	records []audit.Record
	peer    peer
	noAudit bool
	// refuse fails some records; refused is closed when it first does.
	refuse  func(audit.Record) bool
	refused chan struct{}
	// validity is how long peers' certificates are still good, 0 for an hour.
	validity time.Duration
}

type peer struct {
	uid        string
	generation int64
	role       string
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.buf.String() }

// newFixture starts Run too; edit changes the configuration first.
func newFixture(t *testing.T, edit func(*controlplane.Config)) *fixture {
	t.Helper()
	f := newStopped(t)
	f.start(edit)
	return f
}

// newStopped is newFixture without its control plane.
func newStopped(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: storetest.New(t), log: &lockedBuffer{}, refused: make(chan struct{}), clock: &clock{now: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)}}
	f.seed()
	return f
}

// start makes a control plane on the fixture's store and runs it to the end
// of the test, or until stop.
func (f *fixture) start(edit func(*controlplane.Config)) (stop func()) {
	f.t.Helper()
	catalogue, err := access.Catalogue()
	must(f.t, err)
	cfg := controlplane.Config{
		Store:     f.store,
		Catalogue: catalogue,
		Authenticate: func(_ context.Context, token string) (access.Principal, error) {
			if p, ok := callers()[token]; ok {
				return p, nil
			}
			if token == "expired" {
				return access.Principal{}, &authenticate.Refusal{Code: authenticate.Expired, Message: "the token expired at noon"}
			}
			return access.Principal{}, fmt.Errorf("unknown token: %w", access.ErrUnauthenticated)
		},
		Peer: func(r *http.Request) (controlplane.Peer, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.peer.uid == "" {
				return controlplane.Peer{}, errors.New("no certificate")
			}
			return controlplane.Peer{ClusterUID: f.peer.uid, Generation: f.peer.generation, Role: f.peer.role, NotAfter: f.clock.Now().Add(cmp.Or(f.validity, time.Hour))}, nil
		},
		Audit: func(r audit.Record) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			refuse := f.refuse != nil && f.refuse(r)
			if refuse {
				select {
				case <-f.refused:
				default:
					close(f.refused)
				}
			}
			if f.noAudit || refuse {
				return fmt.Errorf("disk full: %w", access.ErrUnavailable)
			}
			f.records = append(f.records, r)
			return nil
		},
		IdentityHeader:   func(uid string) string { return "header-of-" + uid },
		IdentityEndpoint: "http://127.0.0.1:1/msi/token",
		Enrol: func(w http.ResponseWriter, _ *http.Request, id access.ResourceID, action string) {
			fmt.Fprintf(w, "%s %s", action, id)
		},
		IssueJoinToken: func(ctx context.Context, c access.Cluster, _ bool) (string, time.Time, error) {
			item, err := f.store.Clusters.Get(ctx, c.ID.Key())
			if err != nil {
				return "", time.Time{}, err
			}
			item.Value.JoinIssued = true
			_, err = f.store.Clusters.Put(ctx, item.Value, item.Version)
			return "join-canary", f.clock.Now().Add(time.Hour), err
		},
		GatewayAddress: "gateway.test:8443",
		CAHashes:       func() []string { return []string{"sha256:ca"} },
		Now:            f.clock.Now,
		Logger:         slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if edit != nil {
		edit(&cfg)
	}
	f.cp, err = controlplane.New(cfg)
	must(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.cp.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				f.t.Errorf("Run: %v", err)
			}
		})
	}
	f.t.Cleanup(stop)
	return stop
}

func (f *fixture) seed() {
	f.t.Helper()
	ctx := f.t.Context()
	for _, s := range []access.Subscription{
		{ID: id(f.t, sub), DisplayName: "Dev", TenantID: tenantID},
		{ID: id(f.t, otherSub), DisplayName: "Other", TenantID: tenantID},
	} {
		_, err := f.store.Subscriptions.Put(ctx, s, 0)
		must(f.t, err)
	}
	f.assign(callers()["owner"].ObjectID, access.OwnerRole, sub)
	f.assign("00000000-0000-0000-0000-0000000000ff", access.OwnerRole, otherSub)
	_, err := f.store.Groups.Put(ctx, access.ResourceGroup{ID: id(f.t, sub+"/resourceGroups/RG"), Location: "eastus"}, 0)
	must(f.t, err)
	_, err = f.store.Clusters.Put(ctx, access.Cluster{ID: id(f.t, cluster), UID: "cluster-uid-1", Location: "eastus", TenantID: tenantID, Document: []byte(`{}`)}, 0)
	must(f.t, err)
	operator := callers()["operator"]
	_, err = f.store.Applications.Put(ctx, store.Application{TenantID: tenantID, ClientID: operator.AppID, ObjectID: operator.ObjectID, Operator: true}, 0)
	must(f.t, err)
}

// assign stores a role assignment and returns its id.
func (f *fixture) assign(objectID, role, scope string) string {
	f.t.Helper()
	a := access.NewOwner(uuid.NewString(), id(f.t, scope), access.Owner{TenantID: tenantID, ObjectID: objectID}, objectID, f.clock.Now())
	a.Role = role
	_, err := f.store.RoleAssignments.Put(f.t.Context(), a, 0)
	must(f.t, err)
	return a.ID()
}

func id(t *testing.T, text string) access.ResourceID {
	t.Helper()
	parsed, err := access.ParseResourceID(text)
	must(t, err)
	return parsed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends one request as a caller, "" for none.
func (f *fixture) do(caller, method, url, body string) *http.Response {
	r := httptest.NewRequestWithContext(f.t.Context(), method, url, strings.NewReader(body))
	if strings.HasPrefix(url, "/") {
		r.Host = "arm.test:8443"
	}
	if caller != "" {
		r.Header.Set("Authorization", "Bearer "+caller)
	}
	w := httptest.NewRecorder()
	f.cp.ServeHTTP(w, r)
	return w.Result()
}

// want sends a request as the owner and fails unless it has the status.
func (f *fixture) want(status int, method, url, body string) (map[string]any, http.Header) {
	f.t.Helper()
	resp := f.do("owner", method, url, body)
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status {
		f.t.Fatalf("%s %s: status %d, want %d: %s", method, url, resp.StatusCode, status, text)
	}
	var v map[string]any
	if len(text) > 0 {
		must(f.t, json.Unmarshal(text, &v))
	}
	return v, resp.Header
}

func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			var i int
			fmt.Sscan(name, &i)
			if i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func (f *fixture) operation(header http.Header) map[string]any {
	f.t.Helper()
	url := strings.TrimPrefix(header.Get("Azure-AsyncOperation"), "https://arm.test:8443")
	v, _ := f.want(200, "GET", url, "")
	return v
}

// awaitOperation waits for the operation to end, woken by the store's watch.
func (f *fixture) awaitOperation(header http.Header) map[string]any {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	var last map[string]any
	err := f.store.Operations.Follow(ctx, "", func(store.Update[access.Operation]) {
		if last = f.operation(header); last["status"] != "InProgress" {
			cancel()
		}
	})
	if last["status"] == "InProgress" {
		f.t.Fatalf("operation did not end: %v: %v", last, err)
	}
	return last
}

func (f *fixture) auditOf(match func(audit.Record) bool) []audit.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []audit.Record
	for _, r := range f.records {
		if match(r) {
			out = append(out, r)
		}
	}
	return out
}
