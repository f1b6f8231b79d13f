package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// feedSilence is how long an agent's feed may be dead before it is noticed. A
// heartbeat goes out each second.
const feedSilence = 10 * time.Second

// listeners are the server's ways in. metrics and admin may be nil.
type listeners struct{ web, identity, metrics, admin net.Listener }

// run starts everything in stages and waits.
func (s *server) run(ctx context.Context, in listeners, stdout io.Writer) error {
	web := in.web
	feed := newHandOver(web.Addr())
	door, err := s.frontDoor(feed)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.store.Clusters.Follow(ctx, "", func(u store.Update[access.Cluster]) {
			s.index.UpdateClusters(forIndex(u))
		})
	})
	group.Go(func() error {
		return s.store.Bindings.Follow(ctx, "", func(u store.Update[access.RoleBinding]) {
			s.index.UpdateBindings(forIndex(u))
		})
	})
	group.Go(func() error {
		return s.store.Resources.Follow(ctx, "", func(u store.Update[access.Resource]) {
			s.index.UpdateResources(forIndex(u))
		})
	})
	group.Go(func() error { return s.index.Run(ctx) })
	group.Go(func() error {
		return s.ends.Run(ctx, func(err error) {
			s.log.Error("a clock that is set back before a restart may not be noticed", "error", err)
		})
	})
	group.Go(func() error { return s.control.Run(ctx) })
	group.Go(func() error { return s.arm.Run(ctx) })
	group.Go(func() error { return s.data.Run(ctx) })
	group.Go(func() error {
		return s.keys.Run(ctx, func(err error) { s.log.Warn("an old signing key is left", "error", err) })
	})
	group.Go(func() error { return s.graphTokens.Run(ctx) })
	if s.cfg.ServiceTags != "" {
		group.Go(func() error { return s.tags.Follow(ctx, serviceTagsEvery, s.log) })
	}

	feedServer := &http.Server{Handler: s.control.FeedHandler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ErrorLog: s.httpLog()}
	group.Go(func() error { return serveUntil(ctx, feedServer, feed) })

	identityServer := &http.Server{Handler: s.idp.ManagedIdentity(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, ErrorLog: s.httpLog()}
	group.Go(func() error { return serveUntil(ctx, identityServer, in.identity) })

	if in.metrics != nil {
		s.log.Info("metrics", "address", in.metrics.Addr())
		watched := watchPort(prometheus.Gatherers{s.registry, etcdMetrics()}, s.health, s.log)
		group.Go(func() error { return serveUntil(ctx, watched, in.metrics) })
	}

	if in.admin != nil {
		group.Go(func() error { return serveUntil(ctx, s.adminServer(), in.admin) })
	}

	// An index that is not loaded would refuse every agent.
	group.Go(func() error {
		select {
		case <-s.index.Loaded():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		fmt.Fprintf(stdout, "ready https://%s\n", s.advertise)
		s.log.Info("serving", "address", s.advertise, "data", s.cfg.DataDir, "caHash", s.authority.CAHash())
		return door.serve(ctx, web)
	})

	err = group.Wait()
	s.serving.Wait() // their tunnels are gone, and every stream ends with its tunnel
	drain, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if closeErr := s.hub.Close(drain); closeErr != nil {
		s.log.Warn("tunnels did not end in time", "error", closeErr)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// frontDoor makes the one TLS port's dispatcher.
func (s *server) frontDoor(feed *handOver) (*frontDoor, error) {
	host, _, err := net.SplitHostPort(s.advertise)
	if err != nil {
		return nil, fmt.Errorf("advertised address %q: %w", s.advertise, access.ErrInvalid)
	}
	names := []string{host, "localhost", "127.0.0.1", "::1"}
	if s.cfg.ClusterDomain != "" {
		names = append(names, "*."+s.cfg.ClusterDomain)
	}
	current := func(id enroll.Identity) error { return s.index.Agent(id.ClusterUID, id.Generation) }
	origin := func(conn net.Conn) (net.Conn, error) { return conn, nil }
	if s.cfg.ProxyProtocol {
		origin = s.addresses.proxies.Origin
	}
	return &frontDoor{
		log:     s.log,
		origin:  origin,
		isAgent: enroll.FromAgent,
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if cert, err := s.hosts.Certificate(hello.ServerName); cert != nil || err != nil {
					return cert, err
				}
				return s.authority.CertificateFor(hello, names)
			},
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if enroll.IsAgent(hello) {
					return s.authority.AgentTLS(current), nil
				}
				return nil, nil
			},
		},
		byProtocol: map[string]func(context.Context, *tls.Conn){
			enroll.ALPNTunnel: s.serveTunnel,
			enroll.ALPNFeed: func(_ context.Context, conn *tls.Conn) {
				if err := boundSilence(conn, feedSilence); err != nil {
					s.log.Warn("a feed of a lost agent will be noticed late", "error", err)
				}
				s.giveFeed(feed, conn)
			},
		},
		web: &http.Server{
			Handler:           http.HandlerFunc(s.serveWeb),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    tunnel.HeaderLimit + 32<<10, // and an address; the gateway itself refuses more headers
			ErrorLog:          s.httpLog(),
			HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250, MaxReceiveBufferPerConnection: 4<<20 - 1, MaxReceiveBufferPerStream: 1 << 20},
		},
	}, nil
}

