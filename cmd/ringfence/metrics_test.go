package main

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/enforcer"
	"github.com/ringfence/ringfence/internal/agentlink"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/gather"
	"github.com/ringfence/ringfence/internal/interfaces"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/prefilter"
	"github.com/ringfence/ringfence/internal/spool"
)

// described is a Registerer that keeps the help of every metric by its name.
type described map[string]string

var descPattern = regexp.MustCompile(`fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)"`)

func (d described) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() { c.Describe(ch); close(ch) }()
	for desc := range ch {
		m := descPattern.FindStringSubmatch(desc.String())
		d[m[1]] = m[2]
	}
	return nil
}

func (d described) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		_ = d.Register(c) // it has no error
	}
}

func (d described) Unregister(prometheus.Collector) bool { return false }

// allMetrics are those of a server and an agent, put together as they are.
func allMetrics(t *testing.T) described {
	t.Helper()
	d := described{}
	at := newSite(t)
	opened, err := accessTo(at.engine).open(t.Context(), d)
	must(t, err)
	must(t, opened.Close())
	_, err = clickhouse.New(clickhouse.Config{DataDir: t.TempDir(), Command: []string{engineCommand}, Registerer: d})
	must(t, err)
	c, err := control.Open(t.Context(), control.Config{Path: filepath.Join(t.TempDir(), "c")}, control.Deps{Registerer: d})
	must(t, err)
	defer c.Close() //nolint:errcheck // the test is over
	door := newStoreDoor(at.store)
	l := &learner{}
	l.analyzer, err = analyzer.New(analyzer.Config{}, analyzer.Deps{
		Edges: door, Coverage: door, Registerer: d, Inventory: func() inventory.Inventory { return inventory.Inventory{} },
	})
	must(t, err)
	_, err = api.New(api.Config{}, api.Deps{
		Control: c, Sessions: c.Sessions(), Analyzer: l, Flows: door, Registerer: d, Logger: slog.New(slog.DiscardHandler), UI: os.DirFS(t.TempDir()),
	})
	must(t, err)
	_, err = gather.New(gather.Config{Dir: t.TempDir(), Registerer: d}, door)
	must(t, err)
	_, err = agentlink.New(agentlink.Config{Token: strings.Repeat("t", 52), Registerer: d}, c)
	must(t, err)

	_, err = agentlink.NewClient(agentlink.ClientConfig{Address: "unix:///x", Token: strings.Repeat("t", 52), Node: "n", Registerer: d})
	must(t, err)
	must(t, new(bpf.Datapath).RegisterMetrics(d))
	_, err = interfaces.New(interfaces.Config{Registerer: d})
	must(t, err)
	_, err = enforcer.New(enforcer.Config{Node: "n", StateDir: t.TempDir(), Registerer: d}, nil, nil)
	must(t, err)
	_, err = prefilter.New(prefilter.Config{Node: "n", Registerer: d}, nil)
	must(t, err)
	owners, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: "n"})
	must(t, err)
	spooled, err := spool.Open(spool.Config{Dir: t.TempDir()})
	must(t, err)
	_, err = collector.New(collector.Config{Node: "n", StateDir: t.TempDir(), Registerer: d}, collector.Deps{
		Reader: new(bpf.Reader), Datapath: new(bpf.Datapath), Owners: owners, Sink: newStoreSink("x"), Spool: spooled,
	})
	must(t, err)
	must(t, os.WriteFile(at.agentMetrics("away"), nil, 0o600))
	families, err := prometheus.Gatherers{newRegistry(), agentGatherer(at.layout)}.Gather()
	must(t, err)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "ringfence_") {
			d[f.GetName()] = f.GetHelp()
		}
	}
	return d
}

var metricName = regexp.MustCompile(`ringfence_[a-z0-9_]+`)

func TestMetricsAreDocumentedAndDrawn(t *testing.T) {
	all := allMetrics(t)
	doc, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	rows := map[string]bool{}
	for line := range strings.Lines(string(doc)) {
		if strings.HasPrefix(line, "| `ringfence_") {
			rows[metricName.FindString(line)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !rows[name] {
			t.Errorf("docs/operations.md lacks a row\n| `%s` | %s |", name, all[name])
		}
	}
	for name := range rows {
		if _, ok := all[name]; !ok {
			t.Errorf("docs/operations.md has the metric %s, and the code has not", name)
		}
	}

	dashboards, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	must(t, err)
	drawn := 0
	for _, path := range dashboards {
		doc, err := os.ReadFile(path)
		must(t, err)
		for line := range strings.Lines(string(doc)) {
			if !strings.Contains(line, `"expr"`) {
				continue
			}
			for _, name := range metricName.FindAllString(line, -1) {
				drawn++
				for _, suffix := range []string{"_bucket", "_sum", "_count"} { // of a histogram
					if base := strings.TrimSuffix(name, suffix); all[base] != "" {
						name = base
					}
				}
				if all[name] == "" {
					t.Errorf("%s asks for %s, which the code has not", path, name)
				}
			}
		}
	}
	if drawn == 0 {
		t.Error("no dashboard asks for a metric")
	}
}
