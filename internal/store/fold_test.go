package store

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// visits are one connection from each address to cart.
func visits(addrs []netip.Addr) []flow.Labelled {
	out := make([]flow.Labelled, len(addrs))
	world := &flow.Party{Reserved: "world"}
	for i, a := range addrs {
		r := connection(frontend, cart, uint16(i), noon)
		r.Direction, r.Observer, r.Source, r.Key.Source = flow.Ingress, r.Dest, world, a
		out[i] = r
	}
	return out
}

// clients are n addresses, spread over 16 prefixes of /24, or of /48.
func clients(n int, v6 bool) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		if v6 {
			out[i] = addr(fmt.Sprintf("2001:db8:%x::%x", i%16, i))
			continue
		}
		out[i] = addr(fmt.Sprintf("198.51.%d.%d", i%16, i/16))
	}
	return out
}

func TestEdgesOfACrowd(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, n := range []int{maxPeers, maxPeers + 1} {
			t.Run(fmt.Sprintf("%d clients, IPv6 %v", n, v6), func(t *testing.T) {
				s := migrated(t)
				rows := append(visits(clients(n, v6)), connection(frontend, cart, 1, noon))
				mustInsert(t, s, "a", rows...)
				edges, err := s.Edges(t.Context(), EdgeFilter{})
				if err != nil {
					t.Fatal(err)
				}
				want := n + 1
				if n > maxPeers {
					want = 16 + 1
				}
				if len(edges) != want {
					t.Fatalf("%d edges, want %d", len(edges), want)
				}
				var connections, clients uint64
				for _, e := range edges {
					if e.Source.IsWorkload() {
						continue
					}
					connections, clients = connections+e.Connections, clients+e.SourceEndpoints
					if bits := map[bool]int{false: 24, true: 48}[v6]; n > maxPeers && (e.Source.Prefix.Bits() != bits || e.Source.Address.IsValid()) || n == maxPeers && e.Source.Prefix.IsValid() {
						t.Errorf("from %s", e.Source)
					}
				}
				if connections != uint64(n) || clients != uint64(n) {
					t.Errorf("%d connections from %d clients, want %d", connections, clients, n)
				}
			})
		}
	}
}

// Clients all over the internet have nothing in common but the first bits.
func TestEdgesOfAScatteredCrowd(t *testing.T) {
	s := migrated(t)
	var addrs []netip.Addr
	for i := range 40 * 256 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{byte(20 + i%40), byte(i / 40), 7, 1}))
	}
	mustInsert(t, s, "a", visits(addrs)...)
	edges, err := s.Edges(t.Context(), EdgeFilter{Workload: &cart})
	if err != nil {
		t.Fatal(err)
	}
	if len(edges) != 40 {
		t.Fatalf("%d edges, want 40", len(edges))
	}
	want := flow.Edge{
		Direction: flow.Ingress, Observer: cart,
		Source: flow.Party{Reserved: "world", Prefix: netip.MustParsePrefix("20.0.0.0/8")}, Destination: flow.Party{Workload: cart},
		Protocol: flow.TCP, Port: 8080, Connections: 256, Answered: 256,
		Forward: flow.Counters{Packets: 256 * 5, Bytes: 256 * 500}, Reverse: flow.Counters{Packets: 256 * 4, Bytes: 256 * 4000},
		FirstSeen: noon.Add(-1e9), LastSeen: noon, SourceEndpoints: 256, DestinationEndpoints: 1, Hours: 1,
	}
	if diff := cmp.Diff(want, edges[0], compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What was folded where it lies says what it said before, in less rows, and folding
// again changes nothing.
func TestFold(t *testing.T) {
	s := migrated(t)
	few := visits([]netip.Addr{addr("192.0.2.1"), addr("192.0.2.200"), addr("2001:db8:99::1")})
	for i := range few {
		few[i].DestinationPort = 9090
	}
	mustInsert(t, s, "a", append(append(visits(clients(3*maxPeers, false)), few...), connection(frontend, cart, 1, noon))...)
	before, err := s.Edges(t.Context(), EdgeFilter{Times: true})
	if err != nil {
		t.Fatal(err)
	}
	rows := func() (out []uint64) {
		for _, table := range []string{"edge_days", "edge_months"} {
			mustExec(t, s, "OPTIMIZE TABLE "+table+" FINAL")
			out = append(out, ask(t, s, "SELECT count() FROM "+table))
		}
		return out
	}
	fold := func(now time.Time, want int) {
		t.Helper()
		n, err := s.at(s.cfg.Addrs...).foldServer(t.Context(), now)
		if err != nil || n != want {
			t.Fatalf("%d partitions folded, %v; want %d", n, err, want)
		}
		if left := ask(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, '.')"); left != 0 {
			t.Errorf("%d tables are left behind", left)
		}
	}
	end := startOfMonth(noon).AddDate(0, 1, 0)
	fold(end.Add(30*day), 0) // a flow of its last day may still come
	if diff := cmp.Diff([]uint64{3*maxPeers + 4, 3*maxPeers + 4}, rows()); diff != "" {
		t.Fatalf("too early (-want +got):\n%s", diff)
	}
	fold(end.Add(32*day), 2)
	if diff := cmp.Diff([]uint64{16 + 4, 16 + 4}, rows()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	fold(end.Add(33*day), 0)
	mustExec(t, s, "TRUNCATE TABLE edges") // long gone by then
	s.cfg.Retention.Hours = time.Nanosecond
	after, err := s.Edges(t.Context(), EdgeFilter{Times: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, compareAddrs); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	// A crowd elsewhere makes no addresses of prefixes.
	others := visits(clients(2*maxPeers, false))
	for i := range others {
		others[i].DestinationPort = 7070
	}
	mustInsert(t, s, "b", others...)
	if after, err = s.Edges(t.Context(), EdgeFilter{}); err != nil {
		t.Fatal(err)
	}
	prefixes := 0
	for _, e := range after {
		if e.Source.Prefix.IsValid() {
			prefixes++
		}
	}
	if prefixes != 2*16 || len(after) != 2*16+4 {
		t.Errorf("%d edges, %d of prefixes; want %d and %d", len(after), prefixes, 2*16+4, 2*16)
	}
	if n, err := s.Fold(t.Context()); err != nil || n != 0 {
		t.Errorf("the month that is under way: %d partitions folded, %v", n, err)
	}
}

// What a killed server left goes, what another one is at stays.
func TestFoldDropsWhatWasLeft(t *testing.T) {
	s := migrated(t)
	mustExec(t, s, "CREATE TABLE `.fold_edge_days_1` AS edge_days")
	left := func() uint64 {
		return ask(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, '.')")
	}
	if _, err := s.Fold(t.Context()); err != nil || left() != 1 {
		t.Fatalf("%v, %d tables, want the one that is new", err, left())
	}
	if err := s.dropScratch(t.Context(), -time.Hour); err != nil || left() != 0 {
		t.Errorf("%v, %d tables are left", err, left())
	}
}
