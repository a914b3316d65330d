package interfaces

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	known   prometheus.Gauge
	resyncs prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		known: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_interfaces", Help: "Network interfaces of the node's namespace, watched or not.",
		}),
		resyncs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_interfaces_resyncs_total", Help: "Times that all interfaces were listed again, because the kernel had to drop messages about them.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.known, m.resyncs} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
