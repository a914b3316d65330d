package lab

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// startLab starts the built-in scenario, its rare call made often, with all
// clients waiting.
func startLab(t *testing.T) *Lab {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Paused = true
	cfg.Scenario = Default()
	for i := range cfg.Scenario.Calls {
		if c := &cfg.Scenario.Calls[i]; c.Rare {
			c.Every, c.First = 2*time.Second, time.Second
		}
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func counters(t *testing.T, l *Lab) []EdgeCounters {
	t.Helper()
	c, err := l.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// await polls until done, which is about other processes, or fails.
func await(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLab(t *testing.T) {
	defer goleak.VerifyNone(t)
	before := snapshotMachine(t)
	l := startLab(t)
	pids := hostPIDs(t)
	if len(pids) != 18 {
		t.Errorf("%d host processes, want 18", len(pids))
	}
	for _, pid := range pids {
		if group, err := syscall.Getpgid(pid); err != nil || group != pid {
			t.Errorf("process %d is in group %d and gets the terminal's interrupts (%v)", pid, group, err)
		}
	}
	t.Run("only one at a time", func(t *testing.T) {
		second, err := New(testConfig(t.TempDir()))
		must(t, err)
		err = second.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("already running as process %d", os.Getpid())) {
			t.Errorf("second lab: %v", err)
		}
		if _, err := Cleanup(t.Context(), l.cfg.StateDir, l.cfg.Logger); err == nil {
			t.Error("cleaned up under a lab that runs")
		}
	})
	t.Run("paused from the start", func(t *testing.T) {
		if c := counters(t, l); len(c) != 0 {
			t.Errorf("requests before Resume: %+v", c[0])
		}
	})
	t.Run("every edge answers", func(t *testing.T) { testEdges(t, l) })
	t.Run("counts are those of the kernel", func(t *testing.T) { testCounts(t, l, pids) })
	t.Run("idle connections", func(t *testing.T) { testIdle(t, l) })
	t.Run("attacks reach", func(t *testing.T) { testAttacks(t, l) })
	t.Run("what is blocked fails", func(t *testing.T) { testBlocked(t, l) })
	t.Run("a lost first packet is slow", func(t *testing.T) { testSlow(t, l) })
	t.Run("the machine is left alone while it runs", before.mustBeUnchanged)
	t.Run("a host that ends is named", func(t *testing.T) {
		must(t, l.processes[2].cmd.Process.Kill())
		<-l.processes[2].exited
		_, err := l.Counters(t.Context())
		if err == nil || !strings.Contains(err.Error(), "host rf-frontend-1 ended: signal: killed") {
			t.Errorf("got %v", err)
		}
	})
	must(t, l.Stop(t.Context()))
	must(t, l.Stop(t.Context()))
	mustLeaveNothing(t, l.cfg.StateDir, pids...)
	before.mustBeUnchanged(t)
	if _, err := l.Counters(t.Context()); err == nil {
		t.Error("a stopped lab has counters")
	}
}

type edgeFamily struct {
	client, server string
	protocol       flow.Protocol
	port           uint16
	family         Family
}

// wantedCounters are the edges of the scenario over the families they have.
func wantedCounters(s *Scenario) map[edgeFamily]bool {
	out := map[edgeFamily]bool{}
	for _, e := range s.Edges() {
		for _, f := range families {
			outside := func(name string) bool {
				a, err := netip.ParseAddr(name)
				return err == nil && familyOf(a) != f
			}
			if !outside(e.Client) && !outside(e.Server) {
				out[edgeFamily{e.Client, e.Server, e.Protocol, e.Port, f}] = true
			}
		}
	}
	return out
}

func testEdges(t *testing.T, l *Lab) {
	must(t, l.Resume(t.Context()))
	want := wantedCounters(l.Scenario())
	if len(want) != 46 {
		t.Fatalf("%d edges and families, want 46", len(want))
	}
	const enough = 3
	await(t, 20*time.Second, "requests over every edge and family", func() bool {
		ready := 0
		for _, c := range counters(t, l) {
			if c.Requests >= enough && !c.Probe {
				ready++
			}
		}
		return ready == len(want)
	})
	probes := 0
	for _, c := range counters(t, l) {
		if c.Failures > 0 {
			t.Errorf("%s to %s over %s: %d failed: %+v", c.Client, c.Server, c.Family, c.Failures, c.Errors)
		}
		if c.Probe {
			probes++
			if c.Server != "boutique/Host/frontend" || c.Connections == 0 {
				t.Errorf("probe: %+v", c)
			}
			continue
		}
		key := edgeFamily{c.Client, c.Server, c.Protocol, c.Port, c.Family}
		if !want[key] {
			t.Errorf("counted, and no edge: %+v", key)
		}
		delete(want, key)
		if c.BytesReceived == 0 || c.PayloadBytes() != c.BytesSent+c.BytesReceived {
			t.Errorf("%+v", c)
		}
	}
	for key := range want {
		t.Errorf("never counted: %+v", key)
	}
	if probes != 4 {
		t.Errorf("%d nodes and families probe, want 4", probes)
	}
}

// testCounts compares the clients' counts with the servers' and with what each
// namespace's kernel counted.
func testCounts(t *testing.T, l *Lab, pids []int) {
	must(t, l.Pause(t.Context()))
	var tcp, udp Counts
	first := counters(t, l)
	for _, c := range first {
		if c.Protocol == flow.TCP {
			tcp.Add(c.Counts)
		} else {
			udp.Add(c.Counts)
		}
	}
	var servers struct{ tcp, udp served }
	await(t, 5*time.Second, "servers to have read everything", func() bool {
		servers.tcp, servers.udp = served{}, served{}
		must(t, l.all(t.Context(), opCounters, func(r hostReply) {
			for _, s := range r.Served {
				sum := &servers.tcp
				if s.Protocol == flow.UDP {
					sum = &servers.udp
				}
				sum.Connections += s.Connections
				sum.BytesReceived += s.BytesReceived
				sum.BytesSent += s.BytesSent
			}
		}))
		return servers.tcp.BytesSent == tcp.BytesReceived
	})
	for name, pair := range map[string]struct {
		clients Counts
		servers served
	}{"TCP": {tcp, servers.tcp}, "UDP": {udp, servers.udp}} {
		c, s := pair.clients, pair.servers
		if c.Attempts != c.Connections || c.Connections != s.Connections || c.BytesSent != s.BytesReceived || c.BytesReceived != s.BytesSent {
			t.Errorf("%s: clients %+v, servers %+v", name, c, s)
		}
	}
	var opened, accepted, datagrams uint64
	for _, pid := range pids {
		n := kernelCounters(t, pid)
		opened += n["Tcp.ActiveOpens"]
		accepted += n["Tcp.PassiveOpens"]
		datagrams += n["Udp.OutDatagrams"] + n["Udp6OutDatagrams"]
	}
	if opened != tcp.Attempts || accepted != tcp.Connections {
		t.Errorf("TCP: counted %d attempts and %d connections, the kernels %d and %d", tcp.Attempts, tcp.Connections, opened, accepted)
	}
	if datagrams != udp.Attempts+servers.udp.Connections {
		t.Errorf("UDP: counted %d queries and %d answers, the kernels %d datagrams", udp.Attempts, servers.udp.Connections, datagrams)
	}
	t.Logf("TCP: %d requests over %d connections, %d bytes; UDP: %d", tcp.Requests, tcp.Connections, tcp.PayloadBytes(), udp.Requests)

	// Standing still is seen over the time that each call would have needed.
	time.Sleep(1200 * time.Millisecond)
	second := counters(t, l)
	for i := range first {
		if first[i].Requests != second[i].Requests || first[i].Attempts != second[i].Attempts {
			t.Errorf("a request while paused: %+v then %+v", first[i], second[i])
		}
	}
}

// kernelCounters reads the protocol counters of a process's network namespace.
func kernelCounters(t *testing.T, pid int) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < len(names); j++ {
			n, _ := strconv.ParseUint(values[j], 10, 64) // one of them may be negative
			out[strings.TrimSuffix(names[0], ":")+"."+names[j]] = n
		}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/snmp6", pid))
	must(t, err)
	defer f.Close() //nolint:errcheck // only read from
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) == 2 {
			n, err := strconv.ParseUint(fields[1], 10, 64)
			must(t, err)
			out[fields[0]] = n
		}
	}
	return out
}

