package flowfile

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Edges returns the edges of a window, by the hour as the store does. One whose
// line stands for both ends is given as either end's.
func (s *Set) Edges(ctx context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []flow.Edge
	if f.Workload == nil {
		out = make([]flow.Edge, 0, 2*len(s.order))
	}
	for _, e := range s.order {
		k := &e.key
		if f.Workload != nil && k.from.Workload != *f.Workload && k.to.Workload != *f.Workload && k.observer != *f.Workload {
			continue
		}
		sum, ok := e.sum(f.Since, f.Until)
		if !ok {
			continue
		}
		for _, one := range seen(k, sum) {
			if f.Direction == flow.DirectionUnknown || f.Direction == one.Direction {
				out = append(out, one)
			}
		}
		if f.Limit > 0 && len(out) > f.Limit {
			return nil, &LimitError{"edges", f.Limit}
		}
	}
	return out, nil
}

// compare orders edges by their keys.
func (k *edgeKey) compare(o *edgeKey) int {
	if c := cmp.Or(k.from.Workload.Compare(o.from.Workload), k.to.Workload.Compare(o.to.Workload)); c != 0 {
		return c
	}
	order := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(k.from.Address.Compare(o.from.Address), k.to.Address.Compare(o.to.Address),
		cmp.Compare(k.from.Reserved, o.from.Reserved), cmp.Compare(k.to.Reserved, o.to.Reserved),
		cmp.Compare(k.protocol, o.protocol), cmp.Compare(k.port, o.port), cmp.Compare(k.at, o.at),
		cmp.Compare(order(k.known), order(o.known)), k.observer.Compare(o.observer))
}

// seen returns an edge as the ends that observed it have it.
func seen(k *edgeKey, e flow.Edge) []flow.Edge {
	as := func(d flow.Direction, observer flow.Workload) flow.Edge {
		e.Direction, e.Observer = d, observer
		return e
	}
	if !k.both {
		return []flow.Edge{as(k.at, k.observer)}
	}
	if !k.known {
		observer := k.to.Workload
		if observer.IsZero() || k.at == flow.Egress && !k.from.Workload.IsZero() {
			observer = k.from.Workload
		}
		return []flow.Edge{as(flow.DirectionUnknown, observer)}
	}
	var out []flow.Edge
	if k.to.IsWorkload() {
		out = append(out, as(flow.Ingress, k.to.Workload))
	}
	if k.from.IsWorkload() {
		out = append(out, as(flow.Egress, k.from.Workload))
	}
	return out
}

// sum adds up the hours of a window; ok is false when there are none.
func (e *edge) sum(since, until time.Time) (out flow.Edge, ok bool) {
	k := &e.key
	out = flow.Edge{Source: k.from, Destination: k.to, Protocol: k.protocol, Port: k.port}
	var (
		sources, dests []*pod
		lastDay        int64
	)
	for i := range e.buckets {
		b := &e.buckets[i]
		if !since.IsZero() && b.last.Before(since) || !until.IsZero() && !b.first.Before(until) {
			continue
		}
		if !ok || b.first.Before(out.FirstSeen) {
			out.FirstSeen = b.first
		}
		if b.last.After(out.LastSeen) {
			out.LastSeen = b.last
		}
		ok = true
		out.Connections += b.connections
		out.Answered += b.answered
		out.DeniedLive += b.denied
		out.DeniedStaged += b.staged
		out.Forward = flow.Counters{Packets: out.Forward.Packets + b.forward.Packets, Bytes: out.Forward.Bytes + b.forward.Bytes}
		out.Reverse = flow.Counters{Packets: out.Reverse.Packets + b.back.Packets, Bytes: out.Reverse.Bytes + b.back.Bytes}
		for _, p := range b.sources {
			sources = withPod(sources, p)
		}
		for _, p := range b.dests {
			dests = withPod(dests, p)
		}
		out.Hours++
		out.WeekHours.Set(flow.HourOfWeek(time.Unix(b.hour*3600, 0)))
		if day := b.hour / 24; out.Days == 0 || day != lastDay {
			out.Days, lastDay = out.Days+1, day
		}
	}
	out.SourceEndpoints, out.DestinationEndpoints = max(endpoints(sources), 1), max(endpoints(dests), 1)
	return out, ok
}

// Samples returns some flows of an edge, as they were.
func (s *Set) Samples(source, destination flow.Party, protocol flow.Protocol, port uint16) []Sample {
	for _, key := range []edgeKey{{known: true, both: true}, {both: true}} {
		key.from, key.to, key.protocol, key.port = source, destination, protocol, port
		if e := s.edges[key]; e != nil {
			return e.samples
		}
	}
	for _, e := range s.order {
		if k := &e.key; k.from == source && k.to == destination && k.protocol == protocol && k.port == port {
			return e.samples
		}
	}
	return nil
}

// endpoints counts pods; one with an IPv4 and an IPv6 address is one.
func endpoints(list []*pod) uint64 {
	if len(list) < 2 || list[0].name == "" {
		return uint64(len(list))
	}
	names := make(map[string]bool, len(list))
	for _, p := range list {
		names[p.name] = true
	}
	return uint64(len(names))
}

// Coverage says from when to when each node wrote lines, and what it lost. What
// nobody wrote down in between is no gap: a quiet node writes nothing.
func (s *Set) Coverage(_ context.Context, since, until time.Time) ([]flow.NodeCoverage, error) {
	var out []flow.NodeCoverage
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		n := s.nodes[name]
		c := flow.NodeCoverage{Node: name, First: n.first, Last: n.last, Records: n.lines, Lost: n.lost}
		if c.First.Before(since) {
			c.First = since
		}
		// Until the file's end all nodes were listened to.
		if last := s.Summary.Until; n.lines > 0 && last.After(c.Last) {
			c.Last = last
		}
		if !until.IsZero() && c.Last.After(until) {
			c.Last = until
		}
		if n.lines > 0 && c.Last.Before(c.First) {
			continue
		}
		c.Covered = c.Last.Sub(c.First)
		for _, at := range n.losses {
			if !at.Before(c.First) && !at.After(c.Last) {
				c.Losses = append(c.Losses, flow.Gap{Start: at, End: at.Add(time.Second)})
			}
		}
		out = append(out, c)
	}
	return out, nil
}
