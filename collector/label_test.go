package collector

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

var (
	t0   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	addr = netip.MustParseAddr
)

// world returns an inventory with frontend (endpoint 1) and cart (2) on node-1,
// db (3) on node-2, and a host (4) on node-1.
func world(change ...func(*inventory.Inventory)) *inventory.Index {
	endpoint := func(id uint32, name, node string, addrs ...netip.Addr) []inventory.Endpoint {
		return []inventory.Endpoint{{ID: id, Name: name, Node: node, Interface: "rf" + name, Addresses: addrs}}
	}
	inv := inventory.Inventory{
		Nodes: []inventory.Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}},
			{Name: "node-2", Addresses: []netip.Addr{addr("10.0.0.2"), addr("fd00::2")}},
		},
		Workloads: []inventory.Workload{
			{Namespace: "shop", Kind: "Host", Name: "frontend", Identity: 301, Labels: map[string]string{"app": "frontend"}, Endpoints: endpoint(1, "frontend-1", "node-1", addr("10.1.0.1"), addr("fd00:1::1"))},
			{Namespace: "shop", Kind: "Host", Name: "cart", Identity: 302, Labels: map[string]string{"app": "cart"}, Endpoints: endpoint(2, "cart-1", "node-1", addr("10.1.0.2"), addr("fd00:1::2"))},
			{Namespace: "shop", Kind: "Host", Name: "db", Identity: 303, Labels: map[string]string{"app": "db"}, Endpoints: endpoint(3, "db-1", "node-2", addr("10.1.0.3"), addr("fd00:1::3"))},
			{Namespace: "shop", Kind: "Host", Name: "gateway", Identity: 304, Labels: map[string]string{"app": "gateway"}, Endpoints: endpoint(4, "gateway-1", "node-1", addr("10.1.0.4"), addr("fd00:1::4"))},
		},
	}
	inv.Workloads[3].Endpoints[0].Host = true
	for _, c := range change {
		c(&inv)
	}
	return inventory.NewIndex(inv)
}

// owners returns an Ownership that learned the inventories, each from its time on.
func owners(tb testing.TB, learned ...snapshot) *inventory.Ownership {
	tb.Helper()
	o, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: "node-1"})
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range learned {
		o.Learn(s.index, s.since)
	}
	return o
}

// snapshot is an inventory from a time on.
type snapshot struct {
	since time.Time
	index *inventory.Index
}

// label attributes one record.
func label(o *inventory.Ownership, r flow.Record) flow.Labelled {
	rows, _ := NewLabeller("node-1", o).Label(nil, []flow.Record{r})
	return rows[0]
}

func workload(name string) flow.Workload {
	return flow.Workload{Namespace: "shop", Kind: "Host", Name: name}
}

var identities = map[string]flow.Identity{"frontend": 301, "cart": 302, "db": 303, "gateway": 304}

func party(name string) flow.Party {
	return flow.Party{Workload: workload(name), Endpoint: name + "-1", Identity: identities[name], Labels: "app=" + name}
}

func reserved(name string) flow.Party {
	id, _ := flow.ReservedIdentity(name)
	return flow.Party{Reserved: name, Identity: id}
}

func record(endpoint uint32, d flow.Direction, src, dst string) flow.Record {
	return flow.Record{
		Key:      flow.Key{Source: addr(src), Destination: addr(dst), SourcePort: 40000, DestinationPort: 80, Protocol: flow.TCP},
		Endpoint: endpoint, Direction: d, Event: flow.EventNew, Time: t0, FirstSeen: t0, Connections: 1,
	}
}

