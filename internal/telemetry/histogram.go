package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Seconds are the options of a histogram of durations. Each has both kinds of
// buckets: a Prometheus that scrapes native histograms gets their resolution
// (a tenth at most between two buckets), and any other gets the classic ones.
func Seconds(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name:    name,
		Help:    help,
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},

		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}
