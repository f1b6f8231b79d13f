package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/rbac"
	"github.com/sallyport/sallyport/internal/tunnel"
)

func newAgentCommand() *cobra.Command {
	var cfg agent.Config
	var cluster string
	var verbose bool
	var watch agentWatch
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of a cluster, which dials the gateway",
		Long: `Runs in the cluster and dials the gateway; it listens nowhere unless told to by
--metrics-listen or --health-listen. 'sallyport agent
manifest' prints the YAML that installs it with no more rights than it needs.

An account folder holds "token" (for the API server), "gateway-token" (a
service-account token of audience "sallyport") and, unless --apiserver-ca
names one, "ca.crt". With one folder only that half runs.`,
		Example: `  sallyport agent --gateway gateway.example.com:443 --cluster $CLUSTER_ID --ca-hash sha256:... \
    --proxy-account /var/run/secrets/sallyport/account`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := access.ParseResourceID(cluster)
			if err != nil {
				return fmt.Errorf("--cluster: %w", err)
			}
			if cfg.Connections < 1 || cfg.Connections > tunnel.MaxDialled {
				return usagef("--connections %d must be 1 to %d", cfg.Connections, tunnel.MaxDialled)
			}
			if cfg.DrainTimeout < 0 {
				return usagef("--drain-timeout %s must not be negative", cfg.DrainTimeout)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Cluster = id
			cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			err = watch.run(cmd.Context(), cfg)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Gateway, "gateway", "", "the server's address, host:port")
	f.StringVar(&cluster, "cluster", "", "resource id of the registered cluster")
	f.StringVar(&cfg.CAHash, "ca-hash", "", "hash of the server's CA key, sha256:...; nothing else is trusted")
	f.StringVar(&cfg.JoinTokenFile, "join-token-file", "", "file with the one-time join token")
	f.StringVar(&cfg.ProxyAccount, "proxy-account", "", "folder with the proxy account's tokens")
	f.StringVar(&cfg.ReconcilerAccount, "reconciler-account", "", "folder with the reconciler account's tokens")
	f.StringVar(&cfg.APIServer, "apiserver", "", "the API server's URL (default: the pod's environment)")
	f.StringVar(&cfg.APIServerCA, "apiserver-ca", "", "file with the API server's CA (default: ca.crt of the account folder)")
	f.IntVar(&cfg.Connections, "connections", agent.DefaultConnections, fmt.Sprintf("connections that the proxy keeps up, at most %d, spread over the gateway's addresses", tunnel.MaxDialled))
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", agent.DefaultDrainTimeout, "how long running requests may go on when the agent is stopped")
	f.StringVar(&cfg.Prefix, "prefix", "", "beginning of the names of objects and users (default \"aks:trustedaccess\")")
	f.StringVar((*string)(&cfg.Impersonation), "impersonation", string(rbac.Legacy), "rights that the reconciler writes for the proxy: legacy or constrained; the manifest's admission policy allows one of them")
	watch.addFlags(f)
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	for _, name := range []string{"gateway", "cluster", "ca-hash"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag named above is not defined
		}
	}
	return cmd
}
