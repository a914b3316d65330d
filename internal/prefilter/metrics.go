package prefilter

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

const metricPrefix = "ringfence_prefilter_"

// metrics also reads the kernel's counts whenever it is collected.
type metrics struct {
	dp      Datapath
	packets *prometheus.Desc
	bytes   *prometheus.Desc

	reloads *prometheus.CounterVec
	entries *prometheus.GaugeVec
	success *prometheus.GaugeVec
	ports   *prometheus.GaugeVec
	memory  prometheus.Gauge
	seconds prometheus.Gauge
	errors  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, dp Datapath) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help})
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help}, labels)
	}
	verdicts := []string{"list", "verdict"}
	m := &metrics{
		dp: dp,
		packets: prometheus.NewDesc(metricPrefix+"packets_total",
			"Packets from sources of a deny list, by what became of them (exempted, audited, dropped).", verdicts, nil),
		bytes: prometheus.NewDesc(metricPrefix+"bytes_total",
			"Bytes of packets from sources of a deny list, by what became of them.", verdicts, nil),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "reloads_total", Help: "Contents of a deny list's file, by result (taken, refused).",
		}, []string{"list", "result"}),
		entries: gauges("entries", "Prefixes of a deny list in force.", "list"),
		success: gauges("last_success_timestamp_seconds", "When a deny list's entries were last put in force.", "list"),
		ports:   gauges("interfaces", "Interfaces that deny lists hold on, by XDP mode.", "mode"),
		memory:  gauge("table_bytes", "Bytes of the kernel's tables of all deny lists."),
		seconds: gauge("load_seconds", "Time it took to put all deny lists in force, the last time."),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "count_errors_total", Help: "Times that the kernel's counts could not be read.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m, m.reloads, m.entries, m.success, m.ports, m.memory, m.seconds, m.errors} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.packets
	ch <- m.bytes
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counts, err := m.dp.Counts()
	if err != nil {
		m.errors.Inc()
		return
	}
	for _, c := range counts {
		for verdict, n := range map[string]flow.Counters{"exempted": c.Exempted, "audited": c.Audited, "dropped": c.Dropped} {
			ch <- prometheus.MustNewConstMetric(m.packets, prometheus.CounterValue, float64(n.Packets), c.Name, verdict)
			ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, float64(n.Bytes), c.Name, verdict)
		}
	}
}

func (m *metrics) set(lists []bpf.DenyList, stats bpf.PrefilterStats, now time.Time) {
	m.entries.Reset()
	m.success.Reset()
	for _, l := range lists {
		m.entries.WithLabelValues(l.Name).Set(float64(len(l.Prefixes)))
		m.success.WithLabelValues(l.Name).Set(float64(now.UnixNano()) / 1e9)
	}
	m.memory.Set(float64(stats.Bytes))
	m.seconds.Set(stats.Took.Seconds())
}

func (m *metrics) setPorts(ports []bpf.PrefilterPort) {
	m.ports.Reset()
	for _, p := range ports {
		m.ports.WithLabelValues(p.Mode).Inc()
	}
}

// forget clears what is in force.
func (m *metrics) forget() {
	m.set(nil, bpf.PrefilterStats{}, time.Time{})
	m.setPorts(nil)
}
