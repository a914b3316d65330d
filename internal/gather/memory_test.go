package gather

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// memory is a store that keeps one copy of what has one token, and of the same
// rows of coverage. It outlives gatherers.
type memory struct {
	mu       sync.Mutex
	flows    map[string][]flow.Labelled
	blocks   []string // of coverage
	coverage []flow.Coverage
	inserts  int
	refuse   bool // every insert
	lose     bool // every answer
	told     chan struct{}
}

func newMemory() *memory {
	return &memory{flows: map[string][]flow.Labelled{}, told: make(chan struct{}, 100_000)}
}

var errAway = errors.New("the store is away")

func (m *memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *memory) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	return m.insert(ctx, func() {
		if _, ok := m.flows[token]; !ok {
			m.flows[token] = slices.Clone(rows)
		}
	})
}

func (m *memory) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	return m.insert(ctx, func() {
		if block := call(rows).name(); !slices.Contains(m.blocks, block) {
			m.blocks = append(m.blocks, block)
			m.coverage = append(m.coverage, rows...)
		}
	})
}

func (m *memory) insert(ctx context.Context, put func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.told <- struct{}{} }()
	m.inserts++
	if m.refuse {
		return errAway
	}
	put()
	if m.lose {
		return errAway
	}
	return nil
}

// counts returns how many copies of each batch there are, by node and number.
func (m *memory) counts() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, rows := range m.flows {
		for i := range rows {
			out[fmt.Sprintf("%s/%d", rows[i].Node, rows[i].SourcePort)]++
		}
	}
	return out
}

// forget makes the store take what it has again, as after too many other inserts.
func (m *memory) forget() {
	flows := map[string][]flow.Labelled{}
	for token, rows := range m.flows {
		flows["before "+token] = rows
	}
	m.flows, m.blocks = flows, nil
}

func (m *memory) groups() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.flows)
}

// dropped returns the rows that tell of losses, without the others.
func (m *memory) dropped() (out []flow.Coverage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.coverage {
		if c.Kind == flow.CoverageDropped {
			out = append(out, c)
		}
	}
	return out
}

const rowsOfABatch = 3

// batch returns node's batch of number i, which begins where the one before ends.
func batch(node string, i int) spool.Batch {
	t := tokenOf(node, 0xabc, uint64(100*i), uint64(100*i+100))
	b := spool.Batch{Token: t.String()}
	p := &flow.Party{Workload: flow.Workload{Namespace: "shop", Kind: "Deployment", Name: node}, Endpoint: node + "-0", Identity: 7}
	for j := range rowsOfABatch {
		b.Rows = append(b.Rows, flow.Labelled{
			Node: node, Observer: p, Source: p, Dest: flow.Nobody,
			Record: flow.Record{
				Key: flow.Key{
					Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("2001:db8::1"),
					SourcePort: uint16(i), DestinationPort: 443, Protocol: flow.TCP,
				},
				Time: time.Now().UTC().Add(-time.Duration(j) * time.Second), Outcome: flow.OutcomeForwarded, Connections: 1,
				Direction: flow.Egress, Event: flow.EventEnd, Forward: flow.Counters{Packets: 1, Bytes: 100},
			},
		})
	}
	return b
}

// heartbeat is that of node with number i.
func heartbeat(node string, i int) []flow.Coverage {
	return []flow.Coverage{{
		Node: node, Start: t0.Add(time.Duration(i) * time.Second), End: t0.Add(time.Duration(i+1) * time.Second), Records: uint64(i), Endpoints: 1,
	}}
}

// running is a gatherer that runs.
type running struct {
	*Gatherer
	t    *testing.T
	stop func() // and wait until it has ended
}

// quick are times for tests that do not test them.
func quick(dir string) Config {
	return Config{Dir: dir, GroupAge: 2 * time.Millisecond, DenialAge: time.Millisecond, MinPause: time.Millisecond, MaxPause: 5 * time.Millisecond}
}

func run(t *testing.T, cfg Config, sink Sink, change ...func(*Gatherer)) *running {
	t.Helper()
	g, err := New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	r := &running{Gatherer: g, t: t}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	<-g.ready
	return r
}

func (r *running) take(node string, numbers ...int) {
	r.t.Helper()
	for _, i := range numbers {
		if err := r.Take(r.t.Context(), node, batch(node, i)); err != nil {
			r.t.Fatalf("%s/%d: %v", node, i, err)
		}
	}
}

// empty waits until everything is stored.
func (r *running) empty(m *memory) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for r.Level().Groups > 0 {
		select {
		case <-m.told:
		case <-time.After(time.Millisecond): // between an insert's end and the group's
		case <-deadline:
			r.t.Fatalf("not stored: %+v, %v", r.Level(), r.Problem())
		}
	}
}

// once fails unless the store has one copy of what is named, and nothing else.
func (m *memory) once(t *testing.T, want map[string][]int) {
	t.Helper()
	got := m.counts()
	n := 0
	for node, numbers := range want {
		for _, i := range numbers {
			n++
			if got[fmt.Sprintf("%s/%d", node, i)] != rowsOfABatch {
				t.Errorf("batch %s/%d has %d records stored, want %d", node, i, got[fmt.Sprintf("%s/%d", node, i)], rowsOfABatch)
			}
		}
	}
	if len(got) != n {
		t.Errorf("stored: %v; want only %v", got, want)
	}
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
