package prefilter

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/inventory"
)

// kernel stands for bpf.Prefilter.
type kernel struct {
	lists      []bpf.DenyList
	exempt     []netip.Prefix
	interfaces []string
	loads      int
	fail       error
}

func (k *kernel) SetLists(lists []bpf.DenyList, exempt []netip.Prefix) (bpf.PrefilterStats, error) {
	if k.fail != nil {
		return bpf.PrefilterStats{}, k.fail
	}
	k.lists, k.exempt = lists, exempt
	k.loads++
	n := 0
	for _, l := range lists {
		n += len(l.Prefixes)
	}
	return bpf.PrefilterStats{Entries: n, Bytes: 64, Took: time.Millisecond}, nil
}

func (k *kernel) SetInterfaces(names []string) (ports []bpf.PrefilterPort, err error) {
	k.interfaces = names
	for i, n := range names {
		ports = append(ports, bpf.PrefilterPort{Interface: n, Index: i + 2, Mode: "native"})
	}
	return ports, nil
}

func (k *kernel) Counts() (out []bpf.DenyListCount, _ error) {
	for _, l := range k.lists {
		out = append(out, bpf.DenyListCount{Name: l.Name})
	}
	return out, nil
}

func (k *kernel) Remove() error {
	k.lists, k.interfaces = nil, nil
	return nil
}

func (k *kernel) holds(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, l := range k.lists {
		mode := "audit"
		if l.Enforce {
			mode = "enforce"
		}
		for _, p := range l.Prefixes {
			got = append(got, l.Name+" "+mode+" "+p.String())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("kernel holds %q, want %q", got, want)
	}
}

type desk struct {
	t   *testing.T
	k   *kernel
	w   *Watcher
	reg *prometheus.Registry
	dir string
	inv inventory.Inventory
	age time.Duration
}

func newDesk(t *testing.T, k *kernel, lists ...inventory.DenyList) *desk {
	t.Helper()
	d := &desk{t: t, k: k, reg: prometheus.NewRegistry(), dir: t.TempDir()}
	w, err := New(Config{Node: "node-1", Failsafe: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, Registerer: d.reg}, k)
	if err != nil {
		t.Fatal(err)
	}
	d.w = w
	for i := range lists {
		lists[i].File = filepath.Join(d.dir, lists[i].Name)
	}
	addr := netip.MustParseAddr
	d.inv = inventory.Inventory{
		Nodes: []inventory.Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1")}, DenyLists: lists},
			{Name: "node-2", Addresses: []netip.Addr{addr("10.0.0.2")}},
		},
		Workloads: []inventory.Workload{{Endpoints: []inventory.Endpoint{
			{Node: "node-1", Interface: "eth0", Host: true, Addresses: []netip.Addr{addr("10.0.1.1"), addr("fd00::1")}},
			{Node: "node-1", Interface: "veth0", Addresses: []netip.Addr{addr("10.0.1.2")}},
			{Node: "node-2", Interface: "eth9", Host: true, Addresses: []netip.Addr{addr("10.0.1.3")}},
		}}},
	}
	w.Apply(&d.inv)
	return d
}

// write replaces a file, whose time always differs from the one before.
func (d *desk) write(name, content string) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.age += time.Second
	at := time.Unix(1_700_000_000, 0).Add(d.age)
	if err := os.Chtimes(path, at, at); err != nil {
		d.t.Fatal(err)
	}
}

// settle looks as often as a changed file needs.
func (d *desk) settle() {
	d.w.look()
	d.w.look()
}

func (d *desk) problems(want ...string) {
	d.t.Helper()
	got := d.w.Problems()
	if len(got) != len(want) {
		d.t.Errorf("problems %q, want %q", got, want)
		return
	}
	for i := range got {
		if !strings.Contains(got[i], want[i]) {
			d.t.Errorf("problem %q, want %q", got[i], want[i])
		}
	}
}

// reloads returns how often the list's file was taken and refused.
func (d *desk) reloads(list string, taken, refused int) {
	d.t.Helper()
	for result, want := range map[string]int{"taken": taken, "refused": refused} {
		if got := testutil.ToFloat64(d.w.metrics.reloads.WithLabelValues(list, result)); got != float64(want) {
			d.t.Errorf("%s %s %v times, want %d", list, result, got, want)
		}
	}
}

var (
	audit   = inventory.DenyList{Name: "a"}
	enforce = inventory.DenyList{Name: "b", Mode: inventory.ModeEnforce}
)

