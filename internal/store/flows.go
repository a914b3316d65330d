package store

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// FlowFilter is flow.FlowFilter.
type FlowFilter = flow.FlowFilter

// The minute comes first in the order because it does in the table's: the
// newest rows are read without sorting the rest.
const flowQuery = `
SELECT
    time, first_seen, node,
    observer_namespace, observer_kind, observer_name, observer_endpoint, observer_endpoint_id,
    direction, event,
    source_address, destination_address, source_port, destination_port, protocol,
    source_namespace, source_kind, source_name, source_reserved, source_endpoint, source_identity, source_labels,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_endpoint, destination_identity, destination_labels,
    connections, forward_packets, forward_bytes, reverse_packets, reverse_bytes, forward_flags, reverse_flags,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision, outcome
FROM flows
WHERE time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
  AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
  AND ({any_direction:Bool} OR toUInt8(direction) = {direction:UInt8})
  AND ({outcome:UInt8} = 0 OR toUInt8(outcome) = {outcome:UInt8})
  AND ({protocol:UInt8} = 0 OR protocol = {protocol:UInt8})
  AND ({port:UInt16} = 0 OR destination_port = {port:UInt16})
  AND ({any_workload:Bool}
       OR (observer_namespace = {namespace:String} AND observer_kind = {kind:String} AND observer_name = {name:String})
       OR (source_namespace = {namespace:String} AND source_kind = {kind:String} AND source_name = {name:String})
       OR (destination_namespace = {namespace:String} AND destination_kind = {kind:String} AND destination_name = {name:String}))
ORDER BY toStartOfMinute(time) DESC, time DESC, source_port DESC
LIMIT {limit:UInt64}`

// Flows returns records, newest first.
func (s *Store) Flows(ctx context.Context, f FlowFilter) ([]flow.Labelled, error) {
	if f.Limit > maxFlowLimit {
		return nil, fmt.Errorf("flows: limit %d is above the highest, %d", f.Limit, maxFlowLimit)
	}
	var direction flow.Direction
	if f.Direction != nil {
		direction = *f.Direction
	}
	args := append(windowArgs(f.Since, f.Until), workloadArgs(f.Workload)...)
	args = append(args,
		clickhouse.Named("any_direction", f.Direction == nil),
		clickhouse.Named("direction", uint8(direction)),
		clickhouse.Named("outcome", uint8(f.Outcome)),
		clickhouse.Named("protocol", uint8(f.Protocol)),
		clickhouse.Named("port", f.Port),
		clickhouse.Named("limit", limitOr(f.Limit, defaultFlowLimit)),
	)
	var out []flow.Labelled
	err := s.each(ctx, "flows", flowQuery, args, func(rows driver.Rows) error {
		l, err := scanFlow(rows)
		out = append(out, l)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func scanFlow(rows driver.Rows) (flow.Labelled, error) {
	var (
		parties                        [3]flow.Party
		l                              = flow.Labelled{Observer: &parties[0], Source: &parties[1], Dest: &parties[2]}
		direction, event               string
		source, destination            netip.Addr
		protocol                       uint8
		live, liveReason               string
		staged, stagedReason, happened string
	)
	err := rows.Scan(
		&l.Time, &l.FirstSeen, &l.Node,
		&l.Observer.Workload.Namespace, &l.Observer.Workload.Kind, &l.Observer.Workload.Name, &l.Observer.Endpoint, &l.Endpoint,
		&direction, &event,
		&source, &destination, &l.SourcePort, &l.DestinationPort, &protocol,
		&l.Source.Workload.Namespace, &l.Source.Workload.Kind, &l.Source.Workload.Name, &l.Source.Reserved, &l.Source.Endpoint, (*uint32)(&l.Source.Identity), &l.Source.Labels,
		&l.Dest.Workload.Namespace, &l.Dest.Workload.Kind, &l.Dest.Workload.Name, &l.Dest.Reserved, &l.Dest.Endpoint, (*uint32)(&l.Dest.Identity), &l.Dest.Labels,
		&l.Connections, &l.Forward.Packets, &l.Forward.Bytes, &l.Reverse.Packets, &l.Reverse.Bytes, &l.ForwardFlags, &l.ReverseFlags,
		&live, &liveReason, &l.Live.Revision, &staged, &stagedReason, &l.Staged.Revision, &happened,
	)
	if err != nil {
		return l, err
	}
	l.Key.Source, l.Destination, l.Protocol = source.Unmap(), destination.Unmap(), flow.Protocol(protocol)
	l.Event = parseEvent(event)
	l.Live.Reason, l.Staged.Reason = parseReason(liveReason), parseReason(stagedReason)
	if l.Direction, err = flow.ParseDirection(direction); err != nil {
		return l, err
	}
	if l.Live.Verdict, err = flow.ParseVerdict(live); err != nil {
		return l, err
	}
	if l.Staged.Verdict, err = flow.ParseVerdict(staged); err != nil {
		return l, err
	}
	l.Outcome, err = flow.ParseOutcome(happened)
	return l, err
}

// parseEvent reads an event that a newer ringfence may have written.
func parseEvent(s string) flow.Event {
	for e := flow.EventNone; e <= flow.EventSweep; e++ {
		if e.String() == s {
			return e
		}
	}
	return flow.EventNone
}
