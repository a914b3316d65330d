package bpf

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/ringfence/ringfence/internal/flow"
)

// rawRecord is a message of the ring in its long form, which holds any.
type rawRecord = kernelRfRecord

const (
	recordSize  = int(unsafe.Sizeof(rawRecord{}))
	record4Size = int(unsafe.Sizeof(kernelRfRecord4{}))
)

// decodeRecord reads one message of either form. Anything but a whole, known one
// is refused.
func decodeRecord(b []byte) (rawRecord, error) {
	var r rawRecord
	switch len(b) {
	case recordSize:
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordSize), b) //nolint:gosec // both are recordSize long
	case record4Size:
		var short kernelRfRecord4
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&short)), record4Size), b) //nolint:gosec // both are record4Size long
		r = short.long()
	default:
		return r, fmt.Errorf("record of %d bytes: want %d or %d", len(b), record4Size, recordSize)
	}
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

const packetShift = 40 // RF_PACKET of bpf/types.h

// long returns the record in its long form.
func (r *kernelRfRecord4) long() rawRecord {
	return rawRecord{
		Time: r.Time, FirstSeen: r.FirstSeen,
		ForwardPackets: r.Forward >> packetShift, ForwardBytes: r.Forward & (1<<packetShift - 1),
		ReversePackets: r.Reverse >> packetShift, ReverseBytes: r.Reverse & (1<<packetShift - 1),
		Src: mapped(r.Src), Dst: mapped(r.Dst), Sport: r.Sport, Dport: r.Dport,
		Endpoint: r.Endpoint, Connections: r.Connections, LiveRevision: r.LiveRevision, StagedRevision: r.StagedRevision,
		Protocol: r.Protocol, Event: r.Event, Direction: r.Direction, Outcome: r.Outcome,
		LiveVerdict: uint8(r.Judged), LiveReason: uint8(r.Judged >> 8), //nolint:gosec // a byte each
		StagedVerdict: uint8(r.Judged >> 16), StagedReason: uint8(r.Judged >> 24), //nolint:gosec // a byte each
		ForwardFlags: r.ForwardFlags, ReverseFlags: r.ReverseFlags, Answered: r.Answered, Told: r.Told,
	}
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
