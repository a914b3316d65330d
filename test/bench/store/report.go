package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"

	"github.com/ringfence/ringfence/test/bench/report"
)

// Report is what a run writes. Keys are documented in docs/benchmarks.md.
type Report struct {
	Schema  int            `json:"schema"`
	Started time.Time      `json:"started"`
	Seconds float64        `json:"seconds"`
	Quick   bool           `json:"quick"` // too short to mean anything
	Commit  string         `json:"commit"`
	Machine report.Machine `json:"machine"`

	Decode    *Decode             `json:"decode"`
	Ingest    *Ingest             `json:"ingest"`
	Gather    *Gather             `json:"gather"`
	SummaryMS map[string]*float64 `json:"summary_ms"` // warm, lower quartiles; null when the store gave up
	Stored    map[string]*Stored  `json:"stored"`
	AgentRSS  *float64            `json:"agent_rss_mib"`
	Agent     *Agent              `json:"agent"`

	Goals   report.Goals `json:"goals"`
	Series  report.List  `json:"series"`
	Remarks []string     `json:"remarks"`
}

func newReport(quick bool) *Report {
	return &Report{
		Schema: 1, Started: time.Now().UTC(), Quick: quick, Commit: report.Commit(), Machine: report.NewMachine(0),
		SummaryMS: map[string]*float64{}, Stored: map[string]*Stored{},
		Series: report.List{}, Remarks: []string{},
	}
}

// judge compares the figures with what is promised.
func (r *Report) judge() {
	if d := r.Decode; d != nil {
		r.Goals.AtLeast("decode and label, one CPU", "records/s", d.RecordsPerS, 1_000_000)
		r.Goals.AtMost("decode and label", "allocations/record", d.AllocsPerRecord, 0)
	}
	if i := r.Ingest; i != nil {
		r.Goals.AtLeast("ingest, end to end", "records/s", i.RecordsPerS, 300_000)
		r.Goals.AtMost("on disk, merged", "bytes/flow", i.BytesPerFlow, 16)
	}
	r.Goals.AtMost("edges of everything, 100 million flows", "ms", r.summary("all_100m"), 1000)
	r.Goals.AtMost("edges of one workload, 100 million flows", "ms", r.summary("one_100m"), 100)
	if a := r.Agent; a != nil {
		r.Goals.AtMost("agent's memory, 100,000 live flows", "MiB", a.RSSMiB, 150)
		r.Goals.AtMost("one flow a second, over none, agent", "% of a CPU", a.Alone.added(), max(a.Alone.Noise, 0.1))
		r.Goals.AtMost("one flow a second, over none, all processes", "% of a CPU", a.added(), 0.5)
	}
}

// gaveUp stands for an answer that did not come: the store's limit for a query.
const gaveUp = 30_000

// summary is a figure, and NaN when it was not asked for.
func (r *Report) summary(key string) float64 {
	v, asked := r.SummaryMS[key]
	switch {
	case !asked:
		return math.NaN()
	case v == nil:
		return gaveUp
	}
	return *v
}

// print writes the report for a person to read.
func (r *Report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("%s, Linux %s, %d CPUs, load %s before and %s after, %.0f s", r.Machine.CPU, r.Machine.Kernel,
		r.Machine.CPUs, r.Machine.LoadBefore, r.Machine.LoadAfter, r.Seconds)
	if r.Quick {
		line("QUICK RUN: too short to mean anything")
	}
	line("")
	if d := r.Decode; d != nil {
		line("decode and label\t%.0f records/s\t%.0f ns a record\t%.0f of them to label\t%g allocations a record", d.RecordsPerS, d.NS, d.LabelNS, d.AllocsPerRecord)
		line("")
	}
	if i := r.Ingest; i != nil {
		line("ingest\trecords/s\tbytes/flow\tedges' bytes/flow")
		line("  ringfence\t%.0f\t%.2f\t%.2f", i.RecordsPerS, i.BytesPerFlow, i.EdgeBytesPerFlow)
		line("  batches of all nodes\t%.0f", i.MixedRecordsPerS)
		line("  plain\t%.0f\t%.2f", i.Plain.RecordsPerS, i.Plain.BytesPerFlow)
		line("  CPU seconds for 10 million\tclient %.1f\tengine %.1f\t%.1f s of merging left, %d parts", i.ClientCPU, i.EngineCPU, i.SettleSeconds, i.PartsAtEnd)
		line("")
	}
	if g := r.Gather; g != nil {
		line("agents with %d records a batch\tbatches/s\tinserts/s\twith heartbeats, batches/s", g.Records)
		line("  direct, %d at once\t%.1f\t%.1f\t%.1f", directAgents, g.DirectBatchesPerS, g.DirectBatchesPerS, g.DirectRoundsPerS)
		line("  gathered, %d at once\t%.0f\t%.1f\t%.0f\t%.1f MiB waiting at most", g.Agents, g.BatchesPerS, g.InsertsPerS, g.RoundsPerS, float64(g.MostWaiting)/(1<<20))
		line("")
	}
	if len(r.Stored) > 0 {
		line("edges of, ms\teverything\tcold\ttotals\tone workload\tworst of %d\tcold\tedges\tloaded at", drawn)
		for _, size := range sizes {
			if s := r.Stored[size.name]; s != nil {
				line("  %s flows\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%.0f/s", size.name, ms(r.SummaryMS["all_"+size.name]), ms(s.AllColdMS), ms(s.TotalsMS),
					ms(r.SummaryMS["one_"+size.name]), ms(s.OneWorstMS), ms(s.OneColdMS), s.Edges, s.LoadPerS)
			}
		}
		line("")
	}
	if a := r.Agent; a != nil {
		line("agent\t%.1f MiB idle\t%.1f MiB\t%.1f MiB at most\t%d live flows, %d packets/s", a.IdleRSSMiB, a.RSSMiB, a.PeakRSSMiB, a.LiveFlows, a.PerS)
		line("CPU of agent, server and engine\tidle %.2f %%\tone flow a second %.2f %%\tidle differs by %.2f %%", a.Idle, a.OneFlow, a.Noise)
		line("CPU of the agent\tidle %.2f %%\tone flow a second %.2f %%\tidle differs by %.2f %%", a.Alone.Idle, a.Alone.OneFlow, a.Alone.Noise)
		line("")
	}
	r.Goals.Print(t)
	for _, m := range r.Remarks {
		line("note: %s", m)
	}
	return t.Flush()
}

func ms(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", *v)
}
