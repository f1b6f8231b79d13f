package audit

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what is counted of the log.
type Metrics struct {
	records *prometheus.CounterVec
	errors  prometheus.Counter
}

// NewMetrics registers the log's metrics; a nil reg counts for nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	make := promauto.With(reg)
	m := &Metrics{
		records: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_audit_records_total",
			Help: "Records written, by stage: decision, complete, consent or revoked.",
		}, []string{"stage"}),
		errors: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_audit_write_errors_total",
			Help: "Records that could not be written; what they were for was refused.",
		}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, stage := range []Stage{Decision, Complete, Consent, Revoked} {
		m.records.WithLabelValues(string(stage))
	}
	return m
}

// Counted is log, with its records counted.
func (m *Metrics) Counted(log Log) Log {
	return func(r Record) error {
		if err := log(r); err != nil {
			m.errors.Inc()
			return err
		}
		m.records.WithLabelValues(string(r.Stage)).Inc()
		return nil
	}
}
