package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestAdopt checks that closing leaves everything in force, and that opening
// again finds it.
func TestAdopt(t *testing.T) { modes(t, adoptBy) }

func adoptBy(t *testing.T, mode AttachMode) {
	t.Helper()
	l := newLab(t, attachBy(mode))
	l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
	p := tcp(web.v4, db.v4, 1000, 80, "")
	l.connect(p)
	before, err := l.d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	tables, links := l.tables(), attachments(t, l.d)
	cfg := l.d.cfg
	// The programs of the first process, kept to be run while no agent is.
	orphan, err := l.d.programs.RfFromEndpoint.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = orphan.Close() }()
	if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
		t.Fatal(err)
	}
	if code := l.sendAs(orphan, skb{}, p.with("A").frame(t)); code != pass {
		t.Errorf("without an agent: %s", verdictName(code))
	}
	if code := l.sendAs(orphan, skb{}, tcp(web.v4, db.v4, 1, 81, "S").frame(t)); code != drop {
		t.Errorf("without an agent: %s", verdictName(code))
	}
	l.d = openAt(t, cfg)
	l.openReader()
	after, err := l.d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	for i := range after {
		if d := after[i].ObservedSince.Sub(before[i].ObservedSince); d.Abs() > 10*time.Millisecond {
			t.Errorf("observed since %s later", d)
		}
		after[i].ObservedSince = before[i].ObservedSince
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("endpoints (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(tables, l.tables()); diff != "" {
		t.Errorf("tables (-before +after):\n%s", diff)
	}
	if ids := attachments(t, l.d); !slices.Equal(ids, links) {
		t.Errorf("links %v were %v: detached and attached again", ids, links)
	}
	l.want(pass, p.reply("A"), "flow of before")
	l.want(drop, tcp(web.v4, db.v4, 2, 81, "S"), "after")
	var sum total
	sum.add(l.records())
	l.sweep(10 * time.Second)
	sum.add(l.records())
	if sum.packets() != 7 {
		t.Errorf("records of %d packets, want 7", sum.packets())
	}
	if levels, err := l.d.Levels(); err != nil || levels.Endpoints != 1 || levels.Tables != 1 || levels.Addresses != 10 {
		t.Errorf("levels %+v, error %v", levels, err)
	}
}

// TestOneAgent checks that a second process cannot take a node that is held.
func TestOneAgent(t *testing.T) {
	l := newLab(t)
	if _, err := Open(l.d.cfg); err == nil || !strings.Contains(err.Error(), "held by another agent") {
		t.Errorf("error %v", err)
	}
	l.want(pass, tcp(web.v4, db.v4, 1, 2, "S"), "after the refusal")
	if err := l.d.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, l.d.cfg)
}

// TestForeignLayout checks that maps which this version cannot know are refused,
// and left alone.
func TestForeignLayout(t *testing.T) {
	schemaText := func(t *testing.T, d *Datapath, text string) {
		path := filepath.Join(d.gen.dir, pinSchema)
		if err := errors.Join(os.Remove(path), pinSchemaText(path, text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, d *Datapath)
		want   string
	}{
		{"layout", func(_ *testing.T, d *Datapath) { d.settings.value.Layout++ }, "have layout 4 and this version needs 3"},
		{"shape", func(_ *testing.T, d *Datapath) { d.settings.value.Fingerprint++ }, "is not the one they were made with"},
		{"stranger", func(_ *testing.T, d *Datapath) { d.settings.value.Magic++ }, "not ringfence's"},
		{"no schema", func(t *testing.T, d *Datapath) {
			if err := os.Remove(filepath.Join(d.gen.dir, pinSchema)); err != nil {
				t.Fatal(err)
			}
		}, "they have no schema"},
		{"schema of another kind", func(t *testing.T, d *Datapath) { schemaText(t, d, "ringfence schema 2\n") }, `schema begins with "ringfence schema 2"`},
		{"damaged schema", func(t *testing.T, d *Datapath) {
			schemaText(t, d, strings.Replace(d.gen.schema.text(), "member ", "membre ", 1))
		}, `schema line "membre`},
		{"schema of others", func(t *testing.T, d *Datapath) {
			schemaText(t, d, strings.Replace(d.gen.schema.text(), "struct rf_owner 8", "struct rf_owner 16", 1))
		}, "map addresses has value size 8, not 16"},
		{"value size", func(t *testing.T, d *Datapath) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 12, MaxEntries: 64})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.gen.dir, kernelMapAddresses)
			if err := errors.Join(os.Remove(path), m.Pin(path), m.Close()); err != nil {
				t.Fatal(err)
			}
		}, "map addresses has value size 12, not 8"},
		{"missing map", func(t *testing.T, d *Datapath) {
			if err := os.Remove(filepath.Join(d.gen.dir, kernelMapFlows4)); err != nil {
				t.Fatal(err)
			}
		}, "pinned map flows4 is missing"},
		{"flat", func(t *testing.T, d *Datapath) {
			if err := d.maps.Settings.Pin(filepath.Join(d.cfg.PinDir, kernelMapSettings)); err != nil {
				t.Fatal(err)
			}
		}, "do not describe themselves"},
		{"stray", func(t *testing.T, d *Datapath) {
			if err := os.Mkdir(filepath.Join(d.cfg.PinDir, "stray"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "directory stray is not ringfence's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			cfg := l.d.cfg
			c.change(t, l.d)
			pins := l.pins()
			if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(cfg.PinDir) })
			_, err := Open(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if after := l.pins(); !slices.Equal(after, pins) {
				t.Errorf("pins %v, were %v", after, pins)
			}
		})
	}
}

