package tunnel

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what the gateway's end counts. A cluster is named by its uid,
// which the server made and its agents' certificates prove.
type metrics struct {
	connects    prometheus.Counter
	disconnects *prometheus.CounterVec
	heartbeats  prometheus.Counter
	bytes       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	make := promauto.With(reg)
	if reg != nil {
		reg.MustRegister(hubState{h})
	}
	m := &metrics{
		connects: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_tunnel_connects_total",
			Help: "Agents' connections that were proven by a heartbeat and taken into service.",
		}),
		disconnects: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_tunnel_disconnects_total",
			Help: "Agents' connections that ended, by reason: silent (its heartbeat failed), replaced (by a newer enrolment), drained (the agent left, its requests done), expired (its certificate), shutdown, or lost.",
		}, []string{"reason"}),
		heartbeats: make.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_tunnel_heartbeats_total",
			Help: "Heartbeats that came back from agents.",
		}),
		bytes: make.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_tunnel_bytes_total",
			Help: "Bytes on agents' connections, above TLS, sent to agents and received from them.",
		}, []string{"direction"}),
	}
	// What has not happened yet is shown as 0, so that its first time is a change.
	for _, v := range []string{"silent", "replaced", "drained", "expired", "shutdown", "lost"} {
		m.disconnects.WithLabelValues(v)
	}
	return m
}

// disconnected counts the end of a connection.
func (m *metrics) disconnected(err error) {
	reason := "lost"
	switch {
	case errors.Is(err, errSilent):
		reason = "silent"
	case errors.Is(err, errGeneration):
		reason = "replaced"
	case errors.Is(err, errDrained):
		reason = "drained"
	case errors.Is(err, errExpired):
		reason = "expired"
	case errors.Is(err, errClosed), errors.Is(err, context.Canceled):
		reason = "shutdown"
	}
	m.disconnects.WithLabelValues(reason).Inc()
}

// hubState shows the live connections of each cluster that ever had one, also
// when it has none now: that is what an alert is for.
type hubState struct{ *Hub }

func connectionsDesc() *prometheus.Desc {
	return prometheus.NewDesc("sallyport_tunnel_connections", "Live connections of a cluster's agent; 0 when it is not connected.", []string{"cluster_uid"}, nil)
}

func streamsDesc() *prometheus.Desc {
	return prometheus.NewDesc("sallyport_tunnel_streams", "Streams under way to a cluster, its heartbeats among them.", []string{"cluster_uid"}, nil)
}

func rttDesc() *prometheus.Desc {
	return prometheus.NewDesc("sallyport_tunnel_rtt_seconds", "Round-trip time of the last heartbeat on a cluster's quickest connection.", []string{"cluster_uid"}, nil)
}

// Describe implements [prometheus.Collector].
func (s hubState) Describe(out chan<- *prometheus.Desc) {
	out <- connectionsDesc()
	out <- streamsDesc()
	out <- rttDesc()
}

// Collect implements [prometheus.Collector].
func (s hubState) Collect(out chan<- prometheus.Metric) {
	for _, uid := range s.uids() {
		links := s.links(uid)
		streams, quickest := 0, time.Duration(0)
		for _, l := range links {
			streams += l.http.InFlight()
			if rtt := time.Duration(l.rtt.Load()); quickest == 0 || rtt < quickest {
				quickest = rtt
			}
		}
		gauge := func(desc *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, uid)
		}
		gauge(connectionsDesc(), float64(len(links)))
		gauge(streamsDesc(), float64(streams))
		if quickest > 0 {
			gauge(rttDesc(), quickest.Seconds())
		}
	}
}

// uids are the clusters that ever connected and are still registered.
func (s hubState) uids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uids []string
	for uid, c := range s.clusters {
		if c.floor != math.MaxInt64 { // else it was deleted
			uids = append(uids, uid)
		}
	}
	return uids
}
