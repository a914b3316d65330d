package agentlink

import "github.com/prometheus/client_golang/prometheus"

type serverMetrics struct {
	connected   prometheus.Gauge
	states      prometheus.Counter
	stateErrors prometheus.Counter
	reports     prometheus.Counter
	refused     *prometheus.CounterVec
	confirms    *prometheus.CounterVec
}

func newServerMetrics(reg prometheus.Registerer) (*serverMetrics, error) {
	m := &serverMetrics{
		connected:   gauge("ringfence_agentlink_agents", "Agents connected to this server."),
		states:      counter("ringfence_agentlink_states_sent_total", "States sent to agents."),
		stateErrors: counter("ringfence_agentlink_state_errors_total", "States that could not be made or were too large to send."),
		reports:     counter("ringfence_agentlink_reports_total", "Reports received from agents."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_agentlink_refused_total", Help: "What agents sent and the server refused, by what was wrong (token, hello, report, store, confirm, records).",
		}, []string{"reason"}),
		confirms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_agentlink_confirms_total", Help: "Questions whether a live revision may stay, by the answer.",
		}, []string{"confirmed"}),
	}
	return m, register(reg, m.connected, m.states, m.stateErrors, m.reports, m.refused, m.confirms)
}

type clientMetrics struct {
	connected  prometheus.Gauge
	reconnects prometheus.Counter
	states     prometheus.Counter
	bad        prometheus.Counter
}

func newClientMetrics(reg prometheus.Registerer) (*clientMetrics, error) {
	m := &clientMetrics{
		connected:  gauge("ringfence_agentlink_connected", "1 while this agent is connected to its server."),
		reconnects: counter("ringfence_agentlink_connects_failed_total", "Connections to the server that failed or broke."),
		states:     counter("ringfence_agentlink_states_received_total", "States received from the server."),
		bad:        counter("ringfence_agentlink_states_bad_total", "States whose digest did not match or that could not be read."),
	}
	return m, register(reg, m.connected, m.reconnects, m.states, m.bad)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func register(reg prometheus.Registerer, list ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for _, c := range list {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}
