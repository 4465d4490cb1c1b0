package pushers

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct{ sent, failed, rejected, dropped, odd prometheus.Counter }

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: "knock", Subsystem: "push", Name: name, Help: help})
	}
	return &metrics{
		sent:     counter("sent_total", "Notifications that push gateways took."),
		failed:   counter("failures_total", "Requests to push gateways that failed and are tried again."),
		rejected: counter("rejected_total", "Pushers removed because their gateway did not know the device."),
		dropped:  counter("dropped_total", "Notifications given up: too old, or too many waiting for one device."),
		odd:      counter("odd_answers_total", "Answers of push gateways that could not be read. The notification counts as taken."),
	}
}
