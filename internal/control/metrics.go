package control

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	operations  *prometheus.CounterVec
	reverts     prometheus.Counter
	rollbacks   prometheus.Counter
	guardErrors prometheus.Counter
	stateErrors prometheus.Counter
	chainIntact prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_control_operations_total", Help: "Operations on revisions and slots, by result.",
		}, []string{"operation", "result"}),
		reverts:     counter("ringfence_control_node_reverts_total", "Live revisions that a node went back from by itself."),
		rollbacks:   counter("ringfence_control_auto_rollbacks_total", "Live revisions rolled back because of their denials."),
		guardErrors: counter("ringfence_control_guard_errors_total", "Checks of denials after a promote that could not be made."),
		stateErrors: counter("ringfence_control_state_errors_total", "States for nodes that could not be built."),
		chainIntact: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_control_activity_chain_intact", Help: "1 when the activity log is what was written.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.operations, m.reverts, m.rollbacks, m.guardErrors, m.stateErrors, m.chainIntact} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) count(operation string, err error) {
	result := "ok"
	if err != nil {
		result = string(CodeOf(err))
	}
	m.operations.WithLabelValues(operation, result).Inc()
}
