package httpx

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
)

// metrics counts requests by route template: a closed set, whatever clients ask for.
type metrics struct {
	seconds *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		return nil
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "knock_http_request_seconds", Help: "Time to answer a request, by route and class of status.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30},
	}, []string{"method", "route", "code"})
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(seconds); errors.As(err, &already) {
		if shared, ok := already.ExistingCollector.(*prometheus.HistogramVec); ok {
			seconds = shared // another listener's router on the same registry
		}
	}
	return &metrics{seconds}
}

// observe counts one answered request.
func (m *metrics) observe(row *Route, code int, took time.Duration) {
	if m == nil || code < 200 || code > 599 {
		return
	}
	class := [...]string{"2xx", "3xx", "4xx", "5xx"}[code/100-2]
	m.seconds.WithLabelValues(row.Method, row.Path, class).Observe(took.Seconds())
}

// log writes the request's one line. The path and query are never in it: they hold tokens and names.
func (rt *Router) log(r *Request, code int, took time.Duration, err error) {
	level := logrus.InfoLevel
	switch {
	case code >= 500 && r.Context().Err() != nil:
		level = logrus.DebugLevel // the caller went away: nobody sees the failure
	case code >= 500:
		level = logrus.ErrorLevel
	}
	if rt.hooks.Log == nil || !rt.hooks.Log.Logger.IsLevelEnabled(level) {
		return
	}
	fields := logrus.Fields{"method": r.Method, "route": r.route.Path, "code": code,
		"ms": float64(took.Microseconds()) / 1000, "ip": r.clientIP}
	if r.Caller.UserID != "" {
		fields["user"] = r.Caller.UserID
	}
	if r.Caller.Origin != "" {
		fields["origin"] = r.Caller.Origin
	}
	if err != nil && !errors.Is(err, http.ErrAbortHandler) {
		fields["error"] = err.Error()
	}
	rt.hooks.Log.WithFields(fields).Log(level, "request")
}
