package store

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/keyring"
)

// callTimeout bounds a call whose context has no deadline of its own.
const callTimeout = 10 * time.Second

// Config says where the records are kept. Exactly one of Dir and Endpoints
// must be set.
type Config struct {
	// Dir is the folder of the in-process etcd server. It is created with
	// mode 0700, and is locked while the store is open.
	Dir string
	// Endpoints are the client URLs of an external etcd cluster, such as
	// "https://10.0.0.5:2379".
	Endpoints []string
	// TLS authenticates both sides to an external cluster. Without it only
	// loopback endpoints are accepted.
	TLS *tls.Config
	// Prefix begins every key; it begins and ends in "/". The default is
	// "/sallyport/". Stores with different prefixes do not see each other.
	Prefix string
	// Logger gets etcd's own warnings and errors, and what Follow could not
	// do. By default they are discarded; a server should set it, because etcd
	// ends the process when it cannot write its log, and says why only here.
	Logger *slog.Logger
	// ProgressInterval is how often Follow proves to its consumer that it is
	// up to date. The default is 1 s.
	ProgressInterval time.Duration
	// Metrics takes the store's metrics; nil counts for nobody.
	Metrics prometheus.Registerer
	// Keys encrypt every value. An empty ring gets its first key when the store
	// is opened, and a store from before is encrypted then. Nil leaves values as
	// they are, and refuses a store that is encrypted.
	Keys *keyring.Ring
}

// Store is an open store. Its fields are the kinds of records it keeps; they
// are safe for concurrent use and must not be changed.
type Store struct {
	Subscriptions Kind[access.Subscription]
	Groups        Kind[access.ResourceGroup]
	Registrations Kind[access.Registration]
	Resources     Kind[access.Resource]
	ResourceUIDs  Kind[ResourceUID]
	Clusters      Kind[access.Cluster]
	Extensions    Kind[access.Extension]
	JoinTokens    Kind[JoinToken]
	Bindings      Kind[access.RoleBinding]
	Tombstones    Kind[access.Tombstone]
	Operations    Kind[access.Operation]
	Pending       Kind[access.Operation]
	Tenants       Kind[Tenant]
	Applications  Kind[Application]
	Users         Kind[User]
	UserNames     Kind[UserName]
	UserGroups    Kind[Group]

	RoleAssignments      Kind[access.RoleAssignment]
	FederatedCredentials Kind[access.FederatedCredential]

	sealer   *sealer
	prefix   string
	log      *slog.Logger
	interval time.Duration
	conn     *connection
	metrics  *metrics

	life context.Context // ends with Close: no call outlives the store
	end  context.CancelFunc

	mu     sync.Mutex // guards closed, and Add against Wait
	closed bool
	calls  sync.WaitGroup
}

// connection is all that differs between the server in this process and an
// external cluster.
type connection struct {
	client *clientv3.Client
	// newWatcher makes a watcher with streams of its own. Each Follow has one,
	// so a slow consumer delays no other, and nothing is left when it ends.
	newWatcher func() clientv3.Watcher
	close      func() error
}

