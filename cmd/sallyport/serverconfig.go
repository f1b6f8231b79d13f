package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/gateway"
)

// serverConfig is what `sallyport server` is told. Its comments are the
// manual of the flags of the same names.
type serverConfig struct {
	// DataDir holds all state of this server, readable by its owner only.
	DataDir string
	// Listen is the address of the one TLS port, for clients and agents.
	Listen string
	// Advertise is the host:port by which clients and agents reach the TLS
	// port, if it is not Listen. It goes into operator.json, operation URLs
	// and join tokens, and its host into the server's certificate.
	Advertise string
	// ClusterDomain, if set, gives each cluster a host name of its own beside its
	// path: https://UID.DOMAIN, at the port of Advertise. Names below it must
	// lead to this server. The server's certificate has the wildcard.
	ClusterDomain string
	// TokenGrace is how long a watch, an exec or any other request under way may
	// outlive the token it came with; then it is cut. 0 cuts at once.
	TokenGrace time.Duration
	// IdentityListen is the loopback address of the plain-HTTP
	// managed-identity endpoint.
	IdentityListen string
	// TenantDomains are the verified domains of the embedded directory's tenant,
	// the default one first: users are name@DOMAIN, and clients may name the
	// tenant by any. They are kept, so they need to be given only once; without
	// any it is sallyport.internal.
	TenantDomains []string
	// ArcTokens is the folder in which workloads that use the protocol of Azure Arc
	// find what proves that they run here. Clients believe only
	// /var/opt/azcmagent/tokens, and read files of this process's user. Empty:
	// not served.
	ArcTokens string
	// EtcdEndpoints use an external etcd cluster instead of one in this
	// process. Beyond loopback they must be https, with EtcdCA, and EtcdCert
	// and EtcdKey if the cluster asks its clients for a certificate.
	EtcdEndpoints             []string
	EtcdCA, EtcdCert, EtcdKey string
	// EncryptionKeyFile holds the keys under which all records are encrypted, in
	// either etcd; mode 0600. The first start makes it; a later one without it
	// fails. Default: encryption.key in DataDir.
	EncryptionKeyFile string
	// EntraTenants are real Entra tenants whose tokens are trusted for
	// subscriptions of that tenant. This needs a way out to Entra.
	EntraTenants []string
	// BindingLimit is the most bindings a cluster may have; AKS allows 8.
	BindingLimit int
	// PreviewRoleBindings serves the preview API of 2022, azureResourceRoleBindings,
	// by which an owner can let every resource of a type in the subscription act.
	// Without it such bindings as there are admit nobody.
	PreviewRoleBindings bool
	// AgentTimeout is how long a binding's write waits for the cluster's agent.
	AgentTimeout time.Duration
	// BindingLimits are what one binding, and ClusterLimits what all bindings of
	// one cluster together, may take of the gateway: streams under way, requests
	// a second, MiB a second. 0 is no limit.
	BindingLimits, ClusterLimits serverLimits
	// AuditMaxSize, in MiB, and AuditMaxAge, of its first record, are what the
	// audit log may grow to before it is set aside as audit-TIME.log; 0 for no
	// limit.
	AuditMaxSize int
	AuditMaxAge  time.Duration
	// AuditKeep is how long files set aside stay; 0 for ever. There is no limit
	// to their size: nobody may push records out by making noise. When the disk
	// is full the server refuses everything.
	AuditKeep time.Duration
	// MetricsListen is the address of /metrics, /livez and /readyz, in plain
	// HTTP and open to all who reach it; empty for none.
	MetricsListen string
	// AllowFrom is where requests to clusters may come from: CIDR ranges, single
	// addresses and names of service tags. Without it they may come from
	// anywhere. The control plane, the identity provider and agents are not
	// held to it: they are elsewhere than the sources.
	AllowFrom []string
	// ServiceTags is a file of Azure's service tags, in the form Microsoft
	// publishes (ServiceTags_Public_*.json). It is read again when it changes.
	ServiceTags string
	// TrustedProxies are the proxies in front of this server whose
	// X-Forwarded-For is believed, written as AllowFrom is. List proxies only:
	// whoever is in the list can name any address.
	TrustedProxies []string
	// ProxyProtocol is for balancers that pass TLS on: connections from
	// TrustedProxies must begin with a PROXY protocol header, version 1 or 2.
	// Other connections are served as ever.
	ProxyProtocol bool
	// AgentCertificateLifetime is how long an agent's certificate is good. Agents
	// renew at two thirds of it; a shorter one costs them a request each time, and
	// bounds what a stolen one is good for.
	AgentCertificateLifetime time.Duration
	// OTLPEndpoint is the URL of an OpenTelemetry collector that takes OTLP over
	// HTTP; empty for what OTEL_EXPORTER_OTLP_ENDPOINT says, or none.
	OTLPEndpoint string
	// NewOperator gives the operator a new secret and writes it to
	// operator.json; the old one ends.
	NewOperator bool
	// Verbose logs more.
	Verbose bool

	log io.Writer
	now func() time.Time // the wall clock of all parts; tests step it
}

