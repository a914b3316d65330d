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
	misdated *prometheus.CounterVec
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
		misdated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_store_misdated_flows_total",
			Help: "Records sent to the table flows_misdated, since their time is zero, from the future or older than flows are kept; repeated ones included.",
		}, []string{"reason"}),
	}
	if r == nil {
		return m, nil
	}
	// A store is opened again when its server came back at another address.
	var err error
	m.queries, err = register(r, m.queries, err)
	m.seconds, err = register(r, m.seconds, err)
	m.inserted, err = register(r, m.inserted, err)
	m.misdated, err = register(r, m.misdated, err)
	return m, err
}

// register returns c, or what was registered in its place before.
func register[C prometheus.Collector](r prometheus.Registerer, c C, before error) (C, error) {
	err := r.Register(c)
	var twice prometheus.AlreadyRegisteredError
	if errors.As(err, &twice) {
		if old, ok := twice.ExistingCollector.(C); ok {
			return old, before
		}
	}
	return c, errors.Join(before, err)
}

func (m *metrics) query(name string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.queries.WithLabelValues(name, result).Inc()
	m.seconds.WithLabelValues(name).Observe(took.Seconds())
}
