package federationapi

import "github.com/prometheus/client_golang/prometheus"

// metrics count what other servers send.
type metrics struct {
	transactions *prometheus.CounterVec
	pdus         prometheus.Counter
	edus         *prometheus.CounterVec
	refused      *prometheus.CounterVec
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
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_federation_refused_requests_total", Help: "Requests of other servers that were too many, by bound.",
	}, []string{"bound"})
	if reg != nil {
		reg.MustRegister(m.refused, m.transactions, m.pdus, m.edus)
	}
	return m
}
