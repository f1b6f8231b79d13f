package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/clock"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/graph"
	"github.com/sallyport/sallyport/internal/hostcert"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// server is everything one process runs, built before any of it starts.
type server struct {
	cfg       serverConfig
	log       *slog.Logger
	advertise string
	registry  *prometheus.Registry
	traces    *traces
	health    *telemetry.Health
	tags      *addresses.Tags // without a file it knows ranges and no tags
	addresses addressRules

	store     *store.Store
	ring      *keyring.Ring // encrypts the store's records
	audit     *audit.File
	record    audit.Log // into audit, and counted
	authority *enroll.Authority
	hosts     *hostcert.Authority
	agents    agentConns
	keys      *idp.Keys
	directory *directory.Directory
	index     *authorize.Index
	hub       *tunnel.Hub
	ends      *clock.Clock // for what ends
	// One verifier for each audience: what is for one is nothing to the others.
	arm, data, graphTokens *authenticate.Verifier
	control                *controlplane.ControlPlane
	gateway                *gateway.Gateway
	idp                    *idp.Provider
	graph                  *graph.Graph

	// writes is held for reading by each write of an owner's, and for writing by
	// a backup that begins.
	writes sync.RWMutex
	// serving counts the handlers of the TLS port. Shutdown does not wait for
	// those that took over their connection, and they still have records to write.
	serving sync.WaitGroup
}

// runServer builds the server, prints "ready <url>" once it serves, and runs
// until ctx ends.
func runServer(ctx context.Context, cfg serverConfig, stdout io.Writer) (err error) {
	level := slog.LevelInfo
	if cfg.Verbose {
		level = slog.LevelDebug
	}
	s := &server{cfg: cfg, log: slog.New(slog.NewTextHandler(cmp.Or(cfg.log, io.Discard), &slog.HandlerOptions{Level: level}))}
	if err := checkServerConfig(cfg); err != nil {
		return err
	}
	if s.tags, err = openServiceTags(cfg); err != nil {
		return err
	}
	if s.addresses, err = newAddressRules(cfg, s.tags); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return diskHint(fmt.Errorf("data folder: %w", err), cfg.DataDir)
	}
	if err := os.Chmod(cfg.DataDir, 0o700); err != nil {
		return diskHint(fmt.Errorf("data folder: %w", err), cfg.DataDir)
	}
	// Listen first: a taken port must not cost a start of etcd.
	web, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	defer web.Close()
	identity, err := net.Listen("tcp", cfg.IdentityListen)
	if err != nil {
		return fmt.Errorf("listen on %s for managed identities: %w", cfg.IdentityListen, err)
	}
	defer identity.Close()
	var metrics net.Listener
	if cfg.MetricsListen != "" {
		if metrics, err = net.Listen("tcp", cfg.MetricsListen); err != nil {
			return withHint(fmt.Errorf("listen on %s for metrics: %w", cfg.MetricsListen, err), "choose another address with --metrics-listen, or none with --metrics-listen ''")
		}
		defer metrics.Close()
	}
	s.advertise = cmp.Or(cfg.Advertise, web.Addr().String())
	s.registry = newRegistry()
	if s.traces, err = startTraces(ctx, "sallyport-server", cfg.OTLPEndpoint, s.log); err != nil {
		return err
	}
	defer func() {
		if err := s.traces.stop(); err != nil {
			s.log.Warn("stopping", "error", err)
		}
	}()

	if err := s.openState(ctx); err != nil {
		return diskHint(err, cfg.DataDir)
	}
	// Stopped last, when nothing uses it any more.
	defer func() { err = errors.Join(err, s.store.Close(), s.audit.Close()) }()
	admin, err := s.listenAdmin()
	if err != nil {
		return err
	}
	if admin != nil {
		defer admin.Close()
	}
	op, err := s.firstStart(ctx)
	if err != nil {
		return err
	}
	if err := s.nameTenant(ctx, op.TenantID); err != nil {
		return err
	}
	if err := s.build(op, "http://"+identity.Addr().String()+"/msi/token"); err != nil {
		return err
	}
	return s.run(ctx, listeners{web, identity, metrics, admin}, stdout)
}

// openState opens what is kept under the data folder.
func (s *server) openState(ctx context.Context) (err error) {
	dir := func(name string) string { return filepath.Join(s.cfg.DataDir, name) }
	if s.authority, err = enroll.OpenAuthority(dir("ca"), s.cfg.now); err != nil {
		return err
	}
	if err := s.writeCA(); err != nil {
		return err
	}
	if s.hosts, err = hostcert.Open(dir("hosts"), s.cfg.now); err != nil {
		return err
	}
	if s.ends, err = clock.Open(dir("clock"), s.cfg.now, s.log); err != nil {
		return err
	}
	if s.keys, err = idp.OpenKeys(dir("keys"), s.cfg.now); err != nil {
		return err
	}
	if s.ring, err = keyring.Open(cmp.Or(s.cfg.EncryptionKeyFile, dir(encryptionKeyFile))); err != nil {
		return err
	}
	s.audit, err = audit.Open(audit.Config{
		Path: dir("audit.log"), MaxSize: int64(s.cfg.AuditMaxSize) << 20, MaxAge: s.cfg.AuditMaxAge, Keep: s.cfg.AuditKeep,
		Logger: s.log.With("part", "audit"), Now: s.cfg.now,
	})
	if err != nil {
		return err
	}
	cfg := store.Config{Dir: dir("etcd"), Keys: s.ring, Logger: s.log.With("part", "etcd"), Metrics: s.registry}
	if len(s.cfg.EtcdEndpoints) > 0 {
		cfg.Dir, cfg.Endpoints = "", s.cfg.EtcdEndpoints
		if cfg.TLS, err = etcdTLS(s.cfg); err != nil {
			return errors.Join(err, s.audit.Close())
		}
	}
	if s.store, err = store.Open(ctx, cfg); err != nil {
		return errors.Join(err, s.audit.Close())
	}
	return nil
}

// diskHint says what to do about a disk that takes no more, which the error of
// whichever part met it first does not.
func diskHint(err error, dir string) error {
	for errno, hint := range map[syscall.Errno]string{
		syscall.EROFS:  "the disk of data folder %s is read-only; mount it for writing, or look why the kernel did that, and start again: nothing acknowledged is lost",
		syscall.ENOSPC: "free space on the disk of data folder %s and start again: nothing acknowledged is lost",
		syscall.EDQUOT: "raise the quota of the disk of data folder %s and start again: nothing acknowledged is lost",
	} {
		if strings.Contains(err.Error(), errno.Error()) { // some parts keep the text alone
			return withHint(err, hint, dir)
		}
	}
	return err
}

// etcdTLS reads the files that authenticate both sides; nil without any.
func etcdTLS(cfg serverConfig) (*tls.Config, error) {
	if cfg.EtcdCA == "" && cfg.EtcdCert == "" && cfg.EtcdKey == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(cfg.EtcdCA)
	if err != nil {
		return nil, fmt.Errorf("--etcd-ca: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--etcd-ca: %s holds no PEM certificate: %w", cfg.EtcdCA, access.ErrInvalid)
	}
	if cfg.EtcdCert == "" && cfg.EtcdKey == "" {
		return config, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.EtcdCert, cfg.EtcdKey)
	if err != nil {
		return nil, fmt.Errorf("--etcd-cert and --etcd-key: %w", err)
	}
	config.Certificates = []tls.Certificate{cert}
	return config, nil
}
