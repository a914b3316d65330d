package collector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// ring is a ring buffer as bpf.Reader shows it: every record takes 8 positions.
// It outlives its readers.
type ring struct {
	mu       sync.Mutex
	id       uint64
	records  []flow.Record // from position 0 on
	consumed uint64
	start    uint64 // the intent
	end      uint64
	written  chan struct{}
	err      error
	most     uint64 // the largest number of records that were read and not committed
}

const width = 8

func newRing() *ring { return &ring{id: 0xabc, written: make(chan struct{})} }

func (r *ring) write(records ...flow.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, records...)
	close(r.written)
	r.written = make(chan struct{})
}

// readAhead returns the most records that were ever read and not committed.
func (r *ring) readAhead() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

func (r *ring) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records) - int(r.consumed/width)
}

// reader is one process's hold of the ring.
type reader struct {
	r         *ring
	pos       uint64
	truncated int // of the next batch
}

func (r *ring) reader() *reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &reader{r: r, pos: r.consumed}
}

func (x *reader) RingID() uint64 { return x.r.id }

func (x *reader) Replay() (bpf.Batch, bool, error) {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if x.r.end <= x.pos || x.r.start != x.pos {
		return bpf.Batch{}, false, nil
	}
	return x.take(x.r.end), true, nil
}

func (x *reader) take(end uint64) bpf.Batch {
	b := bpf.Batch{Start: x.pos, End: end, Records: slices.Clone(x.r.records[x.pos/width : end/width]), Truncated: x.truncated}
	for _, r := range b.Records {
		b.Sum += uint64(r.SourcePort)
	}
	x.pos, x.truncated = end, 0
	x.r.most = max(x.r.most, (end-x.r.consumed)/width)
	return b
}

func (x *reader) Next(ctx context.Context) (bpf.Batch, error) {
	for {
		x.r.mu.Lock()
		if x.r.err != nil {
			x.r.mu.Unlock()
			return bpf.Batch{}, x.r.err
		}
		if end := min(uint64(len(x.r.records))*width, x.pos+100*width); end > x.pos {
			b := x.take(end)
			x.r.mu.Unlock()
			return b, nil
		}
		written := x.r.written
		x.r.mu.Unlock()
		select {
		case <-ctx.Done():
			return bpf.Batch{Start: x.pos, End: x.pos}, ctx.Err()
		case <-written:
		}
	}
}

func (x *reader) Intend(start, end uint64) error {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if start != x.r.consumed || end <= start || end > x.pos {
		return errors.New("intend: not what was read")
	}
	x.r.start, x.r.end = start, end
	return nil
}

func (x *reader) Commit(end uint64) error {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if end < x.r.consumed || end > x.pos {
		return errors.New("commit: not what was read")
	}
	x.r.consumed = end
	return nil
}

// sink is a store that keeps one copy of a token.
type sink struct {
	mu       sync.Mutex
	flows    map[string][]flow.Labelled
	order    []string
	coverage []flow.Coverage
	inserts  int
	err      error // of every insert
	// lose makes inserts store and then fail, as when the answer is lost.
	lose   bool
	hang   bool
	takes  time.Duration // an insert
	behind time.Duration // its clock
	told   chan struct{} // after every insert
}

func newSink() *sink {
	return &sink{flows: map[string][]flow.Labelled{}, told: make(chan struct{}, 10000)}
}

func (s *sink) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *sink) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	s.mu.Lock()
	hang, takes := s.hang, s.takes
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
	}
	if takes > 0 {
		time.Sleep(takes)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.told <- struct{}{} }()
	s.inserts++
	if s.err != nil && !s.lose {
		return s.err
	}
	if _, ok := s.flows[token]; !ok {
		s.flows[token] = slices.Clone(rows)
		s.order = append(s.order, token)
	}
	return s.err
}

func (s *sink) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !s.lose {
		return s.err
	}
	for _, r := range rows {
		if !slices.Contains(s.coverage, r) {
			s.coverage = append(s.coverage, r)
		}
	}
	return s.err
}

func (s *sink) Clock(context.Context) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(-s.behind), s.err
}

func (s *sink) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inserts
}

// tokens returns those of the batches, in order.
func (s *sink) tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

func (s *sink) rows() []flow.Labelled {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []flow.Labelled
	for _, token := range s.order {
		out = append(out, s.flows[token]...)
	}
	return out
}

// datapath counts sweeps.
type datapath struct {
	mu       sync.Mutex
	sweeps   int
	err      error
	counters map[string]uint64
	id       uint64 // of the counters
	attached []bpf.Attached
}

// newDatapath watches every endpoint of the world on node-1.
func newDatapath() *datapath {
	d := &datapath{counters: map[string]uint64{}}
	for _, id := range []uint32{1, 2, 4} {
		d.attached = append(d.attached, bpf.Attached{Endpoint: bpf.Endpoint{ID: id}})
	}
	return d
}

func (d *datapath) Attached() ([]bpf.Attached, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.attached), d.err
}

func (d *datapath) CountersID() uint64 { return d.id }

func (d *datapath) Sweep(context.Context) (bpf.SweepStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweeps++
	return bpf.SweepStats{}, d.err
}

func (d *datapath) Counters() (map[string]uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]uint64{}
	for k, v := range d.counters {
		out[k] = v
	}
	return out, d.err
}
