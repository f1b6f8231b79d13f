package main

import (
	"context"
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// agentWatch is how an agent is watched. All of it is off by default: pods of
// the cluster could ask, and nobody in it needs to.
type agentWatch struct {
	metrics string // address of /metrics, /livez and /readyz
	health  string // address of /livez and /readyz alone, for a kubelet
	otlp    string // URL of an OpenTelemetry collector
}

func (a *agentWatch) addFlags(f *pflag.FlagSet) {
	f.StringVar(&a.metrics, "metrics-listen", "", "address of /metrics, /livez and /readyz, plain HTTP (default none)")
	f.StringVar(&a.health, "health-listen", "", "address of /livez and /readyz alone, for the kubelet's probes (default none)")
	f.StringVar(&a.otlp, "otlp-endpoint", "", "URL of an OpenTelemetry collector for traces, OTLP over HTTP (default $OTEL_EXPORTER_OTLP_ENDPOINT, else none)")
}

// run runs the agent, and beside it what watches it.
func (a *agentWatch) run(ctx context.Context, cfg agent.Config) error {
	registry, health := newRegistry(), &agent.Health{}
	traces, err := startTraces(ctx, "sallyport-agent", a.otlp, cfg.Logger)
	if err != nil {
		return err
	}
	defer func() {
		if err := traces.stop(); err != nil {
			cfg.Logger.Warn("stopping", "error", err)
		}
	}()
	cfg.Health, cfg.Metrics, cfg.Tracer = health, registry, traces.tracer

	ready := []telemetry.Check{{Name: "gateway", Run: health.Ready}}
	group, ctx := errgroup.WithContext(ctx)
	for _, port := range []struct {
		name, address string
		metrics       prometheus.Gatherer
		health        *telemetry.Health
	}{
		{"metrics", a.metrics, registry, &telemetry.Health{Checks: ready, Logger: cfg.Logger}},
		{"health", a.health, nil, &telemetry.Health{Checks: ready, Terse: true}},
	} {
		if port.address == "" {
			continue
		}
		ln, err := net.Listen("tcp", port.address)
		if err != nil {
			return fmt.Errorf("listen on --%s-listen %s: %w", port.name, port.address, err)
		}
		defer ln.Close()
		cfg.Logger.Info(port.name, "address", ln.Addr())
		srv := watchPort(port.metrics, port.health, cfg.Logger)
		group.Go(func() error { return serveUntil(ctx, srv, ln) })
	}
	group.Go(func() error { return agent.Run(ctx, cfg) })
	return group.Wait()
}
