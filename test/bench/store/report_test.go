package main

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

// TestQuickRun runs decode, ingest and gather with short samples, and checks that the
// report has every key with a figure, and every goal.
func TestQuickRun(t *testing.T) {
	dir := t.TempDir()
	bin, out := filepath.Join(dir, "store"), filepath.Join(dir, "out", "store.json")
	if b, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	cmd := exec.Command(bin, "-quick", "-only", "decode,ingest,gather", "-for", "2s", "-batch", "5000",
		"-engine-library", clickhousetest.Library(t), "-output", out)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run: %v\n%s", err, b)
	}
	for _, want := range []string{"QUICK RUN", "decode and label", "plain"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the table lacks %q:\n%s", want, b)
		}
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"decode.records_per_s", "decode.ns_per_record", "ingest.records_per_s", "ingest.bytes_per_flow", "ingest.mixed_records_per_s",
		"ingest.plain.records_per_s", "ingest.plain.bytes_per_flow", "ingest.records", "machine.cpus",
		"gather.batches_per_s", "gather.direct_batches_per_s", "gather.inserts_per_s", "gather.rounds_per_s", "gather.direct_rounds_per_s",
	} {
		if v, _ := at(report, key).(float64); v <= 0 {
			t.Errorf("%s is %v", key, at(report, key))
		}
	}
	if v := at(report, "decode.allocs_per_record"); v != 0.0 {
		t.Errorf("decode.allocs_per_record is %v", v)
	}
	if goals, _ := report["goals"].([]any); len(goals) != 4 {
		t.Errorf("%d goals, want 4: %v", len(goals), goals)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
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

// TestJudge checks goals that are reached, that are not, that the store gave up,
// and that were not measured.
func TestJudge(t *testing.T) {
	r := newReport(false)
	r.Decode = &Decode{RecordsPerS: 2e6, AllocsPerRecord: 0.01}
	r.Ingest = &Ingest{RecordsPerS: 300_000, BytesPerFlow: 16.5}
	r.SummaryMS = map[string]*float64{"all_100m": nil}
	r.Agent = &Agent{RSSMiB: 149, CPUUse: CPUUse{Idle: 0.5, OneFlow: 0.4}, Alone: CPUUse{Idle: 0.1, OneFlow: 0.3, Noise: 0.1}}
	r.judge()
	got := map[string]bool{}
	for _, g := range r.Goals {
		got[g.Name] = g.Reached
	}
	for name, want := range map[string]bool{
		"decode and label, one CPU":                   true,
		"decode and label":                            false,
		"ingest, end to end":                          true,
		"on disk, merged":                             false,
		"edges of everything, 100 million flows":      false,
		"agent's memory, 100,000 live flows":          true,
		"one flow a second, over none, all processes": true,
		"one flow a second, over none, agent":         false,
	} {
		if reached, ok := got[name]; !ok || reached != want {
			t.Errorf("%s: reached is %t (judged %t), want %t", name, reached, ok, want)
		}
	}
	if _, judged := got["edges of one workload, 100 million flows"]; judged || len(got) != 8 {
		t.Errorf("judged %v", got)
	}
	if !math.IsNaN(r.summary("one_1m")) {
		t.Error("what was not asked has a figure")
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  config
		ok   bool
	}{
		{"good", config{only: "ingest,summary", batch: 1, writers: 1, seconds: 1}, true},
		{"unknown part", config{only: "ingest,egress", batch: 1, writers: 1, seconds: 1}, false},
		{"no rows", config{writers: 1, seconds: 1}, false},
		{"no writer", config{batch: 1, seconds: 1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.cfg.validate(); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
	if err := room(t.TempDir(), math.MaxUint64); err == nil || !strings.Contains(err.Error(), "MiB left") {
		t.Errorf("a disk that is too small: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readNote(dir); err == nil || !strings.Contains(err.Error(), "holds something else") {
		t.Errorf("somebody else's directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, noteName), []byte(`{"seed": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readNote(dir); err == nil || !strings.Contains(err.Error(), "seed 99") {
		t.Errorf("another seed: %v", err)
	}
}