// pins lists what is pinned.
func (l *lab) pins() []string {
	var list []string
	_ = filepath.WalkDir(l.d.cfg.PinDir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, path)
		}
		return err
	})
	return list
}

// TestUnfinishedStart checks that a start which broke off is begun again.
func TestUnfinishedStart(t *testing.T) {
	l := newLab(t)
	cfg := l.d.cfg
	if err := errors.Join(l.r.Close(), l.d.Remove()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove the pin directory is there: %v", err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 8, MaxEntries: 64})
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(cfg.PinDir, dirNext)
	if err := errors.Join(os.MkdirAll(next, 0o700), m.Pin(filepath.Join(next, kernelMapAddresses)), m.Close()); err != nil {
		t.Fatal(err)
	}
	d := openAt(t, cfg)
	if _, err := d.SetAddresses(everyone()); err != nil {
		t.Error(err)
	}
}

// TestOpenRefuses checks bad configurations; nothing is left behind.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"relative pin directory", func(c *Config) { c.PinDir = "bpf" }, "want an absolute path"},
		{"no bpffs", func(c *Config) { c.PinDir = filepath.Join(t.TempDir(), "node") }, "is not on a bpffs: mount one at"},
		{"ring size", func(c *Config) { c.RingBytes = 5000 }, "want a power of two"},
		{"prefixes", func(c *Config) { c.CIDRs = 200_000 }, "want at most 100000"},
		{"limit", func(c *Config) { c.Idle.UDP = -1 }, "UDP limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			c.change(&cfg)
			d, err := Open(cfg)
			if err == nil {
				_ = d.Remove()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := os.Stat(cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("pin directory: %v", err)
			}
		})
	}
}

// TestOpenFails checks that a start that fails late leaves nothing behind.
func TestOpenFails(t *testing.T) {
	cfg := labConfig()
	cfg.FlowEntries = 1 << 31 // more than can be allocated
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "create map flows4") {
		t.Errorf("error %v", err)
	}
	if pins, _ := filepath.Glob(filepath.Join(cfg.PinDir, "*")); len(pins) > 1 {
		t.Errorf("left behind: %v", pins)
	}
	_ = os.RemoveAll(cfg.PinDir)
}

func TestCheckKernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.6.0": "", "6.18.44-fc": "", "7.0": "", "6.6-rc1": "", "6.5.13": "", "5.15.0-91-generic": "",
		"5.14.21": "too old", "4.19": "too old", "nonsense": "cannot tell",
	} {
		err := checkKernel(release)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", release, err, want)
		}
	}
}

