package truth

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Epoch is when every world begins: a Monday, 00:00 UTC.
var Epoch = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// Nodes of every world, and the addresses of peers that are no workloads.
var (
	nodes      = []string{"node-1", "node-2"}
	NodeAddrs  = []netip.Addr{netip.MustParseAddr("192.168.49.2"), netip.MustParseAddr("192.168.49.3")}
	outsideOf  = map[string]netip.Addr{External: netip.MustParseAddr("203.0.113.10"), Stranger: netip.MustParseAddr("198.51.100.77"), APIServer: netip.MustParseAddr("172.20.0.1")}
	replicas   = len(nodes)
	secondHalf = 14 * 24 // hours that pass after the window that is learned from
)

// traffic is how an edge is used: in an hour that follows a quiet one it begins
// with probability Begins, then lasts Lasts hours on average, with Connections
// an hour on average.
type traffic struct{ Begins, Lasts, Connections float64 }

// World is an application with its traffic. It is an analyzer's source of edges
// and of coverage.
type World struct {
	App       App
	Inventory inventory.Inventory
	Hours     int // of the window that is learned from; more traffic follows

	rng      *rand.Rand
	rates    map[Edge]traffic
	untrue   map[Edge]bool // edges that are seen and not true
	services map[string]netip.Addr
	sides    bool // each edge is seen at one of its ends only
	sights   []sight
}

// sight is an edge in one hour.
type sight struct {
	edge             Edge
	hour             int
	connections      uint64
	answered         uint64
	clients, servers uint // bits of the replicas that took part
	atClient         bool
	atServer         bool
}

// Window is what is learned from; Later is as long and follows it.
func (w *World) Window() analyzer.Window {
	return analyzer.Window{Since: Epoch, Until: Epoch.Add(time.Duration(w.Hours) * time.Hour)}
}

// Later is the time after the window.
func (w *World) Later() analyzer.Window {
	since := w.Window().Until
	return analyzer.Window{Since: since, Until: since.Add(time.Duration(secondHalf) * time.Hour)}
}

// build fills the inventory from the application.
func (w *World) build() {
	w.Inventory = inventory.Inventory{Workloads: []inventory.Workload{}}
	for i, n := range nodes {
		w.Inventory.Nodes = append(w.Inventory.Nodes, inventory.Node{Name: n, Addresses: []netip.Addr{NodeAddrs[i]}})
	}
	for i, a := range w.App.Workloads {
		if a.HostNetwork {
			continue
		}
		wl := inventory.Workload{Namespace: a.Namespace, Kind: a.Kind, Name: a.Name, Labels: a.Labels}
		for r := range replicas {
			wl.Endpoints = append(wl.Endpoints, inventory.Endpoint{
				Name: fmt.Sprintf("%s-%d", a.Name, r+1), Node: nodes[r], Interface: fmt.Sprintf("veth%d-%d", i, r),
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i + 10), byte(r + 1)})},
			})
		}
		w.Inventory.Workloads = append(w.Inventory.Workloads, wl)
	}
}

// generate makes the traffic of the window and of the time after it.
func (w *World) generate() {
	edges := slices.Clone(w.App.Edges)
	for _, e := range edges {
		rate, ok := w.rates[e]
		if !ok {
			rate = traffic{Begins: 0.9, Lasts: 3, Connections: 20}
		}
		oneSide := w.rng.IntN(2) == 0
		for hour, left := 0, 0; hour < w.Hours+secondHalf; hour++ {
			if left == 0 && w.rng.Float64() < rate.Begins {
				left = 1 + w.geometric(rate.Lasts-1)
			}
			if left == 0 {
				continue
			}
			left--
			n := uint64(1 + w.geometric(rate.Connections-1)) //nolint:gosec // positive
			s := sight{edge: e, hour: hour, connections: n, answered: n, atClient: true, atServer: true, clients: w.some(n), servers: w.some(n)}
			if _, inside := w.find(e.Client); w.sides && inside {
				if _, both := w.find(e.Server); both {
					s.atClient, s.atServer = oneSide, !oneSide
				}
			}
			w.sights = append(w.sights, s)
		}
	}
}

// geometric draws a number of the given mean.
func (w *World) geometric(mean float64) int {
	if mean <= 0 {
		return 0
	}
	return int(math.Log(1-w.rng.Float64()) / math.Log(mean/(mean+1)))
}

// some draws which replicas n connections are of.
func (w *World) some(n uint64) uint {
	if n >= 8 {
		return 1<<replicas - 1
	}
	return 1 + uint(w.rng.IntN(1<<replicas-1))
}

// find returns the governed workload of that name.
func (w *World) find(name string) (*inventory.Workload, bool) {
	i := slices.IndexFunc(w.Inventory.Workloads, func(o inventory.Workload) bool { return o.Name == name })
	if i < 0 {
		return nil, false
	}
	return &w.Inventory.Workloads[i], true
}

