package manifests

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// reachable are ports, in order and as few ranges as there can be, of each of
// protocols.
type reachable [Protocols][]Range

var (
	nothing    = &reachable{}
	everything = &reachable{{{1, lastPort}}, {{1, lastPort}}, {{1, lastPort}}}
)

func (r *reachable) allowed() (out []Allowed) {
	for i, ports := range r {
		if len(ports) > 0 {
			out = append(out, Allowed{Protocol: protocols[i], Ports: ports})
		}
	}
	return out
}

// key tells r from others; it is "" for nothing.
func (r *reachable) key() string {
	if allowed := r.allowed(); len(allowed) > 0 {
		return fmt.Sprint(allowed)
	}
	return ""
}

func (r *reachable) isEmpty() bool { return len(r[0])+len(r[1])+len(r[2]) == 0 }

// and returns what is in both.
func (r *reachable) and(o *reachable) *reachable {
	switch {
	case r == everything || o.isEmpty():
		return o
	case o == everything || r.isEmpty():
		return r
	}
	out := &reachable{}
	for i := range out {
		for a, b := r[i], o[i]; len(a) > 0 && len(b) > 0; {
			if from, to := max(a[0].From, b[0].From), min(a[0].To, b[0].To); from <= to {
				out[i] = append(out[i], Range{from, to})
			}
			if a[0].To < b[0].To {
				a = a[1:]
			} else {
				b = b[1:]
			}
		}
	}
	return out
}

// or returns what is in either.
func (r *reachable) or(o *reachable) *reachable {
	switch {
	case r == everything || o.isEmpty():
		return r
	case o == everything || r.isEmpty():
		return o
	}
	out := &reachable{}
	for i := range out {
		all := slices.Concat(r[i], o[i])
		slices.SortFunc(all, func(a, b Range) int { return int(a.From) - int(b.From) })
		for _, next := range all {
			if n := len(out[i]); n > 0 && int(next.From) <= int(out[i][n-1].To)+1 {
				out[i][n-1].To = max(out[i][n-1].To, next.To)
			} else {
				out[i] = append(out[i], next)
			}
		}
	}
	return out
}

// endpoint is one of an end, with what its policy says by direction, ingress
// first; nil for nobody's.
type endpoint struct {
	policy.End
	named string // Named, in words
	says  [2]*side
}

// side is what one policy says in one direction.
type side struct {
	isolated bool
	cuts     []cut
	answers  map[string]*reachable // by the rules that mean the peer, and the ports' names
	rules    []uint64              // of the peer at hand
	key      []byte
}

func newSide(p *policy.Policy, d flow.Direction) *side {
	s := &side{isolated: p != nil && p.Isolates(d), answers: map[string]*reachable{}}
	if s.isolated {
		s.cuts = cutsOf(p, d)
	}
	return s
}

// reach returns what any endpoint of source may reach of any of destination.
func reach(source, destination *end) *reachable {
	out := nothing
	for i := range source.endpoints {
		for j := range destination.endpoints {
			from, to := &source.endpoints[i], &destination.endpoints[j]
			if one := from.says[1].of(from, to, flow.Egress); !one.isEmpty() {
				out = out.or(one.and(to.says[0].of(from, to, flow.Ingress)))
			}
		}
	}
	return out
}

// of returns what s says of a connection. Of peers that the same rules mean, and
// for the same named ports, the evaluator is asked about one.
func (s *side) of(from, to *endpoint, d flow.Direction) *reachable {
	if s == nil || !s.isolated {
		return everything
	}
	governed, peer := to, from
	if d == flow.Egress {
		governed, peer = from, to
	}
	s.rules = governed.Evaluator.Meant(governed.Policy, d, &peer.PeerFacts, s.rules[:0])
	s.key = s.key[:0]
	for _, word := range s.rules {
		s.key = binary.LittleEndian.AppendUint64(s.key, word)
	}
	s.key = append(s.key, to.named...)
	if known, ok := s.answers[string(s.key)]; ok {
		return known
	}
	source, destination := from.End, to.End
	if d == flow.Egress {
		destination.Policy = nil
	} else {
		source.Policy = nil
	}
	out := &reachable{}
	for i, protocol := range protocols {
		out[i] = openPorts(&source, &destination, protocol, starts(protocol, s.cuts, to.Named))
	}
	s.answers[string(s.key)] = out
	return out
}

// openPorts returns those on which source may connect to destination; within the runs
// that begin at starts nobody tells them apart.
func openPorts(source, destination *policy.End, protocol flow.Protocol, starts []uint16) (out []Range) {
	for i, from := range starts {
		to := uint16(lastPort)
		if i+1 < len(starts) {
			to = starts[i+1] - 1
		}
		if !policy.MayConnect(source, destination, protocol, from) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].To+1 == from {
			out[n-1].To = to
		} else {
			out = append(out, Range{from, to})
		}
	}
	return out
}
