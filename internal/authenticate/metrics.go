package authenticate

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what a verifier counts. The issuers among the labels are those
// that were configured.
type metrics struct {
	tokens  *prometheus.CounterVec
	hits    prometheus.Counter
	fetches *prometheus.CounterVec
	fetched *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	make := promauto.With(reg)
	m := &metrics{
		tokens: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_authenticate_tokens_total",
			Help: "Tokens verified, by outcome: accepted, unavailable (no keys), or why the token was refused.",
		}, []string{"outcome"}),
		hits: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_authenticate_cache_hits_total",
			Help: "Tokens accepted because the same one was verified a short time ago.",
		}),
		fetches: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_authenticate_jwks_fetches_total",
			Help: "Fetches of an issuer's keys, by result: success or error.",
		}, []string{"issuer", "result"}),
		fetched: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_authenticate_jwks_last_success_timestamp_seconds",
			Help: "When an issuer's keys were last fetched; after a day they are not used any more.",
		}, []string{"issuer"}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, v := range []string{"accepted", "unavailable", "missing", "invalid", "expired", "wrong_audience", "wrong_tenant"} {
		m.tokens.WithLabelValues(v)
	}
	return m
}

// verified counts one token.
func (m *metrics) verified(err error) {
	var refusal *Refusal
	switch {
	case err == nil:
		m.tokens.WithLabelValues("accepted").Inc()
	case errors.As(err, &refusal):
		m.tokens.WithLabelValues(refusal.Code.label()).Inc()
	default:
		m.tokens.WithLabelValues("unavailable").Inc()
	}
}

// label is the code in the words of metrics.
func (c Code) label() string {
	switch c {
	case Missing:
		return "missing"
	case Expired:
		return "expired"
	case WrongAudience:
		return "wrong_audience"
	case WrongTenant:
		return "wrong_tenant"
	}
	return "invalid"
}