// serverLimits are a [gateway.Limits] as flags.
type serverLimits struct {
	Streams   int // requests, watches and upgraded streams under way; more is answered 429
	Requests  int // a second, twice as many at once; more is answered 429
	Bandwidth int // MiB a second, both directions together; more is slowed down
}

func (l serverLimits) gateway() gateway.Limits {
	return gateway.Limits{Streams: l.Streams, Requests: l.Requests, Bytes: int64(l.Bandwidth) << 20}
}

func defaultServerConfig() serverConfig {
	return serverConfig{
		DataDir:        "sallyport-data",
		Listen:         "127.0.0.1:8443",
		IdentityListen: "127.0.0.1:8444",
		MetricsListen:  "127.0.0.1:8445",
		BindingLimit:   8,
		AgentTimeout:   time.Minute,
		BindingLimits:  serverLimits{Streams: 500, Requests: 500, Bandwidth: 100},
		ClusterLimits:  serverLimits{Streams: 1000, Requests: 1000, Bandwidth: 200},
		TokenGrace:     5 * time.Minute,
		AuditMaxSize:   100,
		AuditMaxAge:    24 * time.Hour,
		AuditKeep:      90 * 24 * time.Hour,

		AgentCertificateLifetime: 24 * time.Hour,

		now: time.Now,
	}
}

func newServerCommand() *cobra.Command { return serverCommand(defaultServerConfig()) }

