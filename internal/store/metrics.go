package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the store's; etcd has its own, of the name etcd_.
type metrics struct {
	proven *prometheus.GaugeVec
	breaks *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	make := promauto.With(reg)
	return &metrics{
		proven: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_store_watch_proven_timestamp_seconds",
			Help: "When a watch of this kind was last proven to have missed nothing; its age is time() less this.",
		}, []string{"kind"}),
		breaks: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_store_watch_breaks_total",
			Help: "Watches that broke or were compacted away, and listed again.",
		}, []string{"kind"}),
	}
}

func (m *metrics) prove(kind string, asOf time.Time) {
	m.breaks.WithLabelValues(kind) // shown as 0 until the first
	m.proven.WithLabelValues(kind).Set(float64(asOf.UnixMilli()) / 1000)
}
