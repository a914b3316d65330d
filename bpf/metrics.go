package bpf

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/flow"
)

// metrics reads the kernel's counters whenever it is collected.
type metrics struct {
	d        *Datapath
	packets  *prometheus.Desc
	denied   *prometheus.Desc
	counters map[kernelRfCounter]*prometheus.Desc
	levels   map[string]*prometheus.Desc
	capacity *prometheus.Desc
	preceded *prometheus.Desc
	errors   prometheus.Counter
}

var counterHelp = map[kernelRfCounter]string{
	kernelRfCounterRF_COUNT_NON_IP:              "Frames that are not IP and passed without a look.",
	kernelRfCounterRF_COUNT_NO_ENDPOINT:         "Packets on an interface that belongs to no endpoint.",
	kernelRfCounterRF_COUNT_FAILSAFE:            "Neighbour discovery and DHCP packets, which always pass.",
	kernelRfCounterRF_COUNT_SELF:                "Packets of an endpoint to itself.",
	kernelRfCounterRF_COUNT_RELATED:             "ICMP errors that belong to a known flow.",
	kernelRfCounterRF_COUNT_MALFORMED:           "Packets whose headers cannot be parsed.",
	kernelRfCounterRF_COUNT_SPOOFED:             "Times that a flow was judged whose source is not its endpoint's.",
	kernelRfCounterRF_COUNT_STATELESS:           "Packets judged without a flow entry.",
	kernelRfCounterRF_COUNT_REVERSED_SYN:        "SYNs of a responder on an open flow.",
	kernelRfCounterRF_COUNT_FRAGMENTS:           "Later fragments.",
	kernelRfCounterRF_COUNT_FRAGMENTS_UNMATCHED: "Later fragments whose first one was not seen.",
	kernelRfCounterRF_COUNT_FRAGMENTS_FULL:      "First fragments that found no room to be noted.",
	kernelRfCounterRF_COUNT_FLOWS:               "Flows that began.",
	kernelRfCounterRF_COUNT_REJUDGED:            "Flows judged again after a change.",
	kernelRfCounterRF_COUNT_TABLE_FULL:          "New flows that found the flow table full.",
	kernelRfCounterRF_COUNT_QUOTA:               "New flows over their endpoint's quota.",
	kernelRfCounterRF_COUNT_UNREPORTED_PACKETS:  "Packets of flows that found no room, which no record counts.",
	kernelRfCounterRF_COUNT_RECORDS:             "Records written to the ring buffer.",
	kernelRfCounterRF_COUNT_RING_FULL:           "Records that found the ring buffer full and wait for the sweep.",
	kernelRfCounterRF_COUNT_ORPHAN_SWEEPS:       "Sweeps of the flow table that the kernel made because no agent did.",
}

var levelHelp = map[string]string{
	"flows_ipv4": "IPv4 flows in the flow table at the last sweep.",
	"flows_ipv6": "IPv6 flows in the flow table at the last sweep.",
	"fragments":  "Fragmented datagrams whose first fragment was remembered at the last sweep.",
	"ring_bytes": "Bytes of the ring buffer that are not yet stored.",
	"addresses":  "Entries of the address table.",
	"cidrs":      "Entries of the prefix table.",
	"failsafe":   "Destinations that endpoints may always reach.",
	"services":   "Ports of services' addresses.",
	"workloads":  "Workloads with an endpoint or a policy.",
	"tables":     "Policy tables in force, equal ones counted once.",
	"entries":    "Entries of the policy tables in force.",
	"endpoints":  "Endpoints being watched.",

	"retired_entries": "Entries of policy tables that are in force no longer and wait to be deleted.",
}

const metricPrefix = "ringfence_datapath_"

