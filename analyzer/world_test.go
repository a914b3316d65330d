package analyzer_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

var epoch = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

// world is an inventory with its traffic; testdata/README.md has the language.
type world struct {
	tb     fataler
	inv    inventory.Inventory
	edges  []flow.Edge
	cover  []flow.NodeCoverage
	length time.Duration
	reads  int
}

// fataler is what a test and a property's run have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func load(tb testing.TB, name string) *world {
	tb.Helper()
	w := &world{tb: tb}
	w.file(name)
	return w
}

func (w *world) file(name string) {
	w.tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		w.tb.Fatal(err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		if err := w.line(line); err != nil {
			w.tb.Fatalf("%s:%d: %v", name, n+1, err)
		}
	}
}

func (w *world) line(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return nil
	}
	switch args := words[1:]; words[0] {
	case "include":
		w.file(args[0])
	case "window":
		w.length = duration(w.tb, args[0])
	case "node":
		n := inventory.Node{Name: args[0]}
		for _, a := range args[1:] {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		w.inv.Nodes = append(w.inv.Nodes, n)
	case "service":
		return w.service(args)
	case "name":
		n := inventory.Name{Name: args[0]}
		for _, a := range args[1:] {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		w.inv.Names = append(w.inv.Names, n)
	case "covered":
		d := duration(w.tb, args[1])
		c := flow.NodeCoverage{Node: args[0], First: w.at(w.length - d), Last: w.at(w.length), Covered: d}
		opts := options(args[2:])
		c.Lost, c.GapCount = number(w.tb, opts, "lost", 0), number(w.tb, opts, "gaps", 0)
		w.cover = append(w.cover, c)
	case "workload":
		w.workload(args)
	case "flow":
		return w.flow(args)
	default:
		return fmt.Errorf("unknown word %q", words[0])
	}
	return nil
}

func (w *world) workload(args []string) {
	n := len(w.inv.Workloads) + 1
	ref := ref(args[0])
	wl := inventory.Workload{Namespace: ref.Namespace, Kind: ref.Kind, Name: ref.Name, Labels: map[string]string{}}
	for _, pair := range strings.Split(args[1], ",") {
		k, v, _ := strings.Cut(pair, "=")
		wl.Labels[k] = v
	}
	for i, e := range args[2:] {
		name, node, _ := strings.Cut(e, "@")
		ep := inventory.Endpoint{Name: name, Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 1, byte(n), byte(i + 1)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 3: 1, 13: byte(n), 15: byte(i + 1)}),
		}}
		ep.Node = strings.TrimSuffix(node, "!")
		if ep.Node == node {
			ep.Interface = "veth-" + name
		}
		wl.Endpoints = append(wl.Endpoints, ep)
	}
	w.inv.Workloads = append(w.inv.Workloads, wl)
}

func (w *world) service(args []string) error {
	opts := options(args)
	port, err := strconv.ParseUint(opts["port"], 10, 16)
	if err != nil {
		return err
	}
	s := inventory.Service{Namespace: "shop", Name: args[0], Addresses: []netip.Addr{netip.MustParseAddr(args[0])}}
	p := inventory.ServicePort{Protocol: flow.TCP, Port: uint16(port), TargetPort: uint16(number(w.tb, opts, "target", 0))}
	s.Ports = append(s.Ports, p)
	if opts["app"] != "" {
		s.Selector = map[string]string{"app": opts["app"]}
	}
	s.Reserved = opts["reserved"]
	if opts["endpoint"] != "" {
		s.Endpoints = append(s.Endpoints, netip.MustParseAddr(opts["endpoint"]))
	}
	w.inv.Services = append(w.inv.Services, s)
	return nil
}

func (w *world) flow(args []string) error {
	if len(args) < 5 || args[1] != ">" {
		return fmt.Errorf("want flow CLIENT > SERVER PROTOCOL PORT")
	}
	opts := options(args[5:])
	protocol, err := flow.ParseProtocol(args[3])
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(args[4], 10, 16)
	if err != nil {
		return err
	}
	client, server := party(args[0]), party(args[2])
	conns := number(w.tb, opts, "conns", 100)
	answered := number(w.tb, opts, "answered", conns)
	e := flow.Edge{
		Source: client, Destination: server, Protocol: protocol, Port: uint16(port),
		Connections: conns, Answered: answered,
		Forward:         flow.Counters{Packets: 4 * max(conns, 1), Bytes: 400 * max(conns, 1)},
		FirstSeen:       w.at(duration(w.tb, or(opts["first"], "0s"))),
		LastSeen:        w.at(duration(w.tb, or(opts["last"], w.length.String()))),
		SourceEndpoints: number(w.tb, opts, "clients", w.endpoints(client)), DestinationEndpoints: number(w.tb, opts, "servers", w.endpoints(server)),
		Hours: number(w.tb, opts, "hours", 1), Days: number(w.tb, opts, "days", 1), DeniedLive: number(w.tb, opts, "live", 0), DeniedStaged: number(w.tb, opts, "staged", 0),
	}
	e.Forward.Packets = number(w.tb, opts, "forward", e.Forward.Packets)
	e.Reverse.Packets = number(w.tb, opts, "reverse", 3*answered)
	e.Reverse.Bytes = 200 * e.Reverse.Packets
	seen := opts["seen"]
	add := func(d flow.Direction, observer flow.Party) {
		e.Direction, e.Observer = d, observer.Workload
		if opts["observer"] != "" {
			e.Observer = ref(opts["observer"])
		}
		w.edges = append(w.edges, e)
	}
	switch {
	case seen == "unknown":
		add(flow.DirectionUnknown, server)
	case seen == "client" || seen == "both" || seen == "" && w.watched(client):
		add(flow.Egress, client)
	}
	if seen == "server" || seen == "both" || seen == "" && w.watched(server) {
		add(flow.Ingress, server)
	}
	return nil
}

