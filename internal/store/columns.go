package store

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// flowColumns are those of the table flows. A value the schema cannot hold is
// stored as the nearest that it can: one odd record must not keep its whole
// batch, and every batch after it, out of the store.
var flowColumns = []column[flow.Labelled]{
	col("time", func(r *flow.Labelled) time.Time { return stamp(r.Time) }),
	col("first_seen", func(r *flow.Labelled) time.Time { return stamp(r.FirstSeen) }),
	col("node", func(r *flow.Labelled) string { return r.Node }),
	col("observer_namespace", func(r *flow.Labelled) string { return r.Observer.Workload.Namespace }),
	col("observer_kind", func(r *flow.Labelled) string { return r.Observer.Workload.Kind }),
	col("observer_name", func(r *flow.Labelled) string { return r.Observer.Workload.Name }),
	col("observer_endpoint", func(r *flow.Labelled) string { return r.Observer.Endpoint }),
	col("observer_endpoint_id", func(r *flow.Labelled) uint32 { return r.Endpoint }),
	col("direction", func(r *flow.Labelled) int8 { return enum(uint8(r.Direction), uint8(flow.Egress)) }),
	col("event", func(r *flow.Labelled) string { return r.Event.String() }),
	col("source_address", func(r *flow.Labelled) netip.Addr { return mapped(r.Key.Source) }),
	col("destination_address", func(r *flow.Labelled) netip.Addr { return mapped(r.Destination) }),
	col("source_port", func(r *flow.Labelled) uint16 { return r.SourcePort }),
	col("destination_port", func(r *flow.Labelled) uint16 { return r.DestinationPort }),
	col("protocol", func(r *flow.Labelled) uint8 { return uint8(r.Protocol) }),
	col("source_namespace", func(r *flow.Labelled) string { return r.Source.Workload.Namespace }),
	col("source_kind", func(r *flow.Labelled) string { return r.Source.Workload.Kind }),
	col("source_name", func(r *flow.Labelled) string { return r.Source.Workload.Name }),
	col("source_reserved", func(r *flow.Labelled) string { return r.Source.Reserved }),
	col("source_endpoint", func(r *flow.Labelled) string { return r.Source.Endpoint }),
	col("source_identity", func(r *flow.Labelled) uint32 { return uint32(r.Source.Identity) }),
	col("source_labels", func(r *flow.Labelled) string { return r.Source.Labels }),
	col("destination_namespace", func(r *flow.Labelled) string { return r.Dest.Workload.Namespace }),
	col("destination_kind", func(r *flow.Labelled) string { return r.Dest.Workload.Kind }),
	col("destination_name", func(r *flow.Labelled) string { return r.Dest.Workload.Name }),
	col("destination_reserved", func(r *flow.Labelled) string { return r.Dest.Reserved }),
	col("destination_endpoint", func(r *flow.Labelled) string { return r.Dest.Endpoint }),
	col("destination_identity", func(r *flow.Labelled) uint32 { return uint32(r.Dest.Identity) }),
	col("destination_labels", func(r *flow.Labelled) string { return r.Dest.Labels }),
	col("connections", func(r *flow.Labelled) uint32 { return r.Connections }),
	col("forward_packets", func(r *flow.Labelled) uint64 { return r.Forward.Packets }),
	col("forward_bytes", func(r *flow.Labelled) uint64 { return r.Forward.Bytes }),
	col("reverse_packets", func(r *flow.Labelled) uint64 { return r.Reverse.Packets }),
	col("reverse_bytes", func(r *flow.Labelled) uint64 { return r.Reverse.Bytes }),
	col("forward_flags", func(r *flow.Labelled) uint8 { return r.ForwardFlags }),
	col("reverse_flags", func(r *flow.Labelled) uint8 { return r.ReverseFlags }),
	col("live_verdict", func(r *flow.Labelled) int8 { return enum(uint8(r.Live.Verdict), uint8(flow.VerdictDeny)) }),
	col("live_reason", func(r *flow.Labelled) string { return r.Live.Reason.String() }),
	col("live_revision", func(r *flow.Labelled) uint32 { return r.Live.Revision }),
	col("staged_verdict", func(r *flow.Labelled) int8 { return enum(uint8(r.Staged.Verdict), uint8(flow.VerdictDeny)) }),
	col("staged_reason", func(r *flow.Labelled) string { return r.Staged.Reason.String() }),
	col("staged_revision", func(r *flow.Labelled) uint32 { return r.Staged.Revision }),
	col("outcome", func(r *flow.Labelled) int8 { return enum(uint8(r.Outcome), uint8(flow.OutcomeDropped)) }),
}

var coverageColumns = []column[flow.Coverage]{
	col("node", func(r *flow.Coverage) string { return r.Node }),
	col("start", func(r *flow.Coverage) time.Time { return stamp(r.Start) }),
	col("end", func(r *flow.Coverage) time.Time { return stamp(r.End) }),
	col("kind", func(r *flow.Coverage) int8 { return enum(uint8(r.Kind), uint8(flow.CoverageDropped)) }),
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

// enum maps a number the schema has no name for to its zero, which says unknown.
func enum(v, last uint8) int8 {
	if v > last {
		return 0
	}
	return int8(v) //nolint:gosec // last is below 4
}

// mapped returns a as the IPv6 column holds it; no address is ::.
func mapped(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv6Unspecified()
	}
	return netip.AddrFrom16(a.As16())
}