// RegisterMetrics registers the datapath's counters and fill levels.
func (d *Datapath) RegisterMetrics(reg prometheus.Registerer) error {
	m := &metrics{
		d: d,
		packets: prometheus.NewDesc(metricPrefix+"packets_total",
			"Packets judged, by what happened to them.", []string{"outcome"}, nil),
		denied: prometheus.NewDesc(metricPrefix+"denied_packets_total",
			"Packets that a slot denies, by reason; the staged slot's are what enforcing would drop.",
			[]string{"slot", "reason"}, nil),
		counters: make(map[kernelRfCounter]*prometheus.Desc),
		levels:   make(map[string]*prometheus.Desc),
		capacity: prometheus.NewDesc(metricPrefix+"capacity",
			"What a table of the kernel holds at most, by the name of its level.", []string{"level"}, nil),
		preceded: prometheus.NewDesc(metricPrefix+"preceded_hooks",
			"Hooks of watched interfaces where a program of others runs before ringfence's, and may let packets past it.", nil, nil),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricPrefix + "read_errors_total",
			Help: "Times that the kernel's counters could not be read.",
		}),
	}
	for i, help := range counterHelp {
		m.counters[i] = prometheus.NewDesc(metricPrefix+counterNames[i]+"_total", help, nil, nil)
	}
	for name, help := range levelHelp {
		m.levels[name] = prometheus.NewDesc(metricPrefix+name, help, nil, nil)
	}
	if err := reg.Register(m); err != nil {
		return fmt.Errorf("register datapath metrics: %w", err)
	}
	return nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.packets
	ch <- m.denied
	for _, desc := range m.counters {
		ch <- desc
	}
	for _, desc := range m.levels {
		ch <- desc
	}
	ch <- m.capacity
	ch <- m.preceded
	m.errors.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counters, err := m.d.Counters()
	if err == nil {
		m.collectCounters(ch, counters)
	} else {
		m.errors.Inc()
	}
	levels, err := m.d.Levels()
	if err == nil {
		m.collectLevels(ch, levels)
	} else {
		m.errors.Inc()
	}
	if n, err := m.d.Preceded(); err == nil {
		ch <- prometheus.MustNewConstMetric(m.preceded, prometheus.GaugeValue, float64(n))
	} else {
		m.errors.Inc()
	}
	m.errors.Collect(ch)
}

func (m *metrics) collectCounters(ch chan<- prometheus.Metric, values map[string]uint64) {
	count := func(desc *prometheus.Desc, name string, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(values[name]), labels...)
	}
	for _, o := range []flow.Outcome{flow.OutcomeForwarded, flow.OutcomeAudited, flow.OutcomeDropped} {
		count(m.packets, o.String(), o.String())
	}
	for r := flow.ReasonNone + 1; r < flow.Reason(reasons); r++ {
		count(m.denied, LiveDeny(r), flow.SlotLive.String(), r.String())
		count(m.denied, StagedDeny(r), flow.SlotStaged.String(), r.String())
	}
	for i, desc := range m.counters {
		count(desc, counterNames[i])
	}
}

func (m *metrics) collectLevels(ch chan<- prometheus.Metric, l Levels) {
	for name, value := range map[string]float64{
		"flows_ipv4": float64(l.FlowsIPv4),
		"flows_ipv6": float64(l.FlowsIPv6),
		"fragments":  float64(l.Fragments),
		"ring_bytes": float64(l.RingBytes),
		"addresses":  float64(l.Addresses),
		"cidrs":      float64(l.CIDRs),
		"failsafe":   float64(l.Failsafe),
		"services":   float64(l.Services),
		"workloads":  float64(l.Workloads),
		"tables":     float64(l.Tables),
		"entries":    float64(l.Entries),
		"endpoints":  float64(l.Endpoints),

		"retired_entries": float64(l.RetiredEntries),
	} {
		ch <- prometheus.MustNewConstMetric(m.levels[name], prometheus.GaugeValue, value)
	}
	limits := m.d.Capacity()
	for name, n := range map[string]int{
		"flows_ipv4": limits.Flows,
		"flows_ipv6": limits.Flows,
		"fragments":  limits.Fragments,
		"ring_bytes": int(l.RingSize), //nolint:gosec // a map's size
		"addresses":  limits.Addresses,
		"cidrs":      limits.CIDRs,
		"failsafe":   limits.Failsafe,
		"services":   limits.Services,
		"workloads":  limits.Workloads,
		"tables":     limits.PolicyTables,
		"entries":    limits.PolicyEntries,
		"endpoints":  limits.Endpoints,
	} {
		ch <- prometheus.MustNewConstMetric(m.capacity, prometheus.GaugeValue, float64(n), name)
	}
}
