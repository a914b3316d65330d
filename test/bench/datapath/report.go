package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/ringfence/ringfence/test/bench/report"
)

// Report is what a run writes. Keys are documented in docs/benchmarks.md.
type Report struct {
	Schema  int       `json:"schema"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Quick   bool      `json:"quick"` // too few samples to mean anything
	Commit  string    `json:"commit"`
	Machine Machine   `json:"machine"`

	NS             map[string]float64  `json:"ns"`          // a packet
	NSOneFlow      map[string]float64  `json:"ns_one_flow"` // the same, of one flow only
	AuditEnforceNS float64             `json:"audit_minus_enforce_ns"`
	Rules          Rules               `json:"rules"`
	CRR            map[string]float64  `json:"crr_us"`
	CRRRatio       report.Series       `json:"crr_added_ratio"` // ringfence's to nftables', by loads
	CRRNoise       report.Series       `json:"crr_noise_ratio"` // the same of a second pair without a firewall
	CPU            map[string]float64  `json:"cpu_s_per_gb"`
	CPUOverEmpty   float64             `json:"cpu_over_empty_percent"` // median of the rounds
	CPUNoise       float64             `json:"cpu_noise_percent"`      // the same of a second copy of empty
	Promote        float64             `json:"promote_500_ms"`
	Promotes       Promotes            `json:"promote"`
	BytesPerFlow   float64             `json:"bytes_per_flow"`
	FlowsIn256MiB  int                 `json:"flows_in_256_mib"`
	XDP            map[string]*float64 `json:"xdp_ns"`

	Goals   report.Goals `json:"goals"`
	Series  report.List  `json:"series"`
	Remarks []string     `json:"remarks"`
}

// Rules is what a new flow's first packet costs by the policy's size.
type Rules struct {
	NS10    float64 `json:"ns_10"`
	NS10000 float64 `json:"ns_10000"`
	// NS10000Apart is for ports of which no two are close.
	NS10000Apart float64 `json:"ns_10000_apart"`
	Ratio        float64 `json:"ratio"`
	// ColdRatio is the same with nothing in the processor's caches.
	ColdRatio float64 `json:"cold_ratio"`
}

// Promotes are the switches of staged to live.
type Promotes struct {
	MedianMS      float64 `json:"median_ms"` // of 500 workloads at once
	ClickMedianMS float64 `json:"click_median_ms"`
	ClickP99MS    float64 `json:"click_p99_ms"`
	ClickMaxMS    float64 `json:"click_max_ms"`
	Packets       uint64  `json:"packets"` // judged meanwhile
	Wrong         uint64  `json:"wrong"`   // of them
}

// Machine also says which CPU was measured.
type Machine struct {
	report.Machine
	MeasuredCPU int `json:"measured_cpu"`
}

func newReport(quick bool) *Report {
	return &Report{
		Schema: 1, Started: time.Now().UTC(), Quick: quick,
		NS: map[string]float64{}, NSOneFlow: map[string]float64{}, CRR: map[string]float64{}, CPU: map[string]float64{},
		XDP:    map[string]*float64{"empty": nil, "entries_1000": nil, "entries_1000000": nil},
		Series: report.List{}, Remarks: []string{},
	}
}

// judge compares the figures with what is promised.
func (r *Report) judge() {
	// A part that did not run has no series, and makes no goal.
	goal := func(name, unit, series string, value, limit float64) {
		if _, measured := r.Series[series]; measured {
			r.Goals.AtMost(name, unit, value, limit)
		}
	}
	goal("established IPv4, enforce, above an empty program", "ns", "ns.empty", r.NS["enforce_v4"]-r.NS["empty"], 50)
	goal("established IPv6, enforce, above an empty program", "ns", "ns.empty", r.NS["enforce_v6"]-r.NS["empty"], 65)
	goal("audit and enforce differ", "ns", "ns.empty", max(r.AuditEnforceNS, -r.AuditEnforceNS), 5)
	goal("established IPv4, 100,000 flows", "ns", "ns.empty", r.NS["enforce_v4_100k"], 400)
	goal("first packet, 10,000 rules and 100,000 flows", "ns", "ns.first_packet", r.NS["first_packet"], 1500)
	goal("first packet, 10,000 rules to 10", "times", "rules.ns_10", r.Rules.Ratio, 1.2)
	goal("connect-request-close, added to what nftables adds", "times", "crr_us.none",
		r.CRRRatio.Median, 0.5)
	goal("CPU a gigabyte over empty programs", "%", "cpu_s_per_gb.empty", r.CPUOverEmpty, 3)
	goal("500 workloads promoted at once, slowest", "ms", "promote_500_ms", r.Promote, 50)
	goal("wrong verdicts while promoting", "packets", "promote_500_ms", float64(r.Promotes.Wrong), 0)
}

// print writes the report for a person to read.
func (r *Report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("%s, Linux %s, CPU %d measured, load %s before and %s after, %.0f s", r.Machine.CPU, r.Machine.Kernel,
		r.Machine.MeasuredCPU, r.Machine.LoadBefore, r.Machine.LoadAfter, r.Seconds)
	if r.Quick {
		line("QUICK RUN: too few samples to mean anything")
	}
	line("")
	line("ns a packet\t%s\tempty\tobserve\taudit\tenforce", "")
	line("  IPv4, 10,000 flows at random\t\t%.0f\t%.0f\t%.0f\t%.0f", r.NS["empty"], r.NS["observe_v4"], r.NS["audit_v4"], r.NS["enforce_v4"])
	line("  IPv4, one flow\t\t\t%.0f\t%.0f\t%.0f", r.NSOneFlow["observe_v4"], r.NSOneFlow["audit_v4"], r.NSOneFlow["enforce_v4"])
	line("  IPv6, 10,000 flows at random\t\t\t\t\t%.0f", r.NS["enforce_v6"])
	line("  IPv6, one flow\t\t\t\t\t%.0f", r.NSOneFlow["enforce_v6"])
	line("  IPv4, 100,000 flows at random\t\t\t\t\t%.0f", r.NS["enforce_v4_100k"])
	line("  first packet\t\t\t\t\t%.0f", r.NS["first_packet"])
	line("  first packet, 10 / 10,000 rules / far apart\t\t\t\t\t%.0f / %.0f / %.0f", r.Rules.NS10, r.Rules.NS10000, r.Rules.NS10000Apart)
	line("")
	line("connect-request-close, µs\tnone %.2f\tnone again %.2f\tringfence %.2f\tnftables %.2f",
		r.CRR["none"], r.CRR["none_again"], r.CRR["ringfence"], r.CRR["nftables"])
	for _, share := range []struct {
		name string
		report.Series
	}{{"ringfence", r.CRRRatio}, {"none again", r.CRRNoise}} {
		line("  added, to what nftables adds\t%s %.3f\tquartiles %.3f to %.3f\tall %.3f to %.3f\t%d loads", share.name,
			share.Median, share.Q1, share.Q3, share.Min, share.Max, share.Samples)
	}
	line("CPU seconds a gigabyte\tempty %.4f\tempty again %.4f\tringfence %.4f\tnftables %.4f", r.CPU["empty"], r.CPU["empty_again"], r.CPU["ringfence"], r.CPU["nftables"])
	line("  over empty, by rounds\t\t%.2f %%\t%.2f %%", r.CPUNoise, r.CPUOverEmpty)
	line("500 workloads promoted, ms\tmedian %.2f\tslowest %.2f\twrong %d of %d packets",
		r.Promotes.MedianMS, r.Promote, r.Promotes.Wrong, r.Promotes.Packets)
	line("one workload promoted, ms\tmedian %.3f\tp99 %.3f\tslowest %.3f",
		r.Promotes.ClickMedianMS, r.Promotes.ClickP99MS, r.Promotes.ClickMaxMS)
	line("memory\t%.0f bytes a flow\t%d flows in 256 MiB", r.BytesPerFlow, r.FlowsIn256MiB)
	for _, k := range []string{"empty", "entries_1000", "entries_1000000"} {
		if v := r.XDP[k]; v != nil {
			line("prefilter, ns a packet\t%s %.0f", k, *v)
		}
	}
	line("")
	r.Goals.Print(t)
	for _, m := range r.Remarks {
		line("note: %s", m)
	}
	return t.Flush()
}
