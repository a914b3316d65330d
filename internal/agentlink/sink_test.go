package agentlink

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// records is a Records that keeps what it is given.
type records struct {
	mu       sync.Mutex
	err      error
	batches  []spool.Batch
	coverage []flow.Coverage
	nodes    []string
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)

func (r *records) Take(_ context.Context, node string, b spool.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.nodes, r.batches = append(r.nodes, node), append(r.batches, b)
	return nil
}

func (r *records) TakeCoverage(_ context.Context, node string, rows []flow.Coverage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.nodes, r.coverage = append(r.nodes, node), append(r.coverage, rows...)
	return nil
}

func (r *records) Clock(context.Context) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return noon, r.err
}

func (r *records) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// sinkTo returns a Sink to a server that takes records, nil for one that does not.
func sinkTo(t *testing.T, path string, r Records, change func(*ClientConfig)) *Sink {
	t.Helper()
	serve(t, path, newStore(), func(c *Config) { c.Records = r })
	s, err := client(t, path, change).Sink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// rows are n records of one node, each between parties of its own.
func rows(n int, labels string) []flow.Labelled {
	out := make([]flow.Labelled, n)
	party := func(i int, what string) *flow.Party {
		return &flow.Party{
			Workload: flow.Workload{Namespace: "shop", Kind: "Deployment", Name: fmt.Sprint("checkout-service-", i)},
			Endpoint: fmt.Sprint("checkout-service-6f7d9c5b44-", what, i), Labels: labels, Identity: 300,
		}
	}
	for i := range out {
		out[i] = flow.Labelled{
			Record: flow.Record{
				Key: flow.Key{
					Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("fd00::2"), SourcePort: uint16(i), DestinationPort: 80, Protocol: flow.TCP,
				},
				Event: flow.EventEnd, Direction: flow.Egress, Time: noon, FirstSeen: noon.Add(-time.Hour), Endpoint: 4_000_000_000, Connections: 1,
				Forward: flow.Counters{Packets: 1 << 40, Bytes: 1 << 50}, Reverse: flow.Counters{Packets: 1 << 40, Bytes: 1 << 50},
				Live: flow.Judgement{Revision: 1 << 20}, Staged: flow.Judgement{Revision: 1 << 20},
			},
			Node: "node-1", Observer: party(i, "o"), Source: party(i, "s"), Dest: party(i, "d"),
		}
	}
	return out
}

func TestRecordsReachTheServer(t *testing.T) {
	r := &records{}
	s := sinkTo(t, socket(t), r, nil)
	sent := rows(3, "app=checkout")
	if err := s.InsertFlows(t.Context(), "node-1/7", sent); err != nil {
		t.Fatal(err)
	}
	coverage := []flow.Coverage{
		{Node: "node-1", Start: noon.Add(-time.Second), End: noon, Records: 1 << 60, Skew: -time.Nanosecond, Endpoints: 3, Started: true},
		{Kind: flow.CoverageAttach, Node: "node-1", Start: noon, End: noon, Endpoint: "cart-1", Lost: 1, Delayed: 2, Dropped: 3, Spooled: 4},
	}
	if err := s.InsertCoverage(t.Context(), coverage); err != nil {
		t.Fatal(err)
	}
	if at, err := s.Clock(t.Context()); err != nil || !at.Equal(noon) {
		t.Errorf("the clock says %s, %v", at, err)
	}
	if diff := cmp.Diff(coverage, r.coverage); diff != "" {
		t.Error(diff)
	}
	if len(r.batches) != 1 || r.batches[0].Token != "node-1/7" {
		t.Fatalf("got %+v", r.batches)
	}
	if !reflect.DeepEqual(sent, r.batches[0].Rows) {
		t.Errorf("got %+v, sent %+v", r.batches[0].Rows, sent)
	}
	if diff := cmp.Diff([]string{"node-1", "node-1"}, r.nodes); diff != "" {
		t.Error(diff)
	}
}

// No error that passes may look like one that does not: the batch would be given
// up. One that does not pass must be told, or it would be sent for ever.
func TestRefusalsAreToldApart(t *testing.T) {
	r := &records{}
	s := sinkTo(t, socket(t), r, nil)
	for _, c := range []struct {
		name    string
		err     error
		refused bool
	}{
		{"no room", errors.New("the spool is full"), false},
		{"wrong", fmt.Errorf("take: %w", &RefusedError{Why: "a row is of node-2"}), true},
		{"given up", context.DeadlineExceeded, false},
	} {
		r.refuse(c.err)
		for what, err := range map[string]error{
			"flows": s.InsertFlows(t.Context(), "t", rows(1, "")), "coverage": s.InsertCoverage(t.Context(), []flow.Coverage{{Node: "node-1"}}),
		} {
			if refused, ok := errors.AsType[*RefusedError](err); err == nil || ok != c.refused || ok && !refused.Refused() || !strings.Contains(err.Error(), c.err.Error()) {
				t.Errorf("%s, %s: %v", c.name, what, err)
			}
		}
	}
	if _, err := s.Clock(t.Context()); err == nil {
		t.Error("a clock that cannot be asked has a time")
	}
}

func TestServerRefusesBadRecords(t *testing.T) {
	r := &records{}
	s := sinkTo(t, socket(t), r, nil)
	good := spool.Encode(nil, spool.Batch{Token: "t", Rows: rows(2, "")})
	batch := func(node string, raw []byte) *linkpb.FlowBatch {
		sum := sha256.Sum256(raw)
		return &linkpb.FlowBatch{Node: node, Batch: raw, Sha256: sum[:]}
	}
	damaged := batch("node-1", good)
	damaged.Sha256 = damaged.Sha256[:31]
	for _, c := range []struct {
		name  string
		batch *linkpb.FlowBatch
		code  codes.Code
		want  string
	}{
		{"no node", batch("", good), codes.InvalidArgument, "the node's name is missing"},
		{"nothing", &linkpb.FlowBatch{Node: "node-1"}, codes.DataLoss, "does not match its digest"},
		{"changed on its way", damaged, codes.DataLoss, "does not match its digest"},
		{"cut", batch("node-1", good[:len(good)-1]), codes.InvalidArgument, "decode batch"},
		{"of an unknown format", batch("node-1", append([]byte{99}, good[1:]...)), codes.InvalidArgument, "format 99 is not known"},
	} {
		if _, err := s.link.StoreFlows(withToken(t.Context(), token), c.batch); status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name string
		rows *linkpb.CoverageRows
		code codes.Code
	}{
		{"no node", &linkpb.CoverageRows{Rows: document("[]", nil)}, codes.InvalidArgument},
		{"nothing", &linkpb.CoverageRows{Node: "node-1"}, codes.DataLoss},
		{"an unknown field", &linkpb.CoverageRows{Node: "node-1", Rows: document(`[{"Node":"node-1","Missed":3}]`, nil)}, codes.InvalidArgument},
		{"cut", &linkpb.CoverageRows{Node: "node-1", Rows: document(`[{"Node":`, nil)}, codes.InvalidArgument},
	} {
		if _, err := s.link.StoreCoverage(withToken(t.Context(), token), c.rows); status.Code(err) != c.code {
			t.Errorf("coverage, %s: %v", c.name, err)
		}
	}
	if len(r.batches)+len(r.coverage) != 0 {
		t.Errorf("taken: %+v %+v", r.batches, r.coverage)
	}
	if _, err := s.link.StoreFlows(t.Context(), batch("node-1", good)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
}

func TestServerThatTakesNoRecords(t *testing.T) {
	s := sinkTo(t, socket(t), nil, nil)
	_, clock := s.Clock(t.Context())
	for what, err := range map[string]error{
		"flows": s.InsertFlows(t.Context(), "t", rows(1, "")), "coverage": s.InsertCoverage(t.Context(), nil), "clock": clock,
	} {
		if _, refused := errors.AsType[*RefusedError](err); err == nil || refused || !strings.Contains(err.Error(), "start it with --gather") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The most that a collector sends at once are two batches and a read of the
// ring, 48,191 records. They fit with parties of their own and long labels.
func TestLargestBatchFits(t *testing.T) {
	r := &records{}
	s := sinkTo(t, socket(t), r, nil)
	if err := s.InsertFlows(t.Context(), "t", rows(48_191, strings.Repeat("x", 300))); err != nil {
		t.Fatal(err)
	}
	if n := len(r.batches[0].Rows); n != 48_191 {
		t.Errorf("%d records arrived", n)
	}
	err := s.InsertFlows(t.Context(), "t", rows(48_191, strings.Repeat("x", 600)))
	if _, refused := errors.AsType[*RefusedError](err); !refused || !strings.Contains(err.Error(), "hand 48191 records over") {
		t.Errorf("one that does not fit: %v", err)
	}
}

// A Sink finds a server that was started again, whatever became of Run.
func TestSinkOutlivesServer(t *testing.T) {
	path, r := socket(t), &records{}
	c := client(t, path, nil)
	s, err := c.Sink()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	if err := s.InsertFlows(t.Context(), "t", rows(1, "")); err == nil {
		t.Error("stored by nobody")
	}
	for range 3 {
		stop := serve(t, path, newStore(), func(c *Config) { c.Records = r })
		await(t, func() bool { return s.InsertFlows(t.Context(), "t", rows(1, "")) == nil })
		stop()
	}
	if len(r.batches) != 3 {
		t.Errorf("%d batches arrived", len(r.batches))
	}
}
