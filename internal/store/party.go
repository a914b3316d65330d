package store

import (
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// party is one end of an edge as the tables hold it.
type party struct {
	namespace, kind, name, reserved string
	address                         netip.Addr
	folded                          uint8 // bits at the end of address that were dropped
}

// into lists the destinations of its five columns before folded.
func (p *party) into() []any {
	return []any{&p.namespace, &p.kind, &p.name, &p.reserved, &p.address}
}

func (p *party) flow() flow.Party {
	out := flow.Party{
		Workload: flow.Workload{Namespace: p.namespace, Kind: p.kind, Name: p.name},
		Reserved: p.reserved,
	}
	if !out.Workload.IsZero() {
		return out
	}
	if out.Address = p.address.Unmap(); p.folded > 0 {
		out.Prefix, out.Address = netip.PrefixFrom(out.Address, out.Address.BitLen()-int(p.folded)), netip.Addr{}
	}
	return out
}

func workloadInto(w *flow.Workload) []any { return []any{&w.Namespace, &w.Kind, &w.Name} }

// edgeEnds is what makes an edge, as a query reads it: the columns of edgeKey.
type edgeEnds struct {
	direction string
	observer  flow.Workload
	from, to  party
	protocol  uint8
	port      uint16
}

// into lists the destinations of the columns of edgeKey, in their order.
func (e *edgeEnds) into() []any {
	dest := append([]any{&e.direction}, workloadInto(&e.observer)...)
	dest = append(append(dest, e.from.into()...), e.to.into()...)
	return append(dest, &e.protocol, &e.port, &e.from.folded, &e.to.folded)
}
