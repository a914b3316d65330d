package store

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	queries  *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inserted *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_store_queries_total", Help: "Queries and inserts sent to ClickHouse, by name and result.",
		}, []string{"query", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ringfence_store_query_duration_seconds", Help: "Time that queries and inserts took.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30},
		}, []string{"query"}),
		inserted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_store_inserted_rows_total", Help: "Rows sent to ClickHouse and acknowledged, repeated ones included.",
		}, []string{"table"}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.queries), r.Register(m.seconds), r.Register(m.inserted))
}

func (m *metrics) query(name string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.queries.WithLabelValues(name, result).Inc()
	m.seconds.WithLabelValues(name).Observe(took.Seconds())
}
