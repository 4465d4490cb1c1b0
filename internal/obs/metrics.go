package obs

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry makes a node's registry of metrics with those of Go, the process and the build.
func NewRegistry(version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "knock_build_info", Help: "Always 1; the version is in the label.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	reg.MustRegister(build)
	return reg
}

// Check is one thing that a node needs to be ready; its error is shown to those who may read the page.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// Handler serves /metrics, /_knock/health (the process answers) and /_knock/ready (every check passes; 503 and the
// failing checks by name otherwise). It belongs on an address that the public cannot reach.
func Handler(reg *prometheus.Registry, checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /_knock/health", func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusOK, map[string]any{"status": "ok"})
	})
	mux.HandleFunc("GET /_knock/ready", func(w http.ResponseWriter, r *http.Request) {
		failed := runChecks(r.Context(), checks)
		if len(failed) > 0 {
			writeStatus(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "failed": failed})
			return
		}
		writeStatus(w, http.StatusOK, map[string]any{"status": "ready"})
	})
	return mux
}

func runChecks(ctx context.Context, checks []Check) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	failed := map[string]string{}
	for _, c := range checks {
		if err := c.Run(ctx); err != nil {
			failed[c.Name] = err.Error()
		}
	}
	return failed
}

func writeStatus(w http.ResponseWriter, code int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the prober is gone
}