// serverCommand takes the defaults of its flags.
func serverCommand(cfg serverConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane, the gateway and the identity provider",
		Long: `Runs the control plane (ARM-compatible), the gateway to clusters and the
embedded identity provider on one TLS port, and the managed-identity endpoint
on a loopback port. The first start creates a tenant, a subscription and an
operator, whose credential is written to DIR/operator.json (mode 0600).`,
		Example: `  sallyport server --data-dir ./sallyport-data
  sallyport server --data-dir /var/lib/sallyport --listen :443 --advertise gateway.example.com:443
  sallyport server --allow-from 10.0.0.0/8,AzureMachineLearning.WestEurope --service-tags ServiceTags_Public.json
  sallyport server --data-dir /var/lib/sallyport --listen :443 --advertise gateway.example.com:443 --cluster-domain clusters.example.com
  sallyport server --data-dir ./sallyport-data --tenant-domain contoso.onmicrosoft.com
  sallyport server --data-dir ./sallyport-data --new-operator   # lost operator.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.log = cmd.ErrOrStderr()
			return runServer(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "folder with all state of this server")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "address of the TLS port")
	f.StringVar(&cfg.Advertise, "advertise", "", "host:port by which clients and agents reach the TLS port (default: the address listened on)")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", "", "domain below which each cluster has a host name, UID.DOMAIN, beside its path on the gateway")
	f.DurationVar(&cfg.TokenGrace, "token-grace", cfg.TokenGrace, "how long a request under way may outlive its token")
	f.StringVar(&cfg.IdentityListen, "identity-listen", cfg.IdentityListen, "loopback address of the managed-identity endpoint")
	f.StringSliceVar(&cfg.TenantDomains, "tenant-domain", nil, "verified domain of the embedded directory's tenant, the default one first; may be repeated, and is kept (default "+directory.DefaultDomain+")")
	f.StringVar(&cfg.ArcTokens, "arc-tokens", "", "serve Azure Arc's managed-identity protocol, with its challenges in this folder (clients want /var/opt/azcmagent/tokens)")
	f.StringSliceVar(&cfg.EtcdEndpoints, "etcd-endpoints", nil, "external etcd cluster (default: etcd in this process)")
	f.StringVar(&cfg.EtcdCA, "etcd-ca", "", "PEM file with the external etcd cluster's CA")
	f.StringVar(&cfg.EtcdCert, "etcd-cert", "", "PEM file with this server's certificate for etcd")
	f.StringVar(&cfg.EtcdKey, "etcd-key", "", "PEM file with that certificate's key")
	f.StringVar(&cfg.EncryptionKeyFile, "encryption-key-file", "", "file with the keys that encrypt all records, made at the first start (default: encryption.key in the data folder)")
	f.StringSliceVar(&cfg.EntraTenants, "entra-tenant", nil, "real Entra tenant to trust, a GUID; may be repeated")
	f.IntVar(&cfg.BindingLimit, "binding-limit", cfg.BindingLimit, "most role bindings a cluster may have")
	f.BoolVar(&cfg.PreviewRoleBindings, "preview-role-bindings", false, "serve the preview API of 2022 (azureResourceRoleBindings), with consent to all resources of a type in a subscription")
	f.DurationVar(&cfg.AgentTimeout, "agent-timeout", cfg.AgentTimeout, "how long a binding's write waits for the cluster's agent")
	for _, l := range []struct {
		of     string
		limits *serverLimits
	}{{"binding", &cfg.BindingLimits}, {"cluster", &cfg.ClusterLimits}} {
		f.IntVar(&l.limits.Streams, l.of+"-streams", l.limits.Streams, "most requests, watches and streams of a "+l.of+" under way; more get 429; 0 for no limit")
		f.IntVar(&l.limits.Requests, l.of+"-requests", l.limits.Requests, "most requests of a "+l.of+" a second; more get 429; 0 for no limit")
		f.IntVar(&l.limits.Bandwidth, l.of+"-bandwidth", l.limits.Bandwidth, "most MiB of a "+l.of+" a second; more is slowed down; 0 for no limit")
	}
	f.IntVar(&cfg.AuditMaxSize, "audit-max-size", cfg.AuditMaxSize, "size in MiB at which the audit log is set aside; 0 for no limit")
	f.DurationVar(&cfg.AuditMaxAge, "audit-max-age", cfg.AuditMaxAge, "age of its first record at which the audit log is set aside; 0 for no limit")
	f.DurationVar(&cfg.AuditKeep, "audit-keep", cfg.AuditKeep, "how long audit logs that were set aside are kept; 0 for ever")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", cfg.MetricsListen, "address of /metrics, /livez and /readyz, plain HTTP; \"\" for none")
	f.StringSliceVar(&cfg.AllowFrom, "allow-from", nil, "range, address or service tag that requests to clusters may come from; may be repeated (default: anywhere)")
	f.StringVar(&cfg.ServiceTags, "service-tags", "", "file of Azure's service tags (ServiceTags_Public_*.json), read again when it changes")
	f.StringSliceVar(&cfg.TrustedProxies, "trusted-proxies", nil, "range or address of proxies whose X-Forwarded-For is believed; may be repeated")
	f.BoolVar(&cfg.ProxyProtocol, "proxy-protocol", false, "connections from trusted proxies begin with a PROXY protocol header")
	f.DurationVar(&cfg.AgentCertificateLifetime, "agent-certificate-lifetime", cfg.AgentCertificateLifetime, "how long an agent's certificate is good; it is renewed at two thirds")
	f.StringVar(&cfg.OTLPEndpoint, "otlp-endpoint", "", "URL of an OpenTelemetry collector for traces, OTLP over HTTP (default $OTEL_EXPORTER_OTLP_ENDPOINT, else none)")
	f.BoolVar(&cfg.NewOperator, "new-operator", false, "give the operator a new secret and write operator.json again")
	f.BoolVarP(&cfg.Verbose, "verbose", "v", false, "log more")
	return cmd
}

// minCertificateLifetime leaves time to renew; certificates count whole seconds.
const minCertificateLifetime = 5 * time.Second

func checkServerConfig(cfg serverConfig) error {
	host, _, err := net.SplitHostPort(cfg.IdentityListen)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--identity-listen %q must be a loopback address: tokens leave it in plain HTTP: %w", cfg.IdentityListen, access.ErrInvalid)
	}
	for _, tenant := range cfg.EntraTenants {
		if !access.IsGUID(tenant) {
			return fmt.Errorf("--entra-tenant %q is not a GUID: %w", tenant, access.ErrInvalid)
		}
	}
	if listen, _, err := net.SplitHostPort(cfg.Listen); err == nil && cfg.Advertise == "" && (listen == "" || net.ParseIP(listen).IsUnspecified()) {
		return fmt.Errorf("--listen %q is every address of this machine; say with --advertise HOST:PORT by which one clients and agents reach it: %w", cfg.Listen, access.ErrInvalid)
	}
	if cfg.Advertise != "" {
		if _, _, err := net.SplitHostPort(cfg.Advertise); err != nil {
			return fmt.Errorf("--advertise %q must be host:port: %w", cfg.Advertise, access.ErrInvalid)
		}
	}
	if cfg.ClusterDomain != "" && !domainName(cfg.ClusterDomain) {
		return fmt.Errorf("--cluster-domain %q must be a DNS name in lower case, without a dot at either end, such as clusters.example.com: %w", cfg.ClusterDomain, access.ErrInvalid)
	}
	for _, domain := range cfg.TenantDomains {
		if !domainName(domain) || !strings.Contains(domain, ".") {
			return fmt.Errorf("--tenant-domain %q must be a DNS name in lower case with a dot in it, such as contoso.example: %w", domain, access.ErrInvalid)
		}
	}
	if cfg.TokenGrace < 0 {
		return fmt.Errorf("--token-grace %s must not be negative: %w", cfg.TokenGrace, access.ErrInvalid)
	}
	if cfg.AgentCertificateLifetime < minCertificateLifetime {
		return fmt.Errorf("--agent-certificate-lifetime %s must be at least %s: %w", cfg.AgentCertificateLifetime, minCertificateLifetime, access.ErrInvalid)
	}
	if cfg.BindingLimit < 1 {
		return fmt.Errorf("--binding-limit %d must be at least 1: %w", cfg.BindingLimit, access.ErrInvalid)
	}
	for of, l := range map[string]serverLimits{"binding": cfg.BindingLimits, "cluster": cfg.ClusterLimits} {
		if l.Streams < 0 || l.Requests < 0 || l.Bandwidth < 0 {
			return fmt.Errorf("--%[1]s-streams %[2]d, --%[1]s-requests %[3]d and --%[1]s-bandwidth %[4]d must be 0, for no limit, or more: %[5]w", of, l.Streams, l.Requests, l.Bandwidth, access.ErrInvalid)
		}
	}
	if cfg.AuditMaxSize < 0 || cfg.AuditMaxAge < 0 || cfg.AuditKeep < 0 {
		return fmt.Errorf("--audit-max-size %d, --audit-max-age %s and --audit-keep %s must be 0, for no limit, or more: %w", cfg.AuditMaxSize, cfg.AuditMaxAge, cfg.AuditKeep, access.ErrInvalid)
	}
	return nil
}
