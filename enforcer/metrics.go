package enforcer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	applies       *prometheus.CounterVec
	seconds       prometheus.Histogram
	switches      prometheus.Counter
	tables        prometheus.Counter
	reverts       prometheus.Counter
	revertErrors  prometheus.Counter
	confirmErrors prometheus.Counter
	drift         prometheus.Counter
	damaged       prometheus.Counter
	pending       prometheus.Gauge
	waiting       prometheus.Gauge
	unknown       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_enforcer_" + name, Help: help})
	}
	m := &metrics{
		applies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_enforcer_applies_total", Help: "States taken from the server, by result (applied, refused).",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_enforcer_apply_seconds", Help: "Time from a State's arrival until the kernel holds it.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		switches:      counter("switches_total", "Changes of a workload's live revision in the kernel."),
		tables:        counter("tables_written_total", "Policy tables written to or deleted from the kernel."),
		reverts:       counter("reverts_total", "Live revisions that this node took back because the server did not confirm them."),
		revertErrors:  counter("revert_errors_total", "Reverts that did not succeed and are tried again."),
		confirmErrors: counter("confirm_errors_total", "Attempts to have a switch confirmed that did not succeed."),
		drift:         counter("drift_total", "Policy tables that were not what this node had put there, and were repaired."),
		damaged:       counter("state_file_damaged_total", "Damaged state files found at start."),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_enforcer_unconfirmed", Help: "Workloads whose live revision awaits the server's confirmation.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_endpoints_waiting", Help: "Endpoints of this node that are not watched, most likely because their interface does not exist.",
		}),
		unknown: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_endpoints_pending", Help: "Interfaces watched because a rule picks them, although no endpoint names them.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.applies, m.seconds, m.switches, m.tables, m.reverts, m.revertErrors, m.confirmErrors, m.drift, m.damaged, m.pending, m.waiting, m.unknown} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) applied(err error, took time.Duration) {
	result := "applied"
	if err != nil {
		result = "refused"
	}
	m.applies.WithLabelValues(result).Inc()
	m.seconds.Observe(took.Seconds())
}
