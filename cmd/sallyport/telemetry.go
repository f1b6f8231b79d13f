package main

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// newRegistry is a registry of one server or agent, with the metrics of its
// process and its build.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	v := thisBuild()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "sallyport_build_info",
		Help:        "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "goversion": v.Go},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// etcdMetrics are those of the etcd server in this process, which registers
// them in the process-wide registry and nowhere else.
func etcdMetrics() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := prometheus.DefaultGatherer.Gather()
		var kept []*dto.MetricFamily
		for _, family := range all {
			if strings.HasPrefix(family.GetName(), "etcd_") {
				kept = append(kept, family)
			}
		}
		return kept, err
	})
}

// watchPort serves the health endpoints and, unless it is nil, metrics at
// /metrics; and nothing else: no profiles, no debug pages (checklist, item 41).
func watchPort(metrics prometheus.Gatherer, health http.Handler, log *slog.Logger) *http.Server {
	scrape := http.NotFoundHandler()
	if metrics != nil {
		scrape = promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
			ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
			MaxRequestsInFlight: 4,
			Timeout:             10 * time.Second,
		})
	}
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/metrics" {
				scrape.ServeHTTP(w, r)
				return
			}
			health.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
