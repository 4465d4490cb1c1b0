package sqldb

import "github.com/prometheus/client_golang/prometheus"

// metrics of the writer. They are counted also when nobody asked for them.
type metrics struct {
	reg      prometheus.Registerer
	batch    prometheus.Histogram
	commit   prometheus.Histogram
	queue    prometheus.Gauge
	done     prometheus.Counter
	reruns   prometheus.Counter
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		reg: reg,
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "knock_db_batch_ops", Help: "Operations in one write transaction.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "knock_db_commit_seconds", Help: "Time to insert the buffered rows and commit.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 11),
		}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "knock_db_queue_ops", Help: "Operations waiting for the writer.",
		}),
		done: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "knock_db_ops_total", Help: "Operations committed.",
		}),
		reruns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "knock_db_batch_reruns_total", Help: "Batches that failed and were run again one by one.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knock_db_op_failures_total", Help: "Operations that failed, by name.",
		}, []string{"op"}),
	}
	if reg != nil {
		for _, c := range m.all() {
			_ = reg.Register(c) // a second database in one process goes uncounted
		}
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.batch, m.commit, m.queue, m.done, m.reruns, m.failures}
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all() {
		m.reg.Unregister(c)
	}
}
