package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/bench/store/estate"
)

// Ingest is what storing takes.
type Ingest struct {
	RecordsPerS      float64 `json:"records_per_s"`
	BytesPerFlow     float64 `json:"bytes_per_flow"`       // of the table of flows, merged
	EdgeBytesPerFlow float64 `json:"edge_bytes_per_flow"`  // of all other tables, beside
	MixedRecordsPerS float64 `json:"mixed_records_per_s"`  // each batch of all nodes
	ClientCPU        float64 `json:"client_cpu_s_per_10m"` // seconds for ten million records
	EngineCPU        float64 `json:"engine_cpu_s_per_10m"`
	SettleSeconds    float64 `json:"settle_s"` // of merging that was left when inserting ended
	Seconds          float64 `json:"seconds"`
	Records          uint64  `json:"records"`
	PartsAtEnd       uint64  `json:"parts_at_end"`

	Plain Plain `json:"plain"`

	Tables map[string]Table `json:"tables"` // merged
}

// Plain is the same with a table and a writer as anybody would make them first.
type Plain struct {
	RecordsPerS  float64 `json:"records_per_s"`
	BytesPerFlow float64 `json:"bytes_per_flow"`
}

// assumedRate is how many rows a second of the estate's clock has in ingest.
const assumedRate = 300_000

// load is batches to insert, again and again, each time as later ones.
type load struct {
	batches chan *batch
	lap     time.Duration // how much later
}

type batch struct {
	number, lap int
	rows        []flow.Labelled
	// records are what the rows are made of each time; nil for mixed ones.
	records []flow.Record
	labels  *collector.Labeller
}

// newLoad makes batches, each of one node's rows unless they are mixed.
func (s *site) newLoad(mixed bool) (*load, error) {
	index := inventory.NewIndex(s.estate.Inventory())
	n := s.estate.Nodes()
	l := &load{
		batches: make(chan *batch, n),
		lap:     time.Duration(float64(n*s.batch) / assumedRate * float64(time.Second)),
	}
	start := time.Now().Add(-time.Hour)
	everywhere := s.estate.Stream(estate.StreamConfig{Node: estate.Everywhere, Start: start, Rows: assumedRate * 86_400, Steady: true})
	for i := range n {
		from := everywhere
		if !mixed {
			from = s.estate.Stream(estate.StreamConfig{Node: i, Start: start, Rows: assumedRate * 86_400 / float64(n), Steady: true})
		}
		b := &batch{number: i, rows: make([]flow.Labelled, s.batch)}
		from.Fill(b.rows)
		if !mixed {
			if err := b.strip(index, s.estate.NodeName(i), start); err != nil {
				return nil, err
			}
		}
		l.batches <- b
	}
	return l, nil
}

// strip keeps only what the ring would hold of the rows.
func (b *batch) strip(index *inventory.Index, node string, since time.Time) error {
	owners, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: node})
	if err != nil {
		return err
	}
	owners.Learn(index, since)
	b.labels = collector.NewLabeller(node, owners)
	for i := range b.rows {
		b.records = append(b.records, b.rows[i].Record)
	}
	b.rows = nil
	return nil
}

// again makes a batch's rows later ones, of other connections, in a buffer.
func (b *batch) again(later time.Duration, buffer []flow.Labelled) []flow.Labelled {
	b.lap++
	if b.records == nil {
		for i := range b.rows {
			next(&b.rows[i].Record, later)
		}
		return b.rows
	}
	for i := range b.records {
		next(&b.records[i], later)
	}
	buffer, _ = b.labels.Label(buffer[:0], b.records)
	return buffer
}

func next(r *flow.Record, later time.Duration) {
	const first, count, step = 32768, 28232, 7919 // Linux's range of ports
	r.Time, r.FirstSeen = r.Time.Add(later), r.FirstSeen.Add(later)
	r.SourcePort = first + (r.SourcePort-first+step)%count
}

// insert is how a batch is stored.
type insert func(ctx context.Context, token string, rows []flow.Labelled) error