// Open connects to etcd, starting the in-process server if cfg names a
// folder, and returns when it answers. The error wraps [access.ErrInvalid]
// for a faulty Config and [access.ErrUnavailable] otherwise.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if (cfg.Dir == "") == (len(cfg.Endpoints) == 0) {
		return nil, fmt.Errorf("open store: exactly one of Dir (%q) and Endpoints (%q) must be set: %w", cfg.Dir, cfg.Endpoints, access.ErrInvalid)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "/sallyport/"
	}
	if err := checkRoot(cfg.Prefix); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ProgressInterval <= 0 {
		cfg.ProgressInterval = time.Second
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute) // a large log takes a while to read
		defer cancel()
	}
	var conn *connection
	var err error
	if cfg.Dir != "" {
		conn, err = embedded(ctx, cfg.Dir, cfg.Logger)
	} else {
		conn, err = external(cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := newStore(conn, &sealer{ring: cfg.Keys}, cfg)
	if err := s.probe(ctx); err != nil {
		s.Close() // the probe's error is the one to show
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.unlock(ctx); err != nil {
		s.Close() // this error is the one to show
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// newStore gives each kind its name, its folder and its key.
func newStore(conn *connection, sealer *sealer, cfg Config) *Store {
	s := &Store{sealer: sealer, prefix: cfg.Prefix, log: cfg.Logger, interval: cfg.ProgressInterval, conn: conn, metrics: newMetrics(cfg.Metrics)}
	s.life, s.end = context.WithCancel(context.Background())
	s.Subscriptions = kindOf(s, "subscription", "subscriptions", byID, subscriptionKey)
	s.Groups = kindOf(s, "resource group", "groups", byID, groupKey)
	s.Registrations = kindOf(s, "registration", "registrations", byID, registrationKey)
	s.Resources = kindOf(s, "resource", "resources", byID, resourceKey)
	s.ResourceUIDs = kindOf(s, "resource uid", "resourceuids", byName, resourceUIDKey)
	s.Clusters = kindOf(s, "cluster", "clusters", byID, clusterKey)
	s.Extensions = kindOf(s, "cluster extension", "extensions", byID, extensionKey)
	s.JoinTokens = kindOf(s, "join token", "jointokens", byName, joinTokenKey)
	s.Bindings = kindOf(s, "role binding", "bindings", byID, bindingKey)
	s.Tombstones = kindOf(s, "tombstone", "tombstones", byID, tombstoneKey)
	s.Operations = kindOf(s, "operation", "operations", byName, operationKey)
	s.Pending = kindOf(s, "pending operation", "pending", byName, pendingKey)
	s.Tenants = kindOf(s, "tenant", "tenants", byName, tenantKey)
	s.Applications = kindOf(s, "application", "applications", byName, applicationKey)
	s.Users = kindOf(s, "user", "users", byName, userKey)
	s.UserNames = kindOf(s, "user name", "usernames", byName, userNameKey)
	s.UserGroups = kindOf(s, "group of users", "usergroups", byName, directoryGroupKey)
	s.FederatedCredentials = kindOf(s, "federated credential", "federatedcredentials", byID, federatedCredentialKey)
	s.RoleAssignments = kindOf(s, "role assignment", "roleassignments", byID, roleAssignmentKey)
	return s
}

// Within returns a store on the same connection that keeps its records under
// a further segment of the prefix, apart from all others. Closing it leaves
// the connection open; it must be closed before s. Tests use it to share a
// server. The error wraps [access.ErrInvalid].
func (s *Store) Within(segment string) (*Store, error) {
	prefix := s.prefix + segment + "/"
	if err := checkRoot(prefix); err != nil || strings.Contains(segment, "/") {
		return nil, fmt.Errorf("store within %q: must be one segment of printable ASCII: %w", segment, access.ErrInvalid)
	}
	shared := &connection{client: s.conn.client, newWatcher: s.conn.newWatcher, close: func() error { return nil }}
	return newStore(shared, s.sealer, Config{Prefix: prefix, Logger: s.log, ProgressInterval: s.interval}), nil
}

// Close ends every call and Follow, waits for them, and then stops the
// connection and, last, the in-process server. Closing again does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.calls.Wait()
	if err := s.conn.close(); err != nil {
		return fmt.Errorf("close store: %v: %w", err, access.ErrUnavailable)
	}
	return nil
}

// enter begins a call: ctx then also ends with the store, and done must be
// called at its end.
func (s *Store) enter(ctx context.Context) (_ context.Context, done func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, fmt.Errorf("the store is closed: %w", access.ErrUnavailable)
	}
	s.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() { stop(); cancel(); s.calls.Done() }, nil
}

// limited is enter with a time limit, if ctx has none.
func (s *Store) limited(ctx context.Context) (context.Context, func(), error) {
	limit := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, limit = context.WithTimeout(ctx, callTimeout)
	}
	ctx, done, err := s.enter(ctx)
	if err != nil {
		limit()
		return nil, nil, err
	}
	return ctx, func() { done(); limit() }, nil
}

// Ping reports whether the store answers now: etcd, with a majority of its
// members. The error wraps [access.ErrUnavailable].
func (s *Store) Ping(ctx context.Context) error { return s.probe(ctx) }

// probe asks etcd for a linearizable read.
func (s *Store) probe(ctx context.Context) error {
	_, err := s.current(ctx)
	return err
}

// current returns a revision that is at least that of every write
// acknowledged before the call: a majority has agreed to it, so a member cut
// off from the others cannot answer.
func (s *Store) current(ctx context.Context) (int64, error) {
	caller := ctx
	ctx, done, err := s.limited(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	resp, err := s.conn.client.Get(ctx, s.prefix, clientv3.WithKeysOnly())
	if err != nil {
		return 0, failure(caller, err, "ask etcd for its revision", false)
	}
	return resp.Header.Revision, nil
}

func checkRoot(prefix string) error {
	if len(prefix) < 3 || len(prefix) > 256 || prefix[0] != '/' || prefix[len(prefix)-1] != '/' {
		return fmt.Errorf("prefix %q must begin and end in / and have 3 to 256 characters: %w", access.Clip(prefix, maxQuoted), access.ErrInvalid)
	}
	if err := checkKey(prefix[1 : len(prefix)-1]); err != nil {
		return fmt.Errorf("prefix %q: %v: %w", access.Clip(prefix, maxQuoted), err, access.ErrInvalid)
	}
	return nil
}
