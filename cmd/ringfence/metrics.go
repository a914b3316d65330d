package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// newRegistry returns a registry with the metrics every process has.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ringfence_build_info", Help: "Always 1; the labels say what was built.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// serveAgentMetrics serves an agent's metrics on a unix socket until ctx ends;
// the server's /metrics hands them on.
func serveAgentMetrics(ctx context.Context, socket string, reg *prometheus.Registry) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	srv := &http.Server{Handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// agentGatherer gathers the metrics of every agent on this machine, each with
// the label node. An agent that does not answer adds nothing but
// ringfence_agent_up 0.
func agentGatherer(places layout) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		const suffix = ".metrics.sock"
		sockets, err := filepath.Glob(filepath.Join(filepath.Dir(places.agentSocket()), "*"+suffix))
		if err != nil {
			return nil, err
		}
		up := &dto.MetricFamily{
			Name: new("ringfence_agent_up"), Help: new("1 while the node's agent answers."),
			Type: dto.MetricType_GAUGE.Enum(),
		}
		merged := make(map[string]*dto.MetricFamily)
		for _, socket := range sockets {
			node := &dto.LabelPair{Name: new("node"), Value: new(strings.TrimSuffix(filepath.Base(socket), suffix))}
			families, err := scrape(socket)
			alive := 1.0
			if err != nil {
				alive = 0
			}
			up.Metric = append(up.Metric, &dto.Metric{Label: []*dto.LabelPair{node}, Gauge: &dto.Gauge{Value: &alive}})
			for name, f := range families {
				for _, m := range f.Metric {
					m.Label = append(m.Label, node)
				}
				if known := merged[name]; known != nil {
					known.Metric = append(known.Metric, f.Metric...)
				} else {
					merged[name] = f
				}
			}
		}
		out := []*dto.MetricFamily{up}
		for _, f := range merged {
			out = append(out, f)
		}
		return out, nil
	})
}

func scrape(socket string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(res.Body)
}
