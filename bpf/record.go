package bpf

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/ringfence/ringfence/internal/flow"
)

// rawRecord is a message of the ring as the programs wrote it.
type rawRecord = kernelRfRecord

const recordSize = int(unsafe.Sizeof(rawRecord{}))

// decodeRecord reads one message. Anything but a whole, known one is refused.
func decodeRecord(b []byte) (rawRecord, error) {
	var r rawRecord
	if len(b) != recordSize {
		return r, fmt.Errorf("record of %d bytes: want %d", len(b), recordSize)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordSize), b) //nolint:gosec // both are recordSize long
	switch {
	case r.Event == uint8(flow.EventNone) || r.Event > uint8(flow.EventSweep):
		return rawRecord{}, fmt.Errorf("record of event %d", r.Event)
	case r.Direction > uint8(flow.Egress):
		return rawRecord{}, fmt.Errorf("record of direction %d", r.Direction)
	case r.Outcome > uint8(flow.OutcomeDropped):
		return rawRecord{}, fmt.Errorf("record of outcome %d", r.Outcome)
	case r.LiveVerdict > uint8(flow.VerdictDeny) || r.StagedVerdict > uint8(flow.VerdictDeny):
		return rawRecord{}, fmt.Errorf("record of verdicts %d and %d", r.LiveVerdict, r.StagedVerdict)
	case r.LiveReason > uint8(flow.ReasonPending) || r.StagedReason > uint8(flow.ReasonPending):
		return rawRecord{}, fmt.Errorf("record of reasons %d and %d", r.LiveReason, r.StagedReason)
	}
	return r, nil
}

// record puts r into the words of the rest of the agent.
func (r *rawRecord) record(c clock) flow.Record {
	return flow.Record{
		Key: flow.Key{
			Source:          netip.AddrFrom16(r.Src).Unmap(),
			Destination:     netip.AddrFrom16(r.Dst).Unmap(),
			SourcePort:      networkOrder(r.Sport),
			DestinationPort: networkOrder(r.Dport),
			Protocol:        flow.Protocol(r.Protocol),
		},
		Event:        flow.Event(r.Event),
		Direction:    flow.Direction(r.Direction),
		Time:         c.wall(r.Time),
		FirstSeen:    c.wall(r.FirstSeen),
		Endpoint:     r.Endpoint,
		Connections:  r.Connections,
		Forward:      flow.Counters{Packets: r.ForwardPackets, Bytes: r.ForwardBytes},
		Reverse:      flow.Counters{Packets: r.ReversePackets, Bytes: r.ReverseBytes},
		ForwardFlags: r.ForwardFlags,
		ReverseFlags: r.ReverseFlags,
		Answered:     r.Answered != 0,
		LiveNew:      r.Told&1 != 0,
		StagedNew:    r.Told&2 != 0,
		Live: flow.Judgement{
			Verdict: flow.Verdict(r.LiveVerdict), Reason: flow.Reason(r.LiveReason), Revision: r.LiveRevision,
		},
		Staged: flow.Judgement{
			Verdict: flow.Verdict(r.StagedVerdict), Reason: flow.Reason(r.StagedReason), Revision: r.StagedRevision,
		},
		Outcome: flow.Outcome(r.Outcome),
	}
}
