package idp

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what the provider counts.
type metrics struct {
	requests *prometheus.CounterVec
	tokens   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	make := promauto.With(reg)
	m := &metrics{
		requests: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_idp_requests_total",
			Help: "Requests to the identity provider, by endpoint (none: there is no such) and status.",
		}, []string{"endpoint", "code"}),
		tokens: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_idp_tokens_issued_total",
			Help: "Tokens given out, by grant: client_credentials, password, refresh_token, device_code, authorization_code or managed_identity.",
		}, []string{"grant"}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, v := range []string{"client_credentials", "password", "refresh_token", "device_code", "authorization_code", "managed_identity"} {
		m.tokens.WithLabelValues(v)
	}
	return m
}

func (m *metrics) answered(endpoint string, status int) {
	m.requests.WithLabelValues(endpoint, strconv.Itoa(status)).Inc()
}

// grantLabel is a grant's name without the URN that newer ones have.
func grantLabel(grant string) string { return grant[strings.LastIndexByte(grant, ':')+1:] }
