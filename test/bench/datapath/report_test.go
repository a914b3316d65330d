package main

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/test/bench/report"
)

// wantKeys are the keys that whoever reads the report relies on.
var wantKeys = []string{
	"ns.empty", "ns.observe_v4", "ns.audit_v4", "ns.enforce_v4", "ns.enforce_v6", "ns.enforce_v4_100k", "ns.first_packet",
	"rules.ns_10", "rules.ns_10000", "crr_us.none", "crr_us.ringfence", "crr_us.nftables", "crr_added_ratio.samples", "crr_noise_ratio.samples",
	"cpu_s_per_gb.empty", "cpu_s_per_gb.ringfence", "xdp_ns.empty", "xdp_ns.entries_1000", "xdp_ns.entries_1000000", "promote_500_ms", "bytes_per_flow", "flows_in_256_mib",
	"machine.kernel", "machine.cpu", "machine.load_before", "machine.load_after", "machine.bpf_jit_enable",
}

// TestQuickRun runs the whole benchmark with few samples, and checks that its
// report has every key with a figure, and every goal.
func TestQuickRun(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("this test needs nftables: install the package of that name")
	}
	dir := t.TempDir()
	bin, out := filepath.Join(dir, "datapath"), filepath.Join(dir, "out", "datapath.json")
	if b, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	b, err := exec.Command(bin, "-quick", "-output", out).CombinedOutput()
	if err != nil {
		t.Fatalf("run: %v\n%s", err, b)
	}
	for _, want := range []string{"QUICK RUN", "IPv4, 10,000 flows at random", "connect-request-close", "memory"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the table lacks %q:\n%s", want, b)
		}
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range wantKeys {
		switch v := at(got, key).(type) {
		case float64:
			if v <= 0 {
				t.Errorf("%s is %g", key, v)
			}
		case string:
			if v == "" {
				t.Errorf("%s is empty", key)
			}
		default:
			t.Errorf("%s is %v", key, v)
		}
	}
	xdp, _ := got["xdp_ns"].(map[string]any)
	if keys := slices.Sorted(maps.Keys(xdp)); !slices.Equal(keys, []string{"empty", "entries_1000", "entries_1000000"}) {
		t.Errorf("xdp_ns has the keys %v", keys)
	}
	if goals, _ := got["goals"].([]any); len(goals) != 10 {
		t.Errorf("%d goals, want 10: %v", len(goals), goals)
	}
	if wrong := at(got, "promote.wrong"); wrong != 0.0 {
		t.Errorf("%v wrong verdicts", wrong)
	}
}

// at follows a key's dots.
func at(v any, key string) any {
	for name := range strings.SplitSeq(key, ".") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// TestJudge checks a goal that is reached, one that is not, and one without figures.
func TestJudge(t *testing.T) {
	r := newReport(false)
	r.NS = map[string]float64{"empty": 8, "enforce_v4": 58, "enforce_v6": 74}
	r.CRRRatio = report.Series{Samples: 2, Min: 0.4, Median: 0.51}
	r.AuditEnforceNS = -6
	r.Series.Add("ns.empty", []float64{8})
	r.Series.Add("crr_us.none", []float64{10})
	r.judge()
	got := map[string]bool{}
	for _, g := range r.Goals {
		got[g.Name] = g.Reached
	}
	for name, want := range map[string]bool{
		"established IPv4, enforce, above an empty program":  true,
		"established IPv6, enforce, above an empty program":  false,
		"audit and enforce differ":                           false,
		"connect-request-close, added to what nftables adds": false,
	} {
		if reached, ok := got[name]; !ok || reached != want {
			t.Errorf("%s: reached is %t (judged %t), want %t", name, reached, ok, want)
		}
	}
	if _, judged := got["CPU a gigabyte over empty programs"]; judged {
		t.Error("a goal without figures was judged")
	}
}

// TestInterleave checks that the rounds do.
func TestInterleave(t *testing.T) {
	var order []string
	record := func(name string) column {
		return column{name: name, measure: func() (float64, error) { order = append(order, name); return 1, nil }}
	}
	samples, err := interleave(2, []column{record("a"), record("b")})
	if err != nil || len(samples["a"]) != 2 || strings.Join(order, "") != "abab" {
		t.Errorf("order %v, samples %v, error %v", order, samples, err)
	}
}