func testIdle(t *testing.T, l *Lab) {
	packets := func() uint64 {
		var sum uint64
		for _, pid := range hostPIDs(t) {
			n := kernelCounters(t, pid)
			sum += n["Tcp.OutSegs"]
		}
		return sum
	}
	before := counters(t, l)
	opened, err := l.OpenIdle(t.Context())
	must(t, err)
	// frontend's replicas to one cartservice 4, checkoutservice to paymentservice
	// 2, recommendationservice to two catalogues 4, loadgenerator and the
	// shoppers to two frontends 8.
	if opened.Connections != 18 || len(opened.Failures) != 0 {
		t.Fatalf("%+v", opened)
	}
	sent := packets()
	time.Sleep(time.Second)
	if n := packets() - sent; n != 0 {
		t.Errorf("%d packets over connections that are to be silent", n)
	}
	used, err := l.UseIdle(t.Context())
	must(t, err)
	if used.Connections != opened.Connections || len(used.Failures) != 0 {
		t.Errorf("%+v", used)
	}
	var attempts, connections, requests uint64
	for i, c := range counters(t, l) {
		attempts += c.Attempts - before[i].Attempts
		connections += c.Connections - before[i].Connections
		requests += c.Requests - before[i].Requests
	}
	if attempts != 18 || connections != 18 || requests != 18 {
		t.Errorf("counted %d attempts, %d connections, %d requests, want 18 of each", attempts, connections, requests)
	}
}

