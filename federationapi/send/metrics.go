package send

import (
	"github.com/prometheus/client_golang/prometheus"

	"knock/federationapi/client"
)

// metrics count what is sent; destinations are never labels.
type metrics struct {
	transactions prometheus.Counter
	failed       prometheus.Counter
	pdus, edus   prometheus.Counter
	queued       prometheus.Gauge
	dests        *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "knock_federation_sent_" + name + "_total", Help: help})
	}
	m := &metrics{
		transactions: counter("transactions", "Transactions that other servers answered."),
		failed:       counter("failures", "Attempts to send to another server that failed."),
		pdus:         counter("pdus", "Events in transactions that were answered."),
		edus:         counter("edus", "EDUs in transactions that were answered."),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "knock_federation_queued_pdus", Help: "Events that wait in memory for other servers, once for each.",
		}),
		dests: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "knock_federation_destinations", Help: "Servers that are known, by state: idle, sending, behind (the log is read), down, retired (silent for so long that they are left alone).",
		}, []string{"state"}),
	}
	if reg != nil {
		reg.MustRegister(m.transactions, m.failed, m.pdus, m.edus, m.queued, m.dests)
	}
	return m
}

func (m *metrics) sent(t *client.Transaction) {
	m.transactions.Inc()
	m.pdus.Add(float64(len(t.PDUs)))
	m.edus.Add(float64(len(t.EDUs)))
}

// measure sets the gauges.
func (s *Sender) measure() {
	queued := 0
	states := map[string]int{"idle": 0, "sending": 0, "behind": 0, "down": 0, "retired": 0}
	for _, d := range s.all() {
		n, state := d.measure()
		queued += n
		states[state]++
	}
	s.metrics.queued.Set(float64(queued))
	for state, n := range states {
		s.metrics.dests.WithLabelValues(state).Set(float64(n))
	}
}

func (d *destination) measure() (queued int, state string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.standing.retired:
		state = "retired"
	case d.failures > 0:
		state = "down"
	case d.running && d.behind:
		state = "behind"
	case d.running:
		state = "sending"
	default:
		state = "idle"
	}
	return len(d.live), state
}
