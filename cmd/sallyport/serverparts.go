package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/graph"
	"github.com/sallyport/sallyport/internal/hostcert"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// build makes the parts and connects them; nothing runs yet.
func (s *server) build(op operator, identityEndpoint string) (err error) {
	unserved := &unserved{log: s.log}
	s.directory = directory.New(s.store)
	if err := s.buildIDP(unserved); err != nil {
		return err
	}
	if err := s.buildVerifiers(op); err != nil {
		return err
	}
	s.hub = tunnel.NewHub(tunnel.HubConfig{Logger: s.log.With("part", "tunnel"), Metrics: s.registry})
	s.index = authorize.NewIndex(authorize.Config{
		Now:         s.cfg.now,
		Ends:        s.ends.Now,
		Revoked:     func(uid, cause string) { s.gateway.Revoke(uid, cause) },
		ClusterGone: s.hub.Drop,

		SubscriptionWide: s.cfg.PreviewRoleBindings,
		Ranges:           func(ranges []string) (authorize.Set, error) { return s.tags.StoredSet(ranges) },
		Metrics:          s.registry,
	})
	s.record = audit.NewMetrics(s.registry).Counted(s.audit.Log)
	s.graph, err = graph.New(graph.Config{
		Store: s.store, Directory: s.directory, Authenticate: s.graphTokens.Principal, Audit: s.record,
		Remote: s.addresses.remote, Now: s.cfg.now, Logger: s.log.With("part", "graph"), Unserved: unserved.of("graph"),
	})
	if err != nil {
		return err
	}
	s.health = &telemetry.Health{Logger: s.log, Checks: []telemetry.Check{
		{Name: "index", Run: func(context.Context) error { return s.index.Fresh() }},
		{Name: "store", Run: s.store.Ping},
		{Name: "audit", Run: func(context.Context) error { return audit.Writable(s.cfg.DataDir) }},
	}}
	if err := s.buildGateway(); err != nil {
		return err
	}
	return s.buildControlPlane(identityEndpoint, unserved)
}

func (s *server) buildIDP(unserved *unserved) (err error) {
	own := "https://" + s.advertise
	s.idp, err = idp.New(idp.Config{
		Now:       s.cfg.now,
		BaseURL:   func(r *http.Request) string { return "https://" + r.Host },
		Keys:      s.keys,
		Directory: identities{s.directory, s.store},
		Metrics:   s.registry,
		Logger:    s.log.With("part", "idp"),
		Unserved:  unserved.of("idp"),
		Address:   own,
		Hosts:     loopbackHosts(s.advertise, s.cfg.Listen),
		Remote:    s.addresses.remote,
		ArcTokens: s.cfg.ArcTokens,
		// Terraform asks for a token for the ARM address it was given, and az, in a
		// cloud that was registered by hand, for the Graph address.
		Aliases: map[string]string{own: directory.ARM, own + "/graph": directory.Graph},
	})
	return err
}

func (s *server) buildGateway() (err error) {
	s.gateway, err = gateway.New(gateway.Config{
		Now:           s.cfg.now,
		Address:       s.addresses.proxies.Client,
		From:          s.addresses.from,
		Authenticate:  s.data.Principal,
		Authorizer:    s.index,
		Audit:         s.record,
		Metrics:       s.registry,
		Tracer:        s.traces.tracer,
		To:            s.hub.To,
		Live:          &tunnel.Live{},
		TokenGrace:    s.cfg.TokenGrace,
		ClusterDomain: s.cfg.ClusterDomain,
		ClusterID:     s.index.ClusterID,
		BindingLimits: s.cfg.BindingLimits.gateway(),
		ClusterLimits: s.cfg.ClusterLimits.gateway(),
		Logger:        s.log.With("part", "gateway"),
	})
	return err
}

