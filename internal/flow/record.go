package flow

import (
	"net/netip"
	"time"
)

// Key names one connection, or one UDP or ICMP exchange, from its initiator's
// side. Addresses are never IPv4-mapped IPv6 ones. For ICMP the ports hold the
// echo identifier (source) and type<<8|code (destination).
type Key struct {
	Source          netip.Addr
	Destination     netip.Addr
	SourcePort      uint16
	DestinationPort uint16
	Protocol        Protocol
}

// Event is why the datapath emitted a record.
type Event uint8

// Events. They equal enum rf_event in bpf/types.h.
const (
	EventNone    Event = iota
	EventNew           // first packet
	EventVerdict       // a slot's verdict or revision changed
	EventEnd           // closed, or idle for longer than its limit
	EventSweep         // a long flow's counters since the last record
)

var eventNames = [...]string{"none", "new", "verdict", "end", "sweep"}

func (e Event) String() string { return name(eventNames[:], uint8(e), "event") }

// ParseEvent reads the form that String writes.
func ParseEvent(s string) (Event, error) {
	i, err := parse(eventNames[:], s, "event")
	return Event(i), err
}

// Judgement is what one slot said of a flow.
type Judgement struct {
	Verdict  Verdict
	Reason   Reason
	Revision uint32 // of the policy judged by; 0 when the slot was empty
}

// Counters are one direction's totals. Bytes include the Ethernet header;
// packets count the segments of an offloaded one.
type Counters struct {
	Packets uint64
	Bytes   uint64
}

// Record is one message of the datapath about one flow of one endpoint. Its
// counters are deltas since the flow's previous record, so totals are sums.
type Record struct {
	Key
	Event     Event
	Direction Direction // as the observed endpoint sees it

	Time      time.Time // of the newest packet counted
	FirstSeen time.Time // of the flow's first packet

	Endpoint uint32 // number of the observed endpoint, from the inventory

	Connections uint32 // flows that began since the previous record: 0 or 1
	// Answered: the responder's first packet is among Reverse.
	Answered bool
	// LiveNew and StagedNew: no earlier record of the flow told of this judgement
	// of the slot.
	LiveNew, StagedNew bool

	Forward Counters // from the initiator
	Reverse Counters // from the responder

	ForwardFlags uint8 // TCP flags seen, or-ed
	ReverseFlags uint8

	Live    Judgement
	Staged  Judgement
	Outcome Outcome
}
