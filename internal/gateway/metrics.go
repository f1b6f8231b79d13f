package gateway

import (
	"cmp"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sallyport/sallyport/internal/requestinfo"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// metrics are what the gateway counts. No label's value is of a caller's
// choice.
type metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	admission   prometheus.Histogram
	cluster     prometheus.Histogram
	inFlight    *prometheus.GaugeVec
	bytes       *prometheus.CounterVec
	refusals    *prometheus.CounterVec
	throttled   *prometheus.CounterVec
	paced       *prometheus.CounterVec
	revocations prometheus.Counter
	cut         prometheus.Counter
	cutTime     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	make := promauto.With(reg)
	m := &metrics{
		requests: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_gateway_requests_total",
			Help: "Requests that ended, by the answer's status (aborted: there was none), Kubernetes verb, and class: resource, log, exec, proxy, nonresource, or unknown of what was refused before it could be read.",
		}, []string{"code", "verb", "class"}),
		duration: make.NewHistogramVec(telemetry.Seconds(
			"sallyport_gateway_request_duration_seconds",
			"Whole time of requests that were forwarded, but for watches, logs, proxied and upgraded ones, which last as long as somebody wants.",
		), []string{"verb"}),
		admission: make.NewHistogram(telemetry.Seconds(
			"sallyport_gateway_admission_duration_seconds",
			"Sallyport's own share: from a request's arrival to its being sent into the tunnel, with the audit record written.",
		)),
		cluster: make.NewHistogram(telemetry.Seconds(
			"sallyport_gateway_cluster_duration_seconds",
			"The cluster's share: from a request's being sent into the tunnel to the head of the answer.",
		)),
		inFlight: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_gateway_inflight_requests",
			Help: "Requests under way, by kind: request, watch (and logs that are followed), or upgraded.",
		}, []string{"kind"}),
		bytes: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_gateway_bytes_total",
			Help: "Bytes of bodies and of upgraded streams, received from clients and sent to them; counted when the request has ended.",
		}, []string{"direction"}),
		refusals: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_gateway_refusals_total",
			Help: "Requests that were not answered by the cluster, by the step that refused and the kind of reason.",
		}, []string{"step", "reason"}),
		throttled: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_gateway_throttled_total",
			Help: "Requests answered with 429, by the limit: of a binding's or a cluster's streams under way, or requests a second.",
		}, []string{"limit"}),
		paced: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_gateway_paced_seconds_total",
			Help: "Time that streams were held back, by the limit of a binding's or a cluster's bytes a second.",
		}, []string{"limit"}),
		revocations: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_gateway_revocations_total",
			Help: "Revocations of bindings that this gateway was told of.",
		}),
		cut: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_gateway_cut_requests_total",
			Help: "Live requests that revocations ended.",
		}),
		cutTime: make.NewHistogram(telemetry.Seconds(
			"sallyport_gateway_cut_duration_seconds",
			"Time from a revocation's arrival at the gateway to the end of each request it cut.",
		)),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, v := range []string{"request", "watch", "upgraded"} {
		m.inFlight.WithLabelValues(v)
	}
	for _, v := range []string{"received", "sent"} {
		m.bytes.WithLabelValues(v)
	}
	for _, of := range []level{ofBinding, ofCluster} {
		m.throttled.WithLabelValues(string(of) + "_streams")
		m.throttled.WithLabelValues(string(of) + "_requests")
		m.paced.WithLabelValues(string(of) + "_bytes")
	}
	return m
}

// labels of a request.
type labels struct{ verb, class string }

// long reports whether such requests last as long as somebody wants.
func (l labels) long() bool {
	return l.verb == "watch" || l.class == "log" || l.class == "proxy" || l.class == "exec"
}

// cutError is why a revocation cut a request, and when it arrived.
type cutError struct {
	error
	at time.Time
}

// Unwrap gives the reason's kind.
func (e cutError) Unwrap() error { return e.error }

// refused counts a refusal, by the step that refused and the kind of its reason.
func (m *metrics) refused(step string, err error) {
	var refused *tunnel.RefusedError
	var over *limitError
	switch {
	case errors.Is(err, tunnel.ErrNoAnswer):
		m.refusals.WithLabelValues("agent", "lost").Inc()
		return
	case errors.As(err, &refused):
		step = "agent"
	case errors.As(err, &over):
		m.refusals.WithLabelValues("limit", over.limit).Inc()
		return
	case errors.Is(err, errLost):
		m.refusals.WithLabelValues(step, "lost").Inc()
		return
	case errors.Is(err, errBadAnswer):
		m.refusals.WithLabelValues(step, "bad_answer").Inc()
		return
	}
	m.refusals.WithLabelValues(step, telemetry.Kind(err)).Inc()
}

// step is how far a request came that admit refused.
func (a admission) step(authenticated bool) string {
	switch {
	case a.info.Path == "":
		return "address"
	case !authenticated:
		return "authenticate"
	case a.grant.BindingUID == "":
		return "authorize"
	}
	return "connect"
}

// labelsOf are a request's labels. Its verb is one of Kubernetes' or a method
// that requestinfo knows: there are no others.
func labelsOf(info requestinfo.Info) labels {
	l := labels{verb: cmp.Or(info.Verb, "other"), class: "resource"}
	switch {
	case info.Path == "":
		return labels{"unknown", "unknown"}
	case !info.IsResource:
		l.class = "nonresource"
	case info.Subresource == "exec" || info.Subresource == "attach" || info.Subresource == "portforward":
		l.class = "exec"
	case info.Subresource == "proxy" || info.Subresource == "log":
		l.class = info.Subresource
	}
	return l
}
