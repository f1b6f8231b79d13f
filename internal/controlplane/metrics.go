package controlplane

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// metrics are what the control plane counts. A route is named by its template,
// so that no name of a resource is a label.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	operations *prometheus.HistogramVec
	pending    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, f *feeds) *metrics {
	make := promauto.With(reg)
	for half, connected := range map[string]func(presence) bool{
		"reconciler": func(p presence) bool { return p.reconciler.connected() },
		"proxy":      func(p presence) bool { return p.proxy.connected() },
	} {
		make.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "sallyport_controlplane_connected_agents",
			Help:        "Clusters whose agent follows its feed here, by half of the agent.",
			ConstLabels: prometheus.Labels{"half": half},
		}, func() float64 { return float64(f.count(connected)) })
	}
	m := &metrics{
		requests: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_controlplane_requests_total",
			Help: "Requests to the ARM API, by route template (none: there is no such), method and status.",
		}, []string{"route", "method", "code"}),
		duration: make.NewHistogramVec(telemetry.Seconds(
			"sallyport_controlplane_request_duration_seconds",
			"Time of requests to the ARM API.",
		), []string{"route", "method"}),
		operations: make.NewHistogramVec(telemetry.Seconds(
			"sallyport_controlplane_operation_duration_seconds",
			"Time of asynchronous operations from the write to their end, seen by this server. A put that succeeded is the time from consent to its being in force in the cluster, a delete that to the gateway's being shut.",
		), []string{"operation", "status"}),
		pending: make.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_controlplane_pending_operations",
			Help: "Operations in progress.",
		}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, status := range []access.OperationStatus{access.OperationSucceeded, access.OperationFailed, access.OperationCanceled} {
		for _, kind := range []string{"put", "delete"} {
			m.operations.WithLabelValues(kind, strings.ToLower(string(status)))
		}
	}
	return m
}

// answered counts one request.
func (m *metrics) answered(q *request, status int, took time.Duration) {
	route, method := q.route, q.http.Method
	if route == "" {
		route, method = "none", "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route, method).Observe(took.Seconds())
}

// count counts the clusters that a condition holds for.
func (f *feeds) count(holds func(presence) bool) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.seen {
		if holds(p) {
			n++
		}
	}
	return n
}

// followOperations measures operations as they end, whoever ended them: a
// report, a deadline, a later write or the write itself.
func (c *ControlPlane) followOperations(ctx context.Context) error {
	return c.store.Operations.Follow(ctx, "", func(u store.Update[access.Operation]) {
		if u.Reset {
			return // of earlier days, and measured then
		}
		for _, item := range u.Changed {
			op := item.Value
			if op.Status == access.OperationInProgress {
				continue
			}
			kind := "put"
			if op.Delete {
				kind = "delete"
			}
			c.metrics.operations.WithLabelValues(kind, strings.ToLower(string(op.Status))).Observe(op.End.Sub(op.Start).Seconds())
		}
	})
}

// spanName says what a request is in traces.
func (q *request) spanName() string {
	if q.route == "" {
		return "controlplane"
	}
	return q.http.Method + " " + q.route
}
