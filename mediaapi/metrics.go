package mediaapi

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	uploads, uploadBytes, sweptFiles, sweptBytes prometheus.Counter
	requests, fetches, thumbnails, previews      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "knock_media_" + name + "_total", Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "knock_media_" + name + "_total", Help: help}, labels)
	}
	m := &metrics{
		uploads:     counter("uploads", "Files uploaded."),
		uploadBytes: counter("upload_bytes", "Bytes uploaded."),
		sweptFiles:  counter("collected", "Files removed because nothing named them."),
		sweptBytes:  counter("collected_bytes", "Bytes of the files removed because nothing named them."),
		requests:    vec("served", "Media served, by door and kind.", "door", "kind"),
		fetches:     vec("fetched", "Media fetched from other servers, by outcome.", "outcome"),
		thumbnails:  vec("thumbnails", "Thumbnails made, by outcome.", "outcome"),
		previews:    vec("previews", "Web pages fetched for previews, by outcome; full counts images for which there was no room.", "outcome"),
	}
	if reg != nil {
		reg.MustRegister(m.uploads, m.uploadBytes, m.sweptFiles, m.sweptBytes, m.requests, m.fetches, m.thumbnails, m.previews)
	}
	return m
}

func (m *metrics) uploaded(bytes int64) {
	m.uploads.Inc()
	m.uploadBytes.Add(float64(bytes))
}

func (m *metrics) collected(files int, bytes int64) {
	m.sweptFiles.Add(float64(files))
	m.sweptBytes.Add(float64(bytes))
}

func (m *metrics) served(d door, kind string) { m.requests.WithLabelValues(d.String(), kind).Inc() }
func (m *metrics) fetched(outcome string)     { m.fetches.WithLabelValues(outcome).Inc() }
func (m *metrics) previewed(outcome string)   { m.previews.WithLabelValues(outcome).Inc() }
func (m *metrics) rendered(outcome string, images int) {
	m.thumbnails.WithLabelValues(outcome).Add(float64(images))
}
