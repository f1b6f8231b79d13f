// Package storetest gives tests a ready store on a real etcd, and holds the
// suite that every way of opening a store must pass.
//
// A test binary has one in-process etcd server, since starting one takes a
// moment: TestMain calls [Main], and each test's [New] gets a prefix of its
// own there. Nothing is faked, so a test sees the versions, conflicts and
// watches that production sees.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

// ProgressInterval of the stores that this package opens: short, so that a
// test of staleness need not wait.
const ProgressInterval = 50 * time.Millisecond

// shared is the one server of the test binary; Main writes it before any test
// runs. A test has no other way to reach what TestMain made.
var shared *store.Store

// ring encrypts what the stores of this package keep, as a server's ring does;
// Main writes it too.
var ring *keyring.Ring

// Main is the body of a TestMain: it opens a store in a temporary folder,
// runs the tests, closes it, fails if a goroutine is left, and exits.
func Main(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	if ring, err = keyring.Open(filepath.Join(dir, "encryption.key")); err != nil {
		return failed(err)
	}
	shared, err = store.Open(context.Background(), store.Config{
		Dir:              filepath.Join(dir, "etcd"),
		Keys:             ring,
		Logger:           slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		ProgressInterval: ProgressInterval,
	})
	if err != nil {
		return failed(err)
	}
	code := m.Run()
	if err := shared.Close(); err != nil {
		return failed(err)
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		return failed(err)
	}
	return 0
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "storetest:", err)
	return 1
}

// New returns an empty store for one test, closed at its end. It needs [Main].
func New(t testing.TB) *store.Store {
	t.Helper()
	if shared == nil {
		t.Fatal("no etcd is running: add func TestMain(m *testing.M) { storetest.Main(m) }")
	}
	return within(t, shared)
}

// External returns a function that gives empty stores, as [New] does, but on a
// second etcd that is reached over a loopback connection.
func External(t testing.TB) func(t *testing.T) *store.Store {
	t.Helper()
	endpoint := Serve(t)
	return func(t *testing.T) *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), store.Config{Endpoints: []string{endpoint}, Keys: ring, ProgressInterval: ProgressInterval})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeStore(t, s) })
		return within(t, s)
	}
}

// Serve runs an etcd with a loopback listener until the test ends, and
// returns its endpoint.
func Serve(t testing.TB) string {
	t.Helper()
	client, peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd was not ready within a minute")
	}
	return "http://" + server.Clients[0].Addr().String()
}

func within(t testing.TB, s *store.Store) *store.Store {
	t.Helper()
	part, err := s.Within(rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, part) })
	return part
}

func closeStore(t testing.TB, s *store.Store) {
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