func testAttacks(t *testing.T, l *Lab) {
	before := counters(t, l)
	began := time.Now()
	results, err := l.Attack(t.Context())
	must(t, err)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if len(results) != 28 {
		t.Errorf("%d tries, want 28", len(results))
	}
	seen := map[string]map[Family]int{}
	for _, r := range results {
		if !r.Reached || r.Error != "" {
			t.Errorf("did not reach: %+v", r)
		}
		if familyOf(r.FromAddress) != r.Family || familyOf(r.ToAddress) != r.Family {
			t.Errorf("families differ: %+v", r)
		}
		if seen[r.Name] == nil {
			seen[r.Name] = map[Family]int{}
		}
		seen[r.Name][r.Family]++
		if wantedCounters(l.Scenario())[edgeFamily{r.From, r.To, r.Protocol, r.Port, r.Family}] {
			t.Errorf("an attack over a true edge: %+v", r)
		}
	}
	for name, want := range map[string]int{"scan": 7, "database": 1, "lateral-ssh": 4, "exfiltration": 1, "exfiltration-dns": 1} {
		if seen[name][IPv4] != want || seen[name][IPv6] != want {
			t.Errorf("%s: %v, want %d of each family", name, seen[name], want)
		}
	}
	for i, c := range counters(t, l) {
		if c.Attempts != before[i].Attempts {
			t.Errorf("an attack counts as legitimate: %+v", c)
		}
	}
}