func TestLabel(t *testing.T) {
	nobody := flow.Party{}
	for _, c := range []struct {
		name         string
		record       flow.Record
		source, dest flow.Party
		observer     string
	}{
		{"workload to workload", record(1, flow.Egress, "10.1.0.1", "10.1.0.2"), party("frontend"), party("cart"), "frontend"},
		{"workload to workload, v6", record(1, flow.Egress, "fd00:1::1", "fd00:1::2"), party("frontend"), party("cart"), "frontend"},
		{"the other side of it", record(2, flow.Ingress, "10.1.0.1", "10.1.0.2"), party("frontend"), party("cart"), "cart"},
		{"from another node's workload", record(1, flow.Ingress, "10.1.0.3", "10.1.0.1"), party("db"), party("frontend"), "frontend"},
		{"from the own node", record(1, flow.Ingress, "10.0.0.1", "10.1.0.1"), reserved("host"), party("frontend"), "frontend"},
		{"from the own node, v6", record(1, flow.Ingress, "fd00::1", "fd00:1::1"), reserved("host"), party("frontend"), "frontend"},
		{"from another node", record(1, flow.Ingress, "10.0.0.2", "10.1.0.1"), reserved("remote-node"), party("frontend"), "frontend"},
		{"to an unknown address", record(1, flow.Egress, "10.1.0.1", "192.0.2.1"), party("frontend"), reserved("world"), "frontend"},
		{"from an unknown address, v6", record(1, flow.Ingress, "2001:db8::1", "fd00:1::1"), reserved("world"), party("frontend"), "frontend"},
		{"with another workload's address", record(1, flow.Egress, "10.1.0.2", "10.1.0.3"), nobody, party("db"), "frontend"},
		{"with another workload's address, v6", record(1, flow.Egress, "fd00:1::2", "fd00:1::3"), nobody, party("db"), "frontend"},
		{"with an unknown address", record(1, flow.Egress, "192.0.2.1", "10.1.0.3"), nobody, party("db"), "frontend"},
		{"with the node's address", record(1, flow.Egress, "10.0.0.1", "10.1.0.3"), nobody, party("db"), "frontend"},
		{"forwarded by a host", record(4, flow.Egress, "10.1.0.1", "192.0.2.1"), party("frontend"), reserved("world"), "gateway"},
		{"direction not known", record(1, flow.DirectionUnknown, "10.1.0.2", "10.1.0.1"), party("cart"), party("frontend"), "frontend"},
		{"sent by an endpoint that nobody knows", record(9, flow.Egress, "10.1.0.1", "10.1.0.2"), nobody, party("cart"), ""},
		{"got by a pending endpoint, v6", record(inventory.FirstPendingEndpoint+7, flow.Ingress, "fd00:1::1", "fd00:1::2"), party("frontend"), nobody, ""},
		{"of a pending endpoint, midstream", record(inventory.FirstPendingEndpoint+7, flow.DirectionUnknown, "10.1.0.1", "10.1.0.2"), nobody, nobody, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := label(owners(t, snapshot{t0, world()}), c.record)
			if *got.Source != c.source || *got.Dest != c.dest {
				t.Errorf("%+v → %+v, want %+v → %+v", *got.Source, *got.Dest, c.source, c.dest)
			}
			if got.Observer.Workload.Name != c.observer || got.Node != "node-1" || got.Key != c.record.Key {
				t.Errorf("observer %+v on %s", got.Observer, got.Node)
			}
		})
	}
}

// What the datapath calls spoofed teaches nobody anything, whoever owns the
// address, in either slot.
func TestSpoofedHasNoSource(t *testing.T) {
	o := owners(t, snapshot{t0, world()})
	for _, slot := range []string{"live", "staged"} {
		for _, src := range []string{"10.1.0.1", "fd00:1::1"} {
			r := record(1, flow.Egress, src, "10.1.0.2")
			if slot == "live" {
				r.Live.Reason = flow.ReasonSpoofed
			} else {
				r.Staged.Reason = flow.ReasonSpoofed
			}
			if got := label(o, r); *got.Source != (flow.Party{}) {
				t.Errorf("%s, %s: source %+v", slot, src, got.Source)
			}
		}
	}
}

// An address of cart moves to db at t0+1h, and one of db goes away.
func TestAddressesMove(t *testing.T) {
	moved := func(inv *inventory.Inventory) {
		inv.Workloads[1].Endpoints[0].Addresses = []netip.Addr{addr("10.1.0.9")}
		inv.Workloads[2].Endpoints[0].Addresses = []netip.Addr{addr("10.1.0.2"), addr("fd00:1::2")}
	}
	o := owners(t, snapshot{t0, world()}, snapshot{t0.Add(time.Hour), world(moved)})
	at := func(first, last time.Duration, dst string) flow.Record {
		r := record(1, flow.Egress, "10.1.0.1", dst)
		r.FirstSeen, r.Time = t0.Add(first), t0.Add(last)
		return r
	}
	for _, c := range []struct {
		name string
		r    flow.Record
		want flow.Party
	}{
		{"before, and reported late", at(0, time.Hour-1, "10.1.0.2"), party("cart")},
		{"before, v6", at(0, time.Hour-1, "fd00:1::2"), party("cart")},
		{"from when it moved", at(time.Hour, time.Hour, "10.1.0.2"), party("db")},
		{"from when it moved, v6", at(2*time.Hour, 3*time.Hour, "fd00:1::2"), party("db")},
		{"across the move", at(0, time.Hour, "10.1.0.2"), flow.Party{}},
		{"before it was anybody's", at(0, 0, "10.1.0.9"), reserved("world")},
		{"across becoming somebody's", at(0, time.Hour, "10.1.0.9"), party("cart")},
		{"across being given up", at(0, 2*time.Hour, "10.1.0.3"), flow.Party{}},
		{"after it was anybody's", at(time.Hour, 2*time.Hour, "10.1.0.3"), reserved("world")},
		{"before anything was known", at(-5*time.Hour, -5*time.Hour, "10.1.0.2"), party("cart")},
	} {
		if got := label(o, c.r); *got.Dest != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got.Dest, c.want)
		}
	}
}

func TestObserverThatLeft(t *testing.T) {
	left := world(func(inv *inventory.Inventory) { inv.Workloads = inv.Workloads[1:] })
	o := owners(t, snapshot{t0, world()}, snapshot{t0.Add(time.Minute), left})
	r := record(1, flow.Egress, "10.1.0.1", "10.1.0.2")
	r.Time = t0.Add(2 * time.Minute)
	if got := label(o, r); *got.Observer != party("frontend") {
		t.Errorf("observer %+v", got.Observer)
	}
}
