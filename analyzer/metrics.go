package analyzer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	recommendations *prometheus.CounterVec
	seconds         prometheus.Histogram
	edges           prometheus.Counter
}

// newMetrics registers the analyzer's metrics; without a registerer they are
// counted and shown nowhere.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		recommendations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_recommendations_total", Help: "Recommendations computed, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_recommendation_seconds", Help: "Time to compute one recommendation.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		edges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_analyzer_edges_read_total", Help: "Stored edges the analyzer read.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.recommendations, m.seconds, m.edges} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) recommended(start time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.recommendations.WithLabelValues(result).Inc()
	m.seconds.Observe(time.Since(start).Seconds())
}

func (m *metrics) read(edges int) { m.edges.Add(float64(edges)) }