// serveWeb picks the part by the first path segment. A cluster's own host has
// no part but the gateway.
func (s *server) serveWeb(w http.ResponseWriter, r *http.Request) {
	s.serving.Add(1)
	defer s.serving.Done()
	if s.gateway.HasHost(r) {
		s.gateway.ServeHTTP(w, r)
		return
	}
	if part, ok := azurePart(r); ok {
		defer s.writing(r)()
		s.serveAzure(part, w, r)
		return
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	first = strings.ToLower(first)
	if "/"+first == gateway.PathPrefix {
		s.gateway.ServeHTTP(w, r)
		return
	}
	defer s.writing(r)()
	switch first {
	case "subscriptions", "providers", "tenants", "metadata":
		s.control.ServeHTTP(w, r)
	case "graph", "oidc":
		arm.LimitBody(w, r)
		s.graph.ServeHTTP(w, r)
	case "healthz", "livez", "readyz":
		s.health.ServeHTTP(w, r)
	default:
		arm.LimitBody(w, r) // the control plane sets it itself; only the data plane's may take their time
		s.idp.ServeHTTP(w, r)
	}
}

func (s *server) serveTunnel(ctx context.Context, conn *tls.Conn) {
	defer conn.Close()
	id, err := s.authority.Peer(conn.ConnectionState())
	if err != nil {
		s.log.Warn("tunnel refused", "remote", conn.RemoteAddr(), "error", err)
		return
	}
	defer s.agents.enter(conn, id)()
	peer := tunnel.Peer{ClusterUID: id.ClusterUID, Generation: id.Generation, Agent: id.Serial, NotAfter: id.NotAfter}
	if err := s.hub.Serve(ctx, conn, peer); err != nil && ctx.Err() == nil {
		s.log.Info("tunnel ended", "cluster", id.ClusterUID, "reason", err)
	}
}

// peer reads an agent's identity from its verified certificate.
func (s *server) peer(r *http.Request) (controlplane.Peer, error) {
	if r.TLS == nil {
		return controlplane.Peer{}, fmt.Errorf("not a TLS connection: %w", access.ErrUnauthenticated)
	}
	id, err := s.authority.Peer(*r.TLS)
	return controlplane.Peer{ClusterUID: id.ClusterUID, Generation: id.Generation, Role: string(id.Role), NotAfter: id.NotAfter}, err
}

func (s *server) auditEnrolment(e enroll.Event) {
	rec := audit.Record{
		Time: e.At.UTC(), Stage: audit.Consent, ID: uuid.NewString(), Remote: e.Remote, Cluster: e.Cluster.String(),
		Action: "agents/" + string(e.Action),
		Detail: map[string]any{"role": e.Role, "generation": e.Generation, "serial": e.Serial, "issuer": e.Issuer},
	}
	allowed := e.Err == nil
	rec.Allowed = &allowed
	if e.Err != nil {
		rec.Reason = e.Err.Error()
	}
	if err := s.record(rec); err != nil {
		s.log.Error("enrolment not recorded", "error", err)
	}
}

func (s *server) httpLog() *log.Logger { return slog.NewLogLogger(s.log.Handler(), slog.LevelDebug) }

// serveUntil serves until ctx ends.
func serveUntil(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { shutdown(srv) })
	defer stop()
	err := srv.Serve(ln)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// forIndex hands a store's update to the index, which knows nothing of stores.
func forIndex[T any](u store.Update[T]) authorize.Update[T] {
	changed := make([]T, len(u.Changed))
	for i, item := range u.Changed {
		changed[i] = item.Value
	}
	return authorize.Update[T]{Reset: u.Reset, Changed: changed, Deleted: u.Deleted, Revision: u.Revision, AsOf: u.AsOf}
}
