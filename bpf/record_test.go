package bpf

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/flow"
)

// annotated is struct rf_record, byte by byte, little endian.
var annotated = []byte{
	0x00, 0xca, 0x9a, 0x3b, 0, 0, 0, 0, // time: 1 s
	0x00, 0x65, 0xcd, 0x1d, 0, 0, 0, 0, // first_seen: 0.5 s
	7, 0, 0, 0, 0, 0, 0, 0, // forward_packets
	0x39, 0x30, 0, 0, 0, 0, 0, 0, // forward_bytes: 12345
	5, 0, 0, 0, 0, 0, 0, 0, // reverse_packets
	0, 0, 0, 0, 1, 0, 0, 0, // reverse_bytes: 1<<32
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, // src
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2, // dst
	0x9c, 0x40, // sport: 40000, network order
	0x15, 0x38, // dport: 5432, network order
	11, 0, 0, 0, // endpoint
	1, 0, 0, 0, // connections
	8, 0, 0, 0, // live_revision
	9, 0, 0, 0, // staged_revision
	6,    // protocol
	2,    // event: verdict
	2,    // direction: egress
	2,    // outcome: audited
	1,    // live_verdict: allow
	2,    // live_reason: rule
	2,    // staged_verdict: deny
	3,    // staged_reason: default
	0x1b, // forward_flags
	0x12, // reverse_flags
	1,    // answered
	2,    // told: of the staged slot
}

// annotated4 is the same as struct rf_record4.
var annotated4 = []byte{
	0x00, 0xca, 0x9a, 0x3b, 0, 0, 0, 0, // time: 1 s
	0x00, 0x65, 0xcd, 0x1d, 0, 0, 0, 0, // first_seen: 0.5 s
	0x39, 0x30, 0, 0, 0, 7, 0, 0, // forward: 7 packets of 12345 bytes
	0, 0, 0, 0, 1, 5, 0, 0, // reverse: 5 of 1<<32
	10, 0, 0, 1, // src
	10, 0, 0, 2, // dst
	0x9c, 0x40, // sport: 40000, network order
	0x15, 0x38, // dport: 5432, network order
	11, 0, 0, 0, // endpoint
	1, 0, 0, 0, // connections
	8, 0, 0, 0, // live_revision
	9, 0, 0, 0, // staged_revision
	1,    // judged: live verdict: allow
	2,    // live reason: rule
	2,    // staged verdict: deny
	3,    // staged reason: default
	6,    // protocol
	2,    // event: verdict
	2,    // direction: egress
	2,    // outcome: audited
	0x1b, // forward_flags
	0x12, // reverse_flags
	1,    // answered
	2,    // told: of the staged slot
}

func TestDecodeRecord(t *testing.T) {
	want := flow.Record{
		Key: flow.Key{
			Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"),
			SourcePort: 40000, DestinationPort: 5432, Protocol: flow.TCP,
		},
		Event: flow.EventVerdict, Direction: flow.Egress,
		Time: time.Unix(101, 0), FirstSeen: time.Unix(100, 500_000_000),
		Endpoint: 11, Connections: 1,
		Forward: flow.Counters{Packets: 7, Bytes: 12345}, Reverse: flow.Counters{Packets: 5, Bytes: 1 << 32},
		ForwardFlags: 0x1b, ReverseFlags: 0x12,
		Answered: true, StagedNew: true,
		Live:    flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonRule, Revision: 8},
		Staged:  flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 9},
		Outcome: flow.OutcomeAudited,
	}
	for name, b := range map[string][]byte{"long": annotated, "IPv4": annotated4} {
		raw, err := decodeRecord(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := raw.record(clock{offset: int64(100 * time.Second)})
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s record (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	const event, direction, outcome = 1, 2, 3 // after the protocol
	for _, form := range []struct {
		name                                                      string
		record                                                    []byte
		protocol                                                  int // where it is
		liveVerdict, liveReason, stagedVerdict, stagedReason, end int
	}{
		{"long", annotated, 100, 104, 105, 106, 107, 112},
		{"IPv4", annotated4, 64, 60, 61, 62, 63, 72},
	} {
		for _, c := range []struct {
			name   string
			change func(b []byte) []byte
		}{
			{"nothing", func([]byte) []byte { return nil }},
			{"one byte too few", func(b []byte) []byte { return b[:form.end-1] }},
			{"one byte too many", func(b []byte) []byte { return append(b, 0) }},
			{"no event", func(b []byte) []byte { b[form.protocol+event] = 0; return b }},
			{"unknown event", func(b []byte) []byte { b[form.protocol+event] = 5; return b }},
			{"unknown direction", func(b []byte) []byte { b[form.protocol+direction] = 3; return b }},
			{"unknown outcome", func(b []byte) []byte { b[form.protocol+outcome] = 4; return b }},
			{"unknown live verdict", func(b []byte) []byte { b[form.liveVerdict] = 3; return b }},
			{"unknown live reason", func(b []byte) []byte { b[form.liveReason] = 11; return b }},
			{"unknown staged verdict", func(b []byte) []byte { b[form.stagedVerdict] = 3; return b }},
			{"unknown staged reason", func(b []byte) []byte { b[form.stagedReason] = 11; return b }},
		} {
			t.Run(form.name+", "+c.name, func(t *testing.T) {
				if r, err := decodeRecord(c.change(append([]byte(nil), form.record...))); err == nil {
					t.Errorf("decoded %+v", r)
				}
			})
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(annotated)
	f.Add(annotated4)
	f.Add(annotated[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, err := decodeRecord(b)
		if err == nil && len(b) != recordSize && len(b) != record4Size {
			t.Fatalf("decoded %d bytes", len(b))
		}
		if err != nil {
			return
		}
		r := raw.record(clock{})
		if !r.Source.IsValid() || r.Source.Is4In6() || r.Outcome > flow.OutcomeDropped || r.Live.Reason > flow.ReasonPending {
			t.Fatalf("record out of range: %+v", r)
		}
	})
}