func TestWatcher(t *testing.T) {
	d := newDesk(t, &kernel{}, audit, enforce)
	d.write("a", "198.51.100.0/24\n")
	d.write("b", "203.0.113.7\n2001:db8::/32\n")
	d.w.look()
	d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.7/32", "b enforce 2001:db8::/32")
	d.problems()
	if !slices.Equal(d.k.interfaces, []string{"eth0"}) {
		t.Errorf("interfaces %q: want the node's own host interface", d.k.interfaces)
	}
	var exempt []string
	for _, p := range d.k.exempt {
		exempt = append(exempt, p.String())
	}
	want := []string{"0.0.0.0/32", "10.0.0.1/32", "10.0.1.1/32", "192.0.2.9/32", "::/128", "fd00::1/128", "fe80::/10"}
	slices.Sort(exempt)
	slices.Sort(want)
	if !slices.Equal(exempt, want) {
		t.Errorf("exempt %q, want %q", exempt, want)
	}
	d.settle()
	if d.k.loads != 1 {
		t.Errorf("%d loads of what did not change", d.k.loads)
	}

	d.write("a", "198.51.100.0/25\n")
	d.w.look()
	d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.7/32", "b enforce 2001:db8::/32") // may be half written
	d.w.look()
	d.k.holds(t, "a audit 198.51.100.0/25", "b enforce 203.0.113.7/32", "b enforce 2001:db8::/32")
	d.reloads("a", 2, 0)

	d.write("a", "198.51.100.0/25 # same\n")
	d.settle()
	if d.k.loads != 2 {
		t.Errorf("%d loads, want no third one for a comment", d.k.loads)
	}

	d.inv.Nodes[0].DenyLists[0].Mode = inventory.ModeEnforce
	d.w.Apply(&d.inv)
	d.w.look()
	d.k.holds(t, "a enforce 198.51.100.0/25", "b enforce 203.0.113.7/32", "b enforce 2001:db8::/32")
	d.inv.Nodes[0].DenyLists = d.inv.Nodes[0].DenyLists[:1]
	d.w.Apply(&d.inv)
	d.w.look()
	d.k.holds(t, "a enforce 198.51.100.0/25")
	d.inv.Nodes[0].DenyLists = nil
	d.w.Apply(&d.inv)
	d.w.look()
	d.k.holds(t)
	if d.k.interfaces != nil {
		t.Errorf("still on %q", d.k.interfaces)
	}
	d.problems()
}

func TestBadFileKeepsTheOldList(t *testing.T) {
	d := newDesk(t, &kernel{}, audit, enforce)
	d.write("a", "198.51.100.0/24\n")
	d.write("b", "203.0.113.7\n")
	d.w.look()
	for _, bad := range []struct{ content, why string }{
		{"198.51.100.0/24\nnonsense\n", `a: line 2: "nonsense" is no address`},
		{"# nothing\n", "a: has no entry"},
		{"0.0.0.0/0\n", "a: line 1: 0.0.0.0/0 is everybody"},
	} {
		d.write("a", bad.content)
		d.settle()
		d.settle()
		d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.7/32")
		d.problems(bad.why)
	}
	d.reloads("a", 1, 3)
	if err := os.Remove(filepath.Join(d.dir, "a")); err != nil {
		t.Fatal(err)
	}
	d.settle()
	d.settle()
	d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.7/32")
	d.problems("no such file")
	d.reloads("a", 1, 4)

	// The others go on.
	d.write("b", "203.0.113.8\n")
	d.settle()
	d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.8/32")
	d.write("a", "198.51.100.7\n")
	d.settle()
	d.k.holds(t, "a audit 198.51.100.7/32", "b enforce 203.0.113.8/32")
	d.problems()
}

// A new agent must not open what the one before had closed.
func TestBadFileAtStart(t *testing.T) {
	former := []bpf.DenyList{{Name: "b", Enforce: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}}}
	d := newDesk(t, &kernel{lists: former}, audit, enforce)
	d.write("a", "198.51.100.0/24\n")
	d.write("b", "nonsense\n")
	d.settle()
	d.k.holds(t, "b enforce 203.0.113.7/32")
	d.problems(`"nonsense" is no address`, "deny lists stay as the agent before left them until list b can be read")
	d.write("b", "203.0.113.8\n")
	d.settle()
	d.k.holds(t, "a audit 198.51.100.0/24", "b enforce 203.0.113.8/32")
	d.problems()

	// A list that nobody had before does not hold up the others.
	d = newDesk(t, &kernel{}, audit, enforce)
	d.write("a", "198.51.100.0/24\n")
	d.settle()
	d.k.holds(t, "a audit 198.51.100.0/24")
	d.problems("no such file")
}

func TestKernelRefuses(t *testing.T) {
	d := newDesk(t, &kernel{}, audit)
	d.write("a", "198.51.100.0/24\n")
	d.w.look()
	d.k.fail = errors.New("deny lists have 2 entries together: there is room for 1")
	d.write("a", "198.51.100.0/24\n203.0.113.7\n")
	d.settle()
	d.k.holds(t, "a audit 198.51.100.0/24")
	d.problems("the former deny lists stay: deny lists have 2 entries together: there is room for 1")
	d.k.fail = nil
	d.w.look()
	d.k.holds(t, "a audit 198.51.100.0/24", "a audit 203.0.113.7/32")
	d.problems()
}

func TestMetrics(t *testing.T) {
	d := newDesk(t, &kernel{}, audit)
	d.write("a", "198.51.100.0/24\n203.0.113.7\n")
	d.w.look()
	want := `
# HELP ringfence_prefilter_entries Prefixes of a deny list in force.
# TYPE ringfence_prefilter_entries gauge
ringfence_prefilter_entries{list="a"} 2
# HELP ringfence_prefilter_interfaces Interfaces that deny lists hold on, by XDP mode.
# TYPE ringfence_prefilter_interfaces gauge
ringfence_prefilter_interfaces{mode="native"} 1
# HELP ringfence_prefilter_packets_total Packets from sources of a deny list, by what became of them (exempted, audited, dropped).
# TYPE ringfence_prefilter_packets_total counter
ringfence_prefilter_packets_total{list="a",verdict="audited"} 0
ringfence_prefilter_packets_total{list="a",verdict="dropped"} 0
ringfence_prefilter_packets_total{list="a",verdict="exempted"} 0
`
	if err := testutil.GatherAndCompare(d.reg, strings.NewReader(want), "ringfence_prefilter_entries",
		"ringfence_prefilter_interfaces", "ringfence_prefilter_packets_total"); err != nil {
		t.Error(err)
	}
}
