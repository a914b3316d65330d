package api

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   prometheus.Counter
	logins   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	streams  prometheus.Gauge
	dropped  prometheus.Counter
	storeOut prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: vec("ringfence_api_requests_total", "Requests answered.", "route", "method", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ringfence_api_request_seconds", Help: "Time to answer, event streams excepted.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method"}),
		panics:   counter("ringfence_api_panics_total", "Handlers that panicked."),
		logins:   vec("ringfence_api_logins_total", "Login attempts, by result.", "result"),
		refused:  vec("ringfence_api_refused_total", "Requests refused before their handler, by reason.", "reason"),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "ringfence_api_event_streams", Help: "Event streams that are open."}),
		dropped:  counter("ringfence_api_event_streams_dropped_total", "Event streams ended because their client was too slow."),
		storeOut: counter("ringfence_api_store_errors_total", "Numbers that ClickHouse did not give in time."),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.panics, m.logins, m.refused, m.streams, m.dropped, m.storeOut} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
