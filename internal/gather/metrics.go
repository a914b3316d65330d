package gather

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	batches      prometheus.Counter
	records      prometheus.Counter
	coverage     prometheus.Counter
	repeated     prometheus.Counter
	refused      *prometheus.CounterVec
	groups       prometheus.Counter
	groupRecords prometheus.Histogram
	seconds      prometheus.Histogram
	retries      prometheus.Counter
	damaged      prometheus.Counter
	lost         prometheus.Counter
	stateErrors  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, level func() Level) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_gather_" + name, Help: help})
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ringfence_gather_" + name, Help: help, Buckets: buckets})
	}
	waiting := func(name, help string, value func(Level) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringfence_gather_waiting_" + name, Help: help},
			func() float64 { return value(level()) })
	}
	m := &metrics{
		batches:  counter("batches_total", "Batches taken from agents."),
		records:  counter("records_total", "Records of the batches taken from agents."),
		coverage: counter("coverage_rows_total", "Rows of coverage taken from agents."),
		repeated: counter("repeated_total", "Batches and coverage that were taken before, and answered and not stored again."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_gather_refused_total",
			Help: "Batches and coverage that were not taken, by reason: wrong in themselves, too much waits (full), or the disk took none.",
		}, []string{"reason"}),
		groups:       counter("groups_stored_total", "Groups stored, each in one insert a table."),
		groupRecords: histogram("group_records", "Records of a group that was stored.", 10, 100, 1000, 10_000, 20_000, 50_000, 100_000),
		seconds:      histogram("store_seconds", "Time from a group's first batch until the group was stored.", .1, .25, .5, 1, 2, 5, 10, 60, 600, 3600),
		retries:      counter("insert_retries_total", "Attempts to store a group that did not succeed."),
		damaged:      counter("damaged_groups_total", "Groups that were damaged on disk. Their records are lost, and stored as dropped."),
		lost:         counter("records_lost_total", "Records of damaged groups."),
		stateErrors:  counter("state_errors_total", "Files of what agents handed over that were damaged or could not be written."),
	}
	for _, reason := range []string{reasonWrong, reasonFull, reasonDisk} {
		m.refused.WithLabelValues(reason)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.batches, m.records, m.coverage, m.repeated, m.refused, m.groups, m.groupRecords, m.seconds, m.retries, m.damaged, m.lost, m.stateErrors,
		waiting("groups", "Groups on disk that wait for the store.", func(l Level) float64 { return float64(l.Groups) }),
		waiting("records", "Records on disk that wait for the store.", func(l Level) float64 { return float64(l.Records) }),
		waiting("bytes", "Size of what waits on disk.", func(l Level) float64 { return float64(l.Bytes) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Reasons of refused.
const (
	reasonWrong = "wrong"
	reasonFull  = "full"
	reasonDisk  = "disk"
)
