package analyzer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// sighting is one edge of a workload in one direction, with what each end saw of
// it.
type sighting struct {
	direction flow.Direction // as the workload sees it
	edge      *flow.Edge     // the ends' numbers taken together
	sides     [3]*flow.Edge  // what each end saw, and what was forged; nil for nothing
	here      bool           // the workload's own agent saw it
	atPeer    bool           // the peer's did
	forged    bool           // its source is not who sent it
	midstream bool           // some of it was picked up in the middle
}

// peer returns the end that is not the workload.
func (s *sighting) peer() *flow.Party { return otherEnd(s.edge, s.direction) }

// count is the number of connections, including those whose beginning fell
// outside of the window; a sighting has at least one.
func count(e *flow.Edge) uint64 { return max(e.Connections, e.Answered, 1) }

type service struct {
	server   flow.Party
	protocol flow.Protocol
	port     uint16
}

// sightings adds up the edges of w: one sighting a direction, peer, protocol and
// port, in order. Edges whose direction stays unknown are returned apart.
func (v *view) sightings(ctx context.Context, w flow.Workload) (seen []sighting, unknown []*flow.Edge, err error) {
	g, unknown, err := v.grouped(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	seen = make([]sighting, len(g.last))
	for i := range seen {
		seen[i] = g.sighting(i)
	}
	slices.SortFunc(seen, func(a, b sighting) int {
		return cmp.Or(cmp.Compare(a.direction, b.direction), compareEdges(a.edge, b.edge))
	})
	return seen, unknown, err
}

// grouped puts the edges of w that are one sighting together.
func (v *view) grouped(ctx context.Context, w flow.Workload) (*groups, []*flow.Edge, error) {
	edges, err := v.edgesOf(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	var unknown []*flow.Edge
	g := newGroups(len(edges))
	for _, e := range edges {
		if e.Observer.IsZero() {
			continue // seen at an interface that is nobody's: it says nothing of anybody
		}
		if e.Direction == flow.DirectionUnknown {
			proven, err := v.listens(ctx, w, service{e.Destination, e.Protocol, e.Port})
			if err != nil {
				return nil, nil, err
			}
			if !proven {
				unknown = append(unknown, e)
				continue
			}
		}
		for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
			if end(e, d).Workload == w {
				g.add(e, d)
			}
		}
	}
	return g, unknown, nil
}

func otherEnd(e *flow.Edge, d flow.Direction) *flow.Party {
	if d == flow.Ingress {
		return &e.Source
	}
	return &e.Destination
}

// end returns the end of e that observes it in direction d.
func end(e *flow.Edge, d flow.Direction) *flow.Party {
	if d == flow.Ingress {
		return &e.Destination
	}
	return &e.Source
}

// Sides of a sighting.
const (
	sideHere = iota
	sidePeer
	sideForged
)

// add takes another observation of the same edge in.
func (s *sighting) add(e *flow.Edge) {
	side := sidePeer
	switch {
	case forged(e):
		side, s.forged = sideForged, true
	case e.Observer == end(e, s.direction).Workload && (e.Direction == s.direction || e.Direction == flow.DirectionUnknown):
		side, s.here = sideHere, true
	default:
		s.atPeer = true
	}
	s.midstream = s.midstream || e.Direction == flow.DirectionUnknown
	if s.sides[side] == nil {
		s.sides[side] = e
		return
	}
	// One observer's edges of different directions are different flows.
	t := *s.sides[side]
	t.Connections += e.Connections
	t.Answered += e.Answered
	t.Forward = flow.Counters{Packets: t.Forward.Packets + e.Forward.Packets, Bytes: t.Forward.Bytes + e.Forward.Bytes}
	t.Reverse = flow.Counters{Packets: t.Reverse.Packets + e.Reverse.Packets, Bytes: t.Reverse.Bytes + e.Reverse.Bytes}
	t.DeniedLive += e.DeniedLive
	t.DeniedStaged += e.DeniedStaged
	widen(&t, e)
	s.sides[side] = &t
}

// merge takes the sides together. Both ends saw the same flows, so the larger
// number counts, not the sum.
func (s *sighting) merge() {
	for _, e := range s.sides {
		switch {
		case e == nil:
			continue
		case s.edge == nil:
			s.edge = e
			continue
		}
		t := *s.edge
		t.Connections = max(t.Connections, e.Connections)
		t.Answered = max(t.Answered, e.Answered)
		t.Forward = larger(t.Forward, e.Forward)
		t.Reverse = larger(t.Reverse, e.Reverse)
		t.DeniedLive = max(t.DeniedLive, e.DeniedLive)
		t.DeniedStaged = max(t.DeniedStaged, e.DeniedStaged)
		widen(&t, e)
		s.edge = &t
	}
}

// widen stretches t over e's time and endpoints, which may be the same ones.
func widen(t, e *flow.Edge) {
	t.SourceEndpoints = max(t.SourceEndpoints, e.SourceEndpoints)
	t.DestinationEndpoints = max(t.DestinationEndpoints, e.DestinationEndpoints)
	t.Hours, t.Days = max(t.Hours, e.Hours), max(t.Days, e.Days)
	t.WeekHours = t.WeekHours.Union(e.WeekHours)
	if e.FirstSeen.Before(t.FirstSeen) {
		t.FirstSeen = e.FirstSeen
	}
	if e.LastSeen.After(t.LastSeen) {
		t.LastSeen = e.LastSeen
	}
}

// forged reports whether the end that e was observed at is not who observed it:
// an endpoint sent it from an address that is not its own.
func forged(e *flow.Edge) bool {
	if e.Observer.IsZero() {
		return true
	}
	if e.Direction == flow.DirectionUnknown {
		return e.Observer != e.Source.Workload && e.Observer != e.Destination.Workload
	}
	return e.Observer != end(e, e.Direction).Workload
}

func larger(a, b flow.Counters) flow.Counters {
	return flow.Counters{Packets: max(a.Packets, b.Packets), Bytes: max(a.Bytes, b.Bytes)}
}

// listens reports whether flows of known direction in the window were answered
// at s. w's own edges are looked at first, then those of the server.
func (v *view) listens(ctx context.Context, w flow.Workload, s service) (bool, error) {
	for _, of := range []flow.Workload{w, s.server.Workload} {
		if of.IsZero() {
			continue
		}
		services, err := v.services.of(of, func() (map[service]bool, error) { return v.servicesIn(ctx, of) })
		if err != nil {
			return false, err
		}
		if services[s] {
			return true, nil
		}
	}
	return false, nil
}

// servicesIn returns the services that answered in the edges of w.
func (v *view) servicesIn(ctx context.Context, w flow.Workload) (map[service]bool, error) {
	edges, err := v.edgesOf(ctx, w)
	services := map[service]bool{}
	for _, e := range edges {
		if e.Direction != flow.DirectionUnknown && !forged(e) && answered(e) {
			services[service{e.Destination, e.Protocol, e.Port}] = true
		}
	}
	return services, err
}

// answered reports whether e was more than attempts.
func answered(e *flow.Edge) bool { return e.Answered > 0 && !refused(e) }

// refused reports whether TCP connections came to nothing. A completed one has
// at least two packets each way; a reset, or the answer to a half-open probe, is
// a lone one. The bounds lie between the two, since Answered is an estimate.
func refused(e *flow.Edge) bool {
	return e.Protocol == flow.TCP && e.Connections > 0 &&
		(2*e.Reverse.Packets < 3*e.Answered || 2*e.Forward.Packets < 3*e.Connections)
}

func (s *sighting) evidence() Evidence {
	e := s.edge
	at := AtBoth
	switch {
	case !s.atPeer:
		at = AtHere
	case !s.here:
		at = AtPeer
	}
	return Evidence{
		Peer: *s.peer(), Protocol: e.Protocol, Port: e.Port,
		Connections: e.Connections, Answered: e.Answered, Forward: e.Forward, Reverse: e.Reverse,
		FirstSeen: e.FirstSeen, LastSeen: e.LastSeen,
		SourceEndpoints: e.SourceEndpoints, DestinationEndpoints: e.DestinationEndpoints,
		Hours: e.Hours, Days: e.Days, WeekHours: e.WeekHours,
		DeniedLive: e.DeniedLive, DeniedStaged: e.DeniedStaged,
		ObservedAt: at, Midstream: s.midstream,
	}
}

func compareParties(a, b *flow.Party) int {
	return cmp.Or(
		a.Workload.Compare(b.Workload),
		cmp.Compare(a.Reserved, b.Reserved),
		a.Address.Compare(b.Address),
		a.Prefix.Addr().Compare(b.Prefix.Addr()),
		cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
	)
}

func compareEdges(a, b *flow.Edge) int {
	if c := compareParties(&a.Source, &b.Source); c != 0 {
		return c
	}
	if c := compareParties(&a.Destination, &b.Destination); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Direction, b.Direction),
		a.FirstSeen.Compare(b.FirstSeen),
		a.LastSeen.Compare(b.LastSeen),
		cmp.Compare(a.Connections, b.Connections),
	)
}

// number writes a count with its noun.
func number[N uint64 | int](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// span writes a duration to the second, or finer where it is shorter.
func span(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
