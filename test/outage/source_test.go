package outage

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// source is a ring that holds whatever it is given.
type source struct {
	mu        sync.Mutex
	records   []flow.Record // not yet committed
	first     uint64        // position of records[0]
	pos       uint64
	sent      uint64
	bytes     uint64 // of all that were sent
	available chan struct{}
}

func newSource() *source { return &source{available: make(chan struct{})} }

// send appends n records, all different, of ten edges in both families.
func (s *source) send(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for range n {
		s.sent++
		r := flow.Record{
			Key: flow.Key{
				Source: client[s.sent%2], Destination: server[s.sent%2], SourcePort: uint16(s.sent), DestinationPort: uint16(80 + s.sent/2%5),
				Protocol: flow.TCP,
			},
			Event: flow.EventEnd, Direction: flow.Egress, Time: now, FirstSeen: now.Add(-time.Second), Endpoint: 1,
			Connections: 1, Answered: true, Outcome: flow.OutcomeForwarded,
			Forward: flow.Counters{Packets: 3, Bytes: 100 + s.sent}, Reverse: flow.Counters{Packets: 2, Bytes: 200},
		}
		s.bytes += r.Forward.Bytes
		s.records = append(s.records, r)
	}
	close(s.available)
	s.available = make(chan struct{})
}

func (s *source) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

func (s *source) RingID() uint64 { return 7 }

func (s *source) Replay() (bpf.Batch, bool, error) { return bpf.Batch{}, false, nil }

func (s *source) Next(ctx context.Context) (bpf.Batch, error) {
	for {
		s.mu.Lock()
		end := min(s.first+uint64(len(s.records)), s.pos+2000)
		if end > s.pos {
			b := bpf.Batch{Start: s.pos, End: end, Records: s.records[s.pos-s.first : end-s.first]}
			for _, r := range b.Records {
				b.Sum += r.Forward.Bytes
			}
			s.pos = end
			s.mu.Unlock()
			return b, nil
		}
		available := s.available
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return bpf.Batch{Start: s.pos, End: s.pos}, ctx.Err()
		case <-available:
		}
	}
}

func (s *source) Intend(uint64, uint64) error { return nil }

func (s *source) Commit(end uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records, s.first = s.records[end-s.first:], end
	return nil
}

func (s *source) Sweep(context.Context) (bpf.SweepStats, error) { return bpf.SweepStats{}, nil }
func (s *source) Counters() (map[string]uint64, error)          { return map[string]uint64{}, nil }
func (s *source) CountersID() uint64                            { return 1 }
func (s *source) Attached() ([]bpf.Attached, error)             { return nil, nil }

var (
	client = [2]netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")}
	server = [2]netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::2")}
)