// run inserts for a while and returns the number of rows and the time taken.
func (l *load) run(ctx context.Context, s *site, what string, how insert, during time.Duration) (rows uint64, took time.Duration, err error) {
	var done atomic.Uint64
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range s.writers {
		g.Go(func() error {
			var buffer []flow.Labelled
			for time.Since(begin) < during {
				b := <-l.batches
				buffer = b.again(l.lap, buffer)
				if err := how(ctx, fmt.Sprintf("%s/%d/%d", what, b.number, b.lap), buffer); err != nil {
					return err
				}
				n := done.Add(uint64(len(buffer)))
				l.batches <- b
				s.progress("%s: %.1f million rows, %.0f a second", what, float64(n)/1e6, float64(n)/time.Since(begin).Seconds())
			}
			return nil
		})
	}
	err = g.Wait()
	return done.Load(), time.Since(begin), err
}

// ingestRoom is what ingest may take of the disk.
const ingestRoom = 4 << 30

func ingest(ctx context.Context, s *site, r *Report) (err error) {
	if err := room(s.temp, ingestRoom); err != nil {
		return err
	}
	out := &Ingest{}
	if err := s.plain(ctx, out); err != nil {
		return err
	}
	if err := s.mixed(ctx, out); err != nil {
		return err
	}
	e, err := s.start(ctx, filepath.Join(s.temp, "ingest"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(ctx)) }()
	l, err := s.newLoad(false)
	if err != nil {
		return err
	}
	before, err := e.cpu()
	if err != nil {
		return err
	}
	var took time.Duration
	if out.Records, took, err = l.run(ctx, s, "ingest", e.store.InsertFlows, s.seconds); err != nil {
		return err
	}
	after, err := e.cpu()
	if err != nil {
		return err
	}
	out.Seconds = report.Round(took.Seconds())
	out.RecordsPerS = float64(int(float64(out.Records) / took.Seconds()))
	out.ClientCPU = report.Round((after.own - before.own).Seconds() / float64(out.Records) * 1e7)
	out.EngineCPU = report.Round((after.engine - before.engine).Seconds() / float64(out.Records) * 1e7)
	if err := e.weigh(ctx, out); err != nil {
		return err
	}
	r.Ingest = out
	return nil
}

// mixed inserts batches of rows of all nodes, as a gateway would.
func (s *site) mixed(ctx context.Context, out *Ingest) (err error) {
	e, err := s.start(ctx, filepath.Join(s.temp, "mixed"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(ctx)) }()
	l, err := s.newLoad(true)
	if err != nil {
		return err
	}
	n, took, err := l.run(ctx, s, "mixed", e.store.InsertFlows, s.seconds/3)
	out.MixedRecordsPerS = float64(int(float64(n) / took.Seconds()))
	return err
}

// weigh waits for merges and looks at what is on disk.
func (e *engine) weigh(ctx context.Context, out *Ingest) error {
	tables, err := e.tables(ctx)
	if err != nil {
		return err
	}
	out.PartsAtEnd = tables["flows"].Parts
	begin := time.Now()
	if err := e.settle(ctx); err != nil {
		return err
	}
	out.SettleSeconds = report.Round(time.Since(begin).Seconds())
	if err := e.merged(ctx); err != nil {
		return err
	}
	if out.Tables, err = e.tables(ctx); err != nil {
		return err
	}
	flows := out.Tables["flows"]
	if flows.Rows != out.Records {
		return fmt.Errorf("%d rows are stored, %d were sent", flows.Rows, out.Records)
	}
	out.BytesPerFlow = report.Round(float64(flows.Bytes) / float64(flows.Rows))
	var beside uint64
	for name, t := range out.Tables {
		if name != "flows" {
			beside += t.Bytes
		}
	}
	out.EdgeBytesPerFlow = report.Round(float64(beside) / float64(flows.Rows))
	return nil
}

// used is CPU time.
type used struct{ own, engine time.Duration }

func (e *engine) cpu() (u used, err error) {
	var err1, err2 error
	u.own, err1 = ownCPU()
	u.engine, err2 = processCPU(e.PID())
	return u, errors.Join(err1, err2)
}
