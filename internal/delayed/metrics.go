package delayed

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct{ ended *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{ended: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Namespace: "knock", Subsystem: "delayed", Name: "events_total",
		Help: "Delayed events by what became of them: sent, cancelled, or refused when they were due."}, []string{"outcome"})}
}