// TestOpenPinnedPanic checks that panic reaches every node without an agent.
func TestOpenPinnedPanic(t *testing.T) {
	root := filepath.Join(bpffsRoot, fmt.Sprintf("root-%d", serial.Add(1)))
	if _, err := OpenPinnedPanic(root, true); err == nil || !strings.Contains(err.Error(), "no node is pinned") {
		t.Errorf("no nodes: error %v", err)
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(root) })
	one := newLab(t, func(c *Config) { c.PinDir = filepath.Join(root, "one") })
	two := newLab(t, func(c *Config) { c.PinDir = filepath.Join(root, "two") })
	for _, l := range []*lab{one, two} {
		l.apply(live(flow.Egress, 1))
		l.want(drop, tcp(web.v4, db.v4, 1, 2, "S"), "before")
	}
	cfg := two.d.cfg
	orphan, err := two.d.programs.RfFromEndpoint.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = orphan.Close() }()
	if err := errors.Join(two.r.Close(), two.d.Close()); err != nil {
		t.Fatal(err)
	}
	nodes, err := OpenPinnedPanic(root, true)
	if err != nil || !slices.Equal(nodes, []string{"one", "two"}) {
		t.Fatalf("nodes %v, error %v", nodes, err)
	}
	one.want(pass, tcp(web.v4, db.v4, 1, 2, "S"), "under panic")
	if code := two.sendAs(orphan, skb{}, tcp(web.v4, db.v4, 1, 2, "S").frame(t)); code != pass {
		t.Errorf("under panic, without an agent: %s", verdictName(code))
	}
	two.d = openAt(t, cfg)
	if !two.d.Panicked() || !one.d.Panicked() {
		t.Error("panic did not outlive the restart")
	}
	if _, err := OpenPinnedPanic(root, false); err != nil {
		t.Fatal(err)
	}
	two.want(drop, tcp(web.v4, db.v4, 1, 2, "S"), "after panic")
}

// TestBPFFS checks that mounting can be repeated, and unmounting too.
func TestBPFFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := MountBPFFS(dir); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := MountBPFFS(dir); err == nil || !strings.Contains(err.Error(), "is open to others (owner 0, mode 0755)") {
		t.Errorf("mounted for everybody: error %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "node"), 0o711); err != nil {
		t.Fatal(err)
	}
	cfg := labConfig()
	cfg.PinDir = filepath.Join(dir, "node")
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "mode 0711") {
		t.Errorf("pin directory for everybody: error %v", err)
	}
	for range 2 {
		if err := UnmountBPFFS(dir); err != nil {
			t.Fatal(err)
		}
	}
	if on, err := isBPFFS(dir); err != nil || on {
		t.Errorf("mounted still: %t, error %v", on, err)
	}
	if err := UnmountBPFFS(filepath.Join(dir, "none")); err != nil {
		t.Errorf("unmount of nothing: %v", err)
	}
}

// TestMetrics checks that the collector's metrics are well formed and counted.
func TestMetrics(t *testing.T) {
	l := newLab(t)
	reg := prometheus.NewPedanticRegistry()
	if err := l.d.RegisterMetrics(reg); err != nil {
		t.Fatal(err)
	}
	l.apply(live(flow.Egress, 1), staged(flow.Egress, 2))
	l.want(drop, tcp(web.v4, db.v4, 1, 2, "S"), "denied")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, pair := range m.GetLabel() {
				name += " " + pair.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"ringfence_datapath_packets_total dropped":                    1,
		"ringfence_datapath_packets_total forwarded":                  0,
		"ringfence_datapath_denied_packets_total default-deny live":   1,
		"ringfence_datapath_denied_packets_total default-deny staged": 1,
		"ringfence_datapath_flows_total":                              1,
		"ringfence_datapath_records_total":                            1,
		"ringfence_datapath_tables":                                   2,
		"ringfence_datapath_endpoints":                                1,
		"ringfence_datapath_ring_bytes":                               float64(record4Size + ringHeader),
		"ringfence_datapath_read_errors_total":                        0,
	} {
		if n, ok := got[name]; !ok || n != want {
			t.Errorf("metric %s: %v (%t), want %v", name, n, ok, want)
		}
	}
	if len(counterHelp) != len(counterNames)-3 {
		t.Errorf("%d counters have help, want all %d but the outcomes", len(counterHelp), len(counterNames))
	}
}

// TestClosed checks that a closed datapath refuses instead of crashing.
func TestClosed(t *testing.T) {
	l := newLab(t)
	cfg := l.d.cfg
	if err := errors.Join(l.r.Close(), l.d.Close(), l.d.Close()); err != nil {
		t.Fatal(err)
	}
	_, e1 := l.d.Apply(nil)
	_, e2 := l.d.Tables()
	_, e3 := l.d.SetAddresses(nil)
	_, e4 := l.d.Levels()
	_, e5 := l.d.NewReader()
	_, e6 := l.d.Counters()
	_, e7 := l.d.Attached()
	_, e8 := l.d.Sweep(t.Context())
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, l.d.BumpEpoch(), l.d.Panic(true), l.d.Detach(1), l.d.Attach(Endpoint{ID: 1})} {
		if !errors.Is(err, errClosed) {
			t.Errorf("call %d: error %v", i, err)
		}
	}
	if l.d.Panicked() {
		t.Error("panicked")
	}
	openAt(t, cfg)
}