func (w *world) at(d time.Duration) time.Time { return epoch.Add(d) }

func (w *world) window() analyzer.Window {
	return analyzer.Window{Since: epoch, Until: w.at(w.length)}
}

func (w *world) find(r flow.Workload) *inventory.Workload {
	i := slices.IndexFunc(w.inv.Workloads, func(o inventory.Workload) bool { return o.Ref() == r })
	if i < 0 {
		return nil
	}
	return &w.inv.Workloads[i]
}

func (w *world) endpoints(p flow.Party) uint64 {
	if wl := w.find(p.Workload); wl != nil {
		return uint64(len(wl.Endpoints))
	}
	return 1
}

func (w *world) watched(p flow.Party) bool {
	wl := w.find(p.Workload)
	return wl != nil && slices.ContainsFunc(wl.Endpoints, func(e inventory.Endpoint) bool { return e.Interface != "" })
}

// Edges implements analyzer.EdgeSource.
func (w *world) Edges(_ context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	w.reads++
	var out []flow.Edge
	for _, e := range w.edges {
		if e.LastSeen.Before(f.Since) || !e.FirstSeen.Before(f.Until) {
			continue
		}
		if !f.Times {
			e.Days, e.WeekHours = 0, flow.WeekHours{}
		}
		if f.Workload == nil || e.Source.Workload == *f.Workload || e.Destination.Workload == *f.Workload {
			out = append(out, e)
		}
	}
	return out, nil
}

// Coverage implements analyzer.CoverageSource.
func (w *world) Coverage(context.Context, time.Time, time.Time) ([]flow.NodeCoverage, error) {
	return w.cover, nil
}

func (w *world) analyzer(cfg analyzer.Config) *analyzer.Analyzer {
	w.tb.Helper()
	a, err := analyzer.New(cfg, analyzer.Deps{Edges: w, Coverage: w, Inventory: func() inventory.Inventory { return w.inv }})
	if err != nil {
		w.tb.Fatal(err)
	}
	return a
}

func (w *world) recommendAll() []*analyzer.Recommendation {
	w.tb.Helper()
	recs, err := w.analyzer(analyzer.Config{}).RecommendAll(context.Background(), w.window())
	if err != nil {
		w.tb.Fatal(err)
	}
	return recs
}

func (w *world) recommend(name string) *analyzer.Recommendation {
	w.tb.Helper()
	r, err := w.analyzer(analyzer.Config{}).Recommend(context.Background(), ref(name), w.window())
	if err != nil {
		w.tb.Fatal(err)
	}
	return r
}

// trueEdges are the edges of an input that somebody put there on purpose, in the
// words of learnedEdges.
func (w *world) trueEdges() []edgeRef {
	var out []edgeRef
	for _, e := range w.edges {
		if e.Source.Reserved == "host" {
			continue
		}
		r := edgeRef{Client: partyName(e.Source), Server: partyName(e.Destination), Protocol: e.Protocol, Port: e.Port}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, compareEdgeRefs)
	return out
}

func partyName(p flow.Party) string {
	if p.IsWorkload() {
		return p.Workload.String()
	}
	return p.Address.String()
}

func ref(s string) flow.Workload {
	ns, name, _ := strings.Cut(s, "/")
	return flow.Workload{Namespace: ns, Kind: "Host", Name: name}
}

func party(s string) flow.Party {
	kind, rest, _ := strings.Cut(s, "/")
	if a, err := netip.ParseAddr(rest); err == nil {
		return flow.Party{Reserved: kind, Address: a}
	}
	return flow.Party{Workload: ref(s)}
}

func options(args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		out[k] = v
	}
	return out
}

func number(tb fataler, opts map[string]string, key string, otherwise uint64) uint64 {
	tb.Helper()
	if opts[key] == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(opts[key], 10, 64)
	if err != nil {
		tb.Fatalf("%s: %v", key, err)
	}
	return n
}

func duration(tb fataler, s string) time.Duration {
	tb.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
