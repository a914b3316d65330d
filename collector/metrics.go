package collector

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	read            prometheus.Counter
	stored          prometheus.Counter
	replayed        prometheus.Counter
	batches         prometheus.Counter
	truncated       prometheus.Counter
	unattributed    prometheus.Counter
	retries         prometheus.Counter
	seconds         prometheus.Histogram
	lag             prometheus.Gauge
	sweepErrors     prometheus.Counter
	heartbeatErrors prometheus.Counter
	stateErrors     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_collector_" + name, Help: help})
	}
	m := &metrics{
		read:         counter("records_read_total", "Records read from the ring buffer."),
		stored:       counter("records_stored_total", "Records stored."),
		replayed:     counter("records_replayed_total", "Records sent to the store again at start, because it was not known whether they were stored."),
		batches:      counter("batches_total", "Batches stored."),
		truncated:    counter("records_truncated_total", "Records of a wrong length, which were counted and not decoded."),
		unattributed: counter("records_unattributed_total", "Records of an interface that no endpoint of the inventory named. They are stored without an observer, and nobody learns from them."),
		retries:      counter("insert_retries_total", "Attempts to store a batch that did not succeed."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_collector_insert_seconds", Help: "Time to store a batch.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_collector_lag_seconds", Help: "Age of the newest record of the last batch when it was stored.",
		}),
		sweepErrors:     counter("sweep_errors_total", "Sweeps of the flow table that did not succeed."),
		heartbeatErrors: counter("heartbeat_errors_total", "Heartbeats that could not be made or stored; they are sent again."),
		stateErrors:     counter("state_file_errors_total", "State files that could not be read or written."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.read, m.stored, m.replayed, m.batches, m.truncated, m.unattributed,
		m.retries, m.seconds, m.lag, m.sweepErrors, m.heartbeatErrors, m.stateErrors} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
