package agent

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// metrics are what an agent counts.
type metrics struct {
	requests    *prometheus.CounterVec
	duration    prometheus.Histogram
	inFlight    prometheus.Gauge
	passes      prometheus.Counter
	bindings    *prometheus.GaugeVec
	foreign     prometheus.Gauge
	certificate *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, h *Health) *metrics {
	make := promauto.With(reg)
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_agent_tunnel_connections",
		Help: "Connections to the gateway that its heartbeats come through.",
	}, func() float64 { return float64(h.tunnels()) })
	m := &metrics{
		requests: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_agent_requests_total",
			Help: "Requests from the tunnel, by the API server's status; refused: by the agent itself; aborted: there was no answer.",
		}, []string{"code"}),
		duration: make.NewHistogram(telemetry.Seconds(
			"sallyport_agent_upstream_duration_seconds",
			"Time from a request's arrival at the agent to the head of the API server's answer.",
		)),
		inFlight: make.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_agent_inflight_requests",
			Help: "Requests from the tunnel under way, watches and upgraded streams among them.",
		}),
		passes: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_agent_reconcile_passes_total",
			Help: "Comparisons of the cluster's RBAC with what is consented to.",
		}),
		bindings: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_agent_bindings",
			Help: "Bindings of this cluster, by state: in_force, pending, or failed for good (such as a role above the ceiling).",
		}, []string{"state"}),
		foreign: make.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_agent_foreign_objects",
			Help: "Objects of the cluster that bear our names and are not ours; they are left alone.",
		}),
		certificate: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_agent_certificate_expiration_timestamp_seconds",
			Help: "When the certificate ends that the agent shows the gateway, by role.",
		}, []string{"role"}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, v := range []string{"in_force", "pending", "failed"} {
		m.bindings.WithLabelValues(v)
	}
	return m
}

// watchFeed exposes the age of a half's feed, once that half runs.
func watchFeed(reg prometheus.Registerer, h *Health, half string) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "sallyport_agent_feed_age_seconds",
		Help:        "Time since the control plane was last heard, which speaks each second. Past 5 s the agent refuses.",
		ConstLabels: prometheus.Labels{"half": half},
	}, func() float64 { return h.age(half).Seconds() })
}

// reported counts a pass of the reconciler by its report.
func (m *metrics) reported(r access.Report) {
	states := map[string]int{"in_force": 0, "pending": 0, "failed": 0}
	for _, b := range r.Bindings {
		switch {
		case b.InForce:
			states["in_force"]++
		case b.Final:
			states["failed"]++
		default:
			states["pending"]++
		}
	}
	for state, n := range states {
		m.bindings.WithLabelValues(state).Set(float64(n))
	}
	m.foreign.Set(float64(len(r.Foreign)))
	m.passes.Inc()
}

// shown notes the certificate of a connection that is about to be made.
func (m *metrics) shown(role enroll.Role, until time.Time) {
	m.certificate.WithLabelValues(string(role)).Set(float64(until.Unix()))
}

// watched is the proxy, its requests counted and a part of the gateway's trace.
type watched struct {
	next    http.Handler
	metrics *metrics
	tracer  trace.Tracer
}

// ServeHTTP implements [http.Handler].
func (p watched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	answer := &headWatch{ResponseWriter: w}
	p.metrics.inFlight.Inc()
	ctx, span := r.Context(), telemetry.Span{}
	if p.tracer != nil {
		ctx, span = telemetry.Start(telemetry.Continue(ctx, r.Header, tunnel.HeaderTrace), p.tracer, "agent", trace.WithSpanKind(trace.SpanKindServer))
		r = r.WithContext(ctx)
	}
	defer func() { // also when the proxy aborts by a panic
		p.metrics.inFlight.Dec()
		code := answer.code()
		p.metrics.requests.WithLabelValues(code).Inc()
		if !answer.at.IsZero() {
			p.metrics.duration.Observe(answer.at.Sub(began).Seconds())
		}
		span.Set(attribute.Int("http.response.status_code", answer.status), attribute.String("sallyport.outcome", code))
		span.End(nil)
	}()
	p.next.ServeHTTP(answer, r)
}

// headWatch notes an answer's status and when it was there. Unwrap keeps
// flushing and full duplex possible through [http.ResponseController].
type headWatch struct {
	http.ResponseWriter
	status int
	at     time.Time
}

// Unwrap serves [http.ResponseController].
func (w *headWatch) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the first status that is not an interim one.
func (w *headWatch) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status, w.at = status, time.Now()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write is a status 200 if none was written.
func (w *headWatch) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status, w.at = http.StatusOK, time.Now()
	}
	return w.ResponseWriter.Write(p)
}

// code is the status as a label.
func (w *headWatch) code() string {
	switch {
	case tunnel.Refused(w.Header()) != nil:
		return "refused"
	case w.Header().Get(tunnel.HeaderUpgraded) != "":
		return strconv.Itoa(http.StatusSwitchingProtocols)
	case w.status < 200 || w.status > 599:
		return "aborted"
	}
	return strconv.Itoa(w.status)
}
