package authorize

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// registerMetrics exposes the state of an index. It is read when it is asked
// for, so that a silent watch shows as growing age.
func registerMetrics(reg prometheus.Registerer, x *Index) {
	make := promauto.With(reg)
	gauge := func(name, help string, read func() float64) {
		make.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			x.mu.RLock()
			defer x.mu.RUnlock()
			return read()
		})
	}
	gauge("sallyport_authorize_index_age_seconds",
		"Time since the index of consents was last proven current; +Inf before it is loaded. Past its limit (5 s) every request is refused.",
		func() float64 {
			if !x.isLoaded() {
				return math.Inf(1)
			}
			return x.cfg.Now().Sub(x.oldest()).Seconds()
		})
	gauge("sallyport_authorize_index_max_age_seconds", "Age past which the index refuses.", func() float64 { return x.cfg.MaxAge.Seconds() })
	gauge("sallyport_authorize_bindings", "Role bindings in the index.", func() float64 { return float64(len(x.bindings)) })
	gauge("sallyport_authorize_clusters", "Registered clusters in the index.", func() float64 { return float64(len(x.clusters)) })
}

// oldest is when the kind was heard of that was longest silent. It needs x.mu.
func (x *Index) oldest() time.Time {
	oldest := x.heard.clusters
	for _, heard := range []time.Time{x.heard.bindings, x.heard.resources} {
		if heard.Before(oldest) {
			oldest = heard
		}
	}
	return oldest
}
