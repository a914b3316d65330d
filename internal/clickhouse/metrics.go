package clickhouse

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	started, failed, crashed prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_engine_starts_total", Help: "Starts of the embedded ClickHouse that succeeded.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_engine_start_failures_total", Help: "Starts of the embedded ClickHouse that did not succeed.",
		}),
		crashed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_engine_crashes_total", Help: "Times the embedded ClickHouse ended without being asked to.",
		}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.started), r.Register(m.failed), r.Register(m.crashed))
}