// block lets a node drop what goes to an address, until the returned function
// is called. It stands for a policy.
func block(t *testing.T, l *Lab, node int, to string) (unblock func()) {
	t.Helper()
	a := netip.MustParseAddr(to)
	rule := netlink.NewRule()
	rule.Dst = single(a)
	rule.Type = unix.RTN_BLACKHOLE
	rule.Priority = 100
	rule.Table = unix.RT_TABLE_MAIN
	rule.Family = map[Family]int{IPv4: netlink.FAMILY_V4, IPv6: netlink.FAMILY_V6}[familyOf(a)]
	change := func(f func(*netlink.Rule) error) {
		ns, err := os.Open(namespacePath(l.Scenario().Nodes[node].Namespace()))
		must(t, err)
		defer ns.Close() //nolint:errcheck // only read from
		must(t, onThread(func() error {
			if err := enter(ns); err != nil {
				return err
			}
			return f(rule)
		}))
	}
	change(netlink.RuleAdd)
	return func() { change(netlink.RuleDel) }
}

func testBlocked(t *testing.T, l *Lab) {
	// The stranger over IPv4 only, and redis-cart over IPv6 only.
	unblock := []func(){block(t, l, 0, "198.51.100.66"), block(t, l, 0, "fd52:6e67:0:1::21")}
	results, err := l.Attack(t.Context())
	must(t, err)
	for _, r := range results {
		blocked := r.ToAddress == netip.MustParseAddr("198.51.100.66") || r.ToAddress == netip.MustParseAddr("fd52:6e67:0:1::21")
		if r.Reached == blocked {
			t.Errorf("blocked %t: %+v", blocked, r)
		}
		if blocked && (r.Error == "" || r.Elapsed < 900*time.Millisecond || r.Elapsed > 1900*time.Millisecond) {
			t.Errorf("%+v", r)
		}
	}
	must(t, l.Resume(t.Context()))
	redis := func(f Family) (c EdgeCounters) {
		for _, c = range counters(t, l) {
			if c.Client == "boutique/Host/cartservice" && c.Server == "boutique/Host/redis-cart" && c.Family == f {
				return c
			}
		}
		t.Fatal("no counters")
		return c
	}
	healthy := redis(IPv4)
	await(t, 10*time.Second, "failures", func() bool { return redis(IPv6).Failures >= 3 })
	must(t, l.Pause(t.Context()))
	c := redis(IPv6)
	if c.Attempts <= c.Connections || len(c.Errors) == 0 || !strings.Contains(c.Errors[0].Error, "timeout") ||
		c.Errors[0].To != netip.MustParseAddrPort("[fd52:6e67:0:1::21]:6379") || time.Since(c.Errors[0].Time) > time.Minute {
		t.Errorf("%+v", c)
	}
	if after := redis(IPv4); after.Failures != 0 || after.Requests <= healthy.Requests {
		t.Errorf("IPv4 was not blocked: %+v", after)
	}
	for _, fn := range unblock {
		fn()
	}
	failures := redis(IPv6).Failures
	must(t, l.Resume(t.Context()))
	await(t, 5*time.Second, "requests after the block", func() bool {
		now := redis(IPv6)
		return now.Failures == failures && now.Requests >= c.Requests+2
	})
	must(t, l.Pause(t.Context()))
}

// testSlow drops the first packets of connections and lets their repetitions
// through.
func testSlow(t *testing.T, l *Lab) {
	shipping := []string{"10.89.2.22", "fd52:6e67:0:2::22"}
	total := func() (out Counts) {
		for _, c := range counters(t, l) {
			if c.Server == "boutique/Host/shippingservice" {
				out.Add(c.Counts)
			}
		}
		return out
	}
	before := total()
	var unblock []func()
	for _, a := range shipping {
		unblock = append(unblock, block(t, l, 0, a))
		unblock = append(unblock, block(t, l, 1, a))
	}
	must(t, l.Resume(t.Context()))
	// Every call begins twice a second, and a lost packet is sent again after one.
	time.Sleep(600 * time.Millisecond)
	for _, fn := range unblock {
		fn()
	}
	await(t, 5*time.Second, "a slow request", func() bool { return total().Slow > before.Slow })
	must(t, l.Pause(t.Context()))
	if after := total(); after.Failures != before.Failures {
		t.Errorf("failed instead: %+v", after.Errors)
	}
}
