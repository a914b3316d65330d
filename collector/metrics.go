package collector

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/spool"
)

type metrics struct {
	read            prometheus.Counter
	stored          prometheus.Counter
	replayed        prometheus.Counter
	batches         prometheus.Counter
	truncated       prometheus.Counter
	unattributed    prometheus.Counter
	retries         prometheus.Counter
	spooled         prometheus.Counter
	spoolErrors     prometheus.Counter
	seconds         prometheus.Histogram
	lag             prometheus.Gauge
	queued          prometheus.Gauge
	skew            prometheus.Gauge
	sweepErrors     prometheus.Counter
	heartbeatErrors prometheus.Counter
	stateErrors     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, deps Deps) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_collector_" + name, Help: help})
	}
	m := &metrics{
		read:         counter("records_read_total", "Records read from the ring buffer."),
		stored:       counter("records_stored_total", "Records stored, those of the spool included."),
		replayed:     counter("records_replayed_total", "Records sent to the store again at start, because it was not known whether they were stored."),
		batches:      counter("batches_total", "Batches stored."),
		truncated:    counter("records_truncated_total", "Records of a wrong length, which were counted and not decoded."),
		unattributed: counter("records_unattributed_total", "Records of an interface that no endpoint of the inventory named. They are stored without an observer, and nobody learns from them."),
		retries:      counter("insert_retries_total", "Attempts to store a batch that did not succeed."),
		spooled:      counter("records_spooled_total", "Records that went to the spool, since the store was away or slow."),
		spoolErrors:  counter("spool_errors_total", "Batches that could not be written to the spool, read from it or removed; they are tried again."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_collector_insert_seconds", Help: "Time to store a batch.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_collector_lag_seconds", Help: "Age of the newest record of the last batch when it was stored.",
		}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_collector_queued_records", Help: "Records that were read and are neither stored nor spooled.",
		}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_collector_clock_skew_seconds", Help: "The node's clock minus the store's.",
		}),
		sweepErrors:     counter("sweep_errors_total", "Sweeps of the flow table that did not succeed."),
		heartbeatErrors: counter("heartbeat_errors_total", "Heartbeats that could not be made or stored; they are sent again."),
		stateErrors:     counter("state_file_errors_total", "State files that could not be read or written."),
	}
	if reg == nil {
		return m, nil
	}
	list := []prometheus.Collector{
		m.read, m.stored, m.replayed, m.batches, m.truncated, m.unattributed, m.retries, m.spooled, m.spoolErrors,
		m.seconds, m.lag, m.queued, m.skew, m.sweepErrors, m.heartbeatErrors, m.stateErrors,
	}
	for _, c := range append(list, held(deps)...) {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// held are the metrics of what others count.
func held(deps Deps) []prometheus.Collector {
	gauge := func(name, help string, value func(spool.Level) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringfence_collector_" + name, Help: help},
			func() float64 { return value(deps.Spool.Level()) })
	}
	dropped := func(reason string, value func(spool.Level) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringfence_collector_records_dropped_total", Help: "Records that the spool gave up for good, by reason: it was full, a file was damaged, or the server refused them as wrong.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(value(deps.Spool.Level())) })
	}
	return []prometheus.Collector{
		gauge("spool_batches", "Batches on disk that wait for the store.", func(l spool.Level) float64 { return float64(l.Batches) }),
		gauge("spool_records", "Records on disk that wait for the store.", func(l spool.Level) float64 { return float64(l.Records) }),
		gauge("spool_bytes", "Size of what waits on disk.", func(l spool.Level) float64 { return float64(l.Bytes) }),
		dropped("spool_full", func(l spool.Level) uint64 { return l.Full }),
		dropped("spool_damaged", func(l spool.Level) uint64 { return l.Damaged }),
		dropped("refused", func(l spool.Level) uint64 { return l.Refused }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringfence_collector_ownership_cut_total",
			Help: "Former owners of an address that were forgotten before their time, to bound memory. Records of their time are nobody's.",
		}, func() float64 { return float64(deps.Owners.Cut()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringfence_collector_ownership_state_errors_total",
			Help: "Times that who held an address could not be read from disk at start, or written to it. Records from before a restart may be taken for those of whoever has their address after it.",
		}, func() float64 { return float64(deps.Owners.StateErrors()) }),
	}
}