// Coverage implements analyzer.CoverageSource: nodes watched all the time, and
// lost nothing.
func (w *World) Coverage(_ context.Context, since, until time.Time) ([]flow.NodeCoverage, error) {
	var out []flow.NodeCoverage
	for _, n := range nodes {
		out = append(out, flow.NodeCoverage{Node: n, First: since, Last: until, Covered: until.Sub(since)})
	}
	return out, nil
}

// Edges implements analyzer.EdgeSource.
func (w *World) Edges(_ context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	type total struct {
		edge             *flow.Edge
		clients, servers uint
		hours, days      map[int]bool
	}
	totals := map[string]*total{}
	var order []*total
	for i := range w.sights {
		s := &w.sights[i]
		at := Epoch.Add(time.Duration(s.hour) * time.Hour)
		if at.Before(f.Since) || !at.Before(f.Until) {
			continue
		}
		for _, o := range w.observed(s) {
			if f.Workload != nil && o.edge.Source.Workload != *f.Workload && o.edge.Destination.Workload != *f.Workload {
				continue
			}
			key := fmt.Sprint(o.edge.Direction, o.edge.Observer, o.edge.Source, o.edge.Destination, o.edge.Protocol, o.edge.Port)
			t := totals[key]
			if t == nil {
				e := o.edge
				e.FirstSeen = at.Add(5 * time.Minute)
				t = &total{edge: &e, hours: map[int]bool{}, days: map[int]bool{}}
				totals[key], order = t, append(order, t)
			}
			t.edge.Connections += o.connections
			t.edge.Answered += min(o.connections, s.answered)
			t.edge.Forward.Packets += 4 * o.connections
			t.edge.Forward.Bytes += 400 * o.connections
			if s.answered > 0 {
				t.edge.Reverse.Packets += 4 * o.connections
				t.edge.Reverse.Bytes += 800 * o.connections
			}
			t.edge.LastSeen = at.Add(5*time.Minute + time.Duration(min(o.connections-1, 50))*time.Minute)
			t.edge.WeekHours.Set(s.hour % flow.HoursOfWeek)
			t.hours[s.hour], t.days[s.hour/24] = true, true
			t.clients |= s.clients
			t.servers |= s.servers
		}
	}
	out := make([]flow.Edge, 0, len(order))
	for _, t := range order {
		t.edge.SourceEndpoints, t.edge.DestinationEndpoints = uint64(bits.OnesCount(t.clients)), uint64(bits.OnesCount(t.servers)) //nolint:gosec // counts of bits
		t.edge.Hours = uint64(len(t.hours))
		if f.Times {
			t.edge.Days = uint64(len(t.days))
		} else {
			t.edge.WeekHours = flow.WeekHours{}
		}
		out = append(out, *t.edge)
	}
	return out, nil
}

// observation is a stored edge of one hour.
type observation struct {
	edge        flow.Edge
	connections uint64
}

// observed returns what the agents of both ends store of a sight.
func (w *World) observed(s *sight) []observation {
	var out []observation
	client, inside := w.find(s.edge.Client)
	server, known := w.find(s.edge.Server)
	add := func(d flow.Direction, observer *inventory.Workload, source, dest flow.Party, port uint16, n uint64) {
		out = append(out, observation{flow.Edge{
			Direction: d, Observer: observer.Ref(), Source: source, Destination: dest, Protocol: s.edge.Protocol, Port: port,
		}, n})
	}
	for _, from := range parties(s.edge.Client, client) {
		for _, to := range parties(s.edge.Server, server) {
			source, dest := from, to
			if inside && s.atClient && w.watched(client, s.clients) {
				port := s.edge.Port.Port
				if a, ok := w.services[s.edge.Server]; ok && known && s.edge.Client != s.edge.Server {
					dest, port = flow.Party{Reserved: "world", Address: a}, servicePort(s.edge)
				}
				add(flow.Egress, client, source, dest, port, s.connections)
			}
			if known && s.atServer && w.watched(server, s.servers) {
				add(flow.Ingress, server, source, to, s.edge.Port.Port, s.connections)
			}
		}
	}
	return out
}

// watched reports whether one of the replicas that took part has an agent.
func (w *World) watched(wl *inventory.Workload, took uint) bool {
	for r := range wl.Endpoints {
		if took>>r&1 == 1 && wl.Endpoints[r].Interface != "" {
			return true
		}
	}
	return false
}

// parties returns how a name is stored: a workload, an address, or the nodes as
// the replicas at the other end see them: their own and the other one.
func parties(name string, wl *inventory.Workload) []flow.Party {
	switch {
	case wl != nil:
		return []flow.Party{{Workload: wl.Ref()}}
	case name == Node:
		var out []flow.Party
		for _, a := range NodeAddrs {
			out = append(out, flow.Party{Reserved: "host", Address: a}, flow.Party{Reserved: "remote-node", Address: a})
		}
		return out
	case name == APIServer:
		return []flow.Party{{Reserved: "kube-apiserver", Address: outsideOf[name]}}
	}
	return []flow.Party{{Reserved: "world", Address: outsideOf[name]}}
}

// servicePort is the port of the service that the true one is behind.
func servicePort(e Edge) uint16 {
	if e.Port.Port == 53 {
		return 53
	}
	return 10000 + e.Port.Port%10000
}
