package client

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the calls: by endpoint and outcome, never by server.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		calls: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knock_federation_calls_total", Help: "Calls to other servers, by endpoint and outcome.",
		}, []string{"call", "outcome"})),
		seconds: register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "knock_federation_call_seconds", Help: "Time until the answer's header, by endpoint.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60},
		}, []string{"call"})),
	}
}

// register registers a collector, or returns the equal one that is registered already.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}

func (m *metrics) done(call, outcome string, began time.Time) {
	m.calls.WithLabelValues(call, outcome).Inc()
	m.seconds.WithLabelValues(call).Observe(time.Since(began).Seconds())
}
