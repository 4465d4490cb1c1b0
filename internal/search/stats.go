package search

import "github.com/prometheus/client_golang/prometheus"

// stats are the metrics of an index.
type stats struct {
	docs, segments prometheus.Gauge
	indexed        prometheus.Counter
	took           prometheus.Histogram
}

func newStats(reg prometheus.Registerer) *stats {
	s := &stats{
		docs:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "knock_search_texts", Help: "Texts in the search index; one that was edited counts once more until segments are merged."}),
		segments: prometheus.NewGauge(prometheus.GaugeOpts{Name: "knock_search_segments", Help: "Segments of the search index."}),
		indexed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "knock_search_indexed_total", Help: "Texts written to the search index."}),
		took:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "knock_search_seconds", Help: "How long searches took.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	if reg != nil {
		reg.MustRegister(s.docs, s.segments, s.indexed, s.took)
	}
	return s
}
