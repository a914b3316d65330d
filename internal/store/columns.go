package store

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// flowColumns are those of the table flows. A value the schema cannot hold is
// stored as the nearest that it can: one odd record must not keep its whole
// batch, and every batch after it, out of the store.
var flowColumns = []flowColumn{
	moment("time", func(r *flow.Labelled) time.Time { return r.Time }),
	moment("first_seen", func(r *flow.Labelled) time.Time { return r.FirstSeen }),
	name("node", func(r *flow.Labelled) string { return r.Node }),
	partyName("observer_namespace", observer, namespaceOf),
	partyName("observer_kind", observer, kindOf),
	partyName("observer_name", observer, nameOf),
	partyName("observer_endpoint", observer, endpointOf),
	number("observer_endpoint_id", func(r *flow.Labelled) uint32 { return r.Endpoint }),
	number("direction", func(r *flow.Labelled) uint8 { return known(uint8(r.Direction), uint8(flow.Egress)) }),
	words("event", func(r *flow.Labelled) uint8 { return uint8(r.Event) }, func(v uint8) string { return flow.Event(v).String() }),
	address("source_address", func(r *flow.Labelled) netip.Addr { return r.Key.Source }),
	address("destination_address", func(r *flow.Labelled) netip.Addr { return r.Destination }),
	number("source_port", func(r *flow.Labelled) uint16 { return r.SourcePort }),
	number("destination_port", func(r *flow.Labelled) uint16 { return r.DestinationPort }),
	number("protocol", func(r *flow.Labelled) uint8 { return uint8(r.Protocol) }),
	partyName("source_namespace", initiator, namespaceOf),
	partyName("source_kind", initiator, kindOf),
	partyName("source_name", initiator, nameOf),
	partyName("source_reserved", initiator, reservedOf),
	partyName("source_endpoint", initiator, endpointOf),
	number("source_identity", func(r *flow.Labelled) uint32 { return uint32(r.Source.Identity) }),
	partyName("source_labels", initiator, labelsOf),
	partyName("destination_namespace", destination, namespaceOf),
	partyName("destination_kind", destination, kindOf),
	partyName("destination_name", destination, nameOf),
	partyName("destination_reserved", destination, reservedOf),
	partyName("destination_endpoint", destination, endpointOf),
	number("destination_identity", func(r *flow.Labelled) uint32 { return uint32(r.Dest.Identity) }),
	partyName("destination_labels", destination, labelsOf),
	number("connections", func(r *flow.Labelled) uint32 { return r.Connections }),
	number("answered", func(r *flow.Labelled) uint8 { return bit(r.Answered) }),
	number("forward_packets", func(r *flow.Labelled) uint64 { return r.Forward.Packets }),
	number("forward_bytes", func(r *flow.Labelled) uint64 { return r.Forward.Bytes }),
	number("reverse_packets", func(r *flow.Labelled) uint64 { return r.Reverse.Packets }),
	number("reverse_bytes", func(r *flow.Labelled) uint64 { return r.Reverse.Bytes }),
	number("forward_flags", func(r *flow.Labelled) uint8 { return r.ForwardFlags }),
	number("reverse_flags", func(r *flow.Labelled) uint8 { return r.ReverseFlags }),
	number("live_verdict", func(r *flow.Labelled) uint8 { return known(uint8(r.Live.Verdict), uint8(flow.VerdictDeny)) }),
	words("live_reason", func(r *flow.Labelled) uint8 { return uint8(r.Live.Reason) }, reasonName),
	number("live_revision", func(r *flow.Labelled) uint32 { return r.Live.Revision }),
	number("live_new", func(r *flow.Labelled) uint8 { return bit(r.LiveNew) }),
	number("staged_verdict", func(r *flow.Labelled) uint8 { return known(uint8(r.Staged.Verdict), uint8(flow.VerdictDeny)) }),
	words("staged_reason", func(r *flow.Labelled) uint8 { return uint8(r.Staged.Reason) }, reasonName),
	number("staged_revision", func(r *flow.Labelled) uint32 { return r.Staged.Revision }),
	number("staged_new", func(r *flow.Labelled) uint8 { return bit(r.StagedNew) }),
	number("outcome", func(r *flow.Labelled) uint8 { return known(uint8(r.Outcome), uint8(flow.OutcomeDropped)) }),
}

func namespaceOf(p *flow.Party) string { return p.Workload.Namespace }
func kindOf(p *flow.Party) string      { return p.Workload.Kind }
func nameOf(p *flow.Party) string      { return p.Workload.Name }
func reservedOf(p *flow.Party) string  { return p.Reserved }
func endpointOf(p *flow.Party) string  { return p.Endpoint }
func labelsOf(p *flow.Party) string    { return p.Labels }
func reasonName(v uint8) string        { return flow.Reason(v).String() }

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

var coverageColumns = []column[flow.Coverage]{
	col("node", func(r *flow.Coverage) string { return r.Node }),
	col("start", func(r *flow.Coverage) time.Time { return stamp(r.Start) }),
	col("end", func(r *flow.Coverage) time.Time { return stamp(r.End) }),
	col("kind", func(r *flow.Coverage) int8 { return int8(known(uint8(r.Kind), uint8(flow.CoverageDropped))) }),
	col("endpoint", func(r *flow.Coverage) string { return r.Endpoint }),
	col("records", func(r *flow.Coverage) uint64 { return r.Records }),
	col("lost", func(r *flow.Coverage) uint64 { return r.Lost }),
	col("delayed", func(r *flow.Coverage) uint64 { return r.Delayed }),
	col("dropped", func(r *flow.Coverage) uint64 { return r.Dropped }),
	col("spooled", func(r *flow.Coverage) uint64 { return r.Spooled }),
	col("skew_microseconds", func(r *flow.Coverage) int64 { return r.Skew.Microseconds() }),
	col("endpoints", func(r *flow.Coverage) uint32 { return uint32(max(r.Endpoints, 0)) }),
	col("started", func(r *flow.Coverage) bool { return r.Started }),
}

// The times that both DateTime and DateTime64 hold.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Date(2105, 12, 31, 0, 0, 0, 0, time.UTC)
)

func stamp(t time.Time) time.Time {
	if t.Before(earliest) {
		return earliest
	}
	if t.After(latest) {
		return latest
	}
	return t.UTC()
}

// known maps a number the schema has no name for to its zero, which says unknown.
func known(v, last uint8) uint8 {
	if v > last {
		return 0
	}
	return v
}
