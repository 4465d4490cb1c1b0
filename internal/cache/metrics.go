package cache

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// counters finds or makes the two counters of a cache. Caches share one vector, told apart by name.
func counters(reg prometheus.Registerer, name string) (hits, misses prometheus.Counter) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_cache_requests_total", Help: "Look-ups in memory, by cache and result.",
	}, []string{"cache", "result"})
	var already prometheus.AlreadyRegisteredError
	if reg != nil {
		if err := reg.Register(vec); errors.As(err, &already) {
			if shared, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
				vec = shared
			}
		}
	}
	return vec.WithLabelValues(name, "hit"), vec.WithLabelValues(name, "miss")
}