// buildControlPlane makes the control plane, and the enrolment of agents that
// it serves.
func (s *server) buildControlPlane(identityEndpoint string, unserved *unserved) error {
	enrolment, err := enroll.NewServer(enroll.Config{
		Now:       s.cfg.now,
		Authority: s.authority,
		Records:   enrolments{s.store},
		Address:   s.advertise,
		Remote:    s.addresses.remote,
		Audit:     s.auditEnrolment,

		CertificateLife: s.cfg.AgentCertificateLifetime,
	})
	if err != nil {
		return err
	}
	catalogue, err := access.Catalogue()
	if err != nil {
		return err
	}
	s.control, err = controlplane.New(controlplane.Config{
		Now:          s.cfg.now,
		Store:        s.store,
		Authenticate: s.arm.Principal,
		Peer:         s.peer,
		Remote:       s.addresses.remote,
		Audit:        s.record,
		Records:      s.audit,
		Explain:      s.gateway.Explain,
		Metrics:      s.registry,
		Tracer:       s.traces.tracer,
		Catalogue:    catalogue,
		BindingLimit: s.cfg.BindingLimit,

		PreviewRoleBindings: s.cfg.PreviewRoleBindings,

		IdentityHeader:   s.keys.IdentityHeader,
		IdentityEndpoint: identityEndpoint,
		Enrol: func(w http.ResponseWriter, r *http.Request, cluster access.ResourceID, action string) {
			if action == string(enroll.ActionEnrol) {
				enrolment.Enrol(w, r, cluster)
				return
			}
			enrolment.Certificate(w, r, cluster)
		},
		IssueJoinToken: func(ctx context.Context, cluster access.Cluster, reset bool) (string, time.Time, error) {
			token, expires, err := enrolment.NewJoinToken(ctx, cluster.ID, reset)
			if err != nil {
				return "", time.Time{}, err
			}
			return token.Text(), expires, nil
		},
		AzureHosts:   hostcert.Names(),
		AzureHostsCA: string(s.hosts.CertPEM()),
		IssueLease: func(ctx context.Context, caller access.Principal, audience string, most time.Duration) (controlplane.Lease, error) {
			token, expires, err := s.idp.Lease(ctx, caller, audience, most)
			return controlplane.Lease{Token: token, Expires: expires}, err
		},
		CACertificates: s.authority.CACertPEM,
		GatewayAddress: s.advertise,
		ClusterAddress: s.clusterAddress,
		CAHashes:       s.authority.CAHashes,
		Settled:        s.index.WaitFor,
		Tunnel:         s.hub.Connected,
		ClusterSettled: s.index.WaitForClusters,
		CheckRanges: func(ranges []string) error {
			_, err := s.tags.Set(ranges)
			return err
		},
		AgentTimeout: s.cfg.AgentTimeout,
		Logger:       s.log.With("part", "controlplane"),
		Unserved:     unserved.of("controlplane"),
	})
	return err
}

// loopbackHosts are the names of this machine, which the server's certificate
// has beside the advertised one, at the ports of these addresses.
func loopbackHosts(addresses ...string) (hosts []string) {
	for _, address := range addresses {
		if _, port, err := net.SplitHostPort(address); err == nil {
			for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
				hosts = append(hosts, net.JoinHostPort(name, port))
			}
		}
	}
	return hosts
}

// buildVerifiers makes one verifier for each audience: ARM, Graph and the data
// plane. What is for one is nothing to the others.
func (s *server) buildVerifiers(op operator) (err error) {
	issuers := []authenticate.Issuer{{
		Issuer:   s.idp.Issuer(op.TenantID),
		TenantID: op.TenantID,
		Version:  "1.0",
		Fetch:    func(context.Context) ([]byte, error) { return s.keys.JWKS(), nil },
	}}
	for _, tenant := range s.cfg.EntraTenants {
		if strings.EqualFold(tenant, op.TenantID) {
			return fmt.Errorf("--entra-tenant %s is the tenant of the embedded identity provider: %w", tenant, access.ErrInvalid)
		}
		issuers = append(issuers, authenticate.Entra(tenant, http.DefaultClient)...)
	}
	own := "https://" + s.advertise
	s.arm, err = authenticate.New(authenticate.Config{
		Now:       s.cfg.now,
		Issuers:   issuers,
		Audiences: append(idp.ARMAudiences(), own, own+"/"),
		Metrics:   prometheus.WrapRegistererWith(prometheus.Labels{"audience": "arm"}, s.registry),
		Logger:    s.log.With("part", "authenticate"),
	})
	if err != nil {
		return err
	}
	// Graph is of the embedded directory: no other tenant has anything there.
	s.graphTokens, err = authenticate.New(authenticate.Config{
		Now:       s.cfg.now,
		Issuers:   issuers[:1],
		Audiences: append(idp.GraphAudiences(), own+"/graph", own+"/graph/"),
		Metrics:   prometheus.WrapRegistererWith(prometheus.Labels{"audience": "graph"}, s.registry),
		Logger:    s.log.With("part", "authenticate"),
	})
	if err != nil {
		return err
	}
	s.data, err = authenticate.New(authenticate.Config{
		Now:       s.cfg.now,
		Issuers:   issuers,
		Audiences: []string{idp.DataPlaneAudience},
		Unserved: map[string]string{idp.KubernetesAudience: "this is a developer's token, for the AKS server application " + idp.KubernetesAudience +
			", and signing in to a cluster as a developer is not served yet: the gateway admits sources, with tokens for " + idp.DataPlaneAudience},
		RequireSource: true,
		Metrics:       prometheus.WrapRegistererWith(prometheus.Labels{"audience": "gateway"}, s.registry),
		Logger:        s.log.With("part", "authenticate"),
	})
	return err
}
