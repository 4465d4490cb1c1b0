package federationapi

import "github.com/prometheus/client_golang/prometheus"

// metrics count what other servers send.
type metrics struct {
	transactions *prometheus.CounterVec
	pdus         prometheus.Counter
	edus         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knock_federation_received_transactions_total", Help: "Transactions of other servers, by outcome.",
		}, []string{"outcome"}),
		pdus: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "knock_federation_received_pdus_total", Help: "Events in the transactions of other servers.",
		}),
		edus: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knock_federation_received_edus_total", Help: "EDUs in the transactions of other servers, by type.",
		}, []string{"type"}),
	}
	if reg != nil {
		reg.MustRegister(m.transactions, m.pdus, m.edus)
	}
	return m
}
