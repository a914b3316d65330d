package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/bench/store/estate"
)

const (
	kept       = 90 * 24 * time.Hour // the time that flows are spread over
	loadBatch  = 100_000
	layer      = 5_000_000 // is loaded at once, and not again when a run is broken off later
	manyEdges  = 5_000_000 // a limit that is none
	drawn      = 20        // workloads whose edges are asked for
	warmRounds = 7
	coldRounds = 3
	// bytesPerLoaded is what a loaded flow takes of the disk at most, parts that
	// are being merged included.
	bytesPerLoaded = 100
)

// size is how many flows there are, all in all.
type size struct {
	name  string
	flows int
}

var sizes = []size{{"1m", 1_000_000}, {"10m", 10_000_000}, {"100m", 100_000_000}}

// Stored is what the tables hold at one size.
type Stored struct {
	Edges      int              `json:"edges"` // distinct ones
	LoadPerS   float64          `json:"load_per_s"`
	SettleS    float64          `json:"settle_s"`
	Tables     map[string]Table `json:"tables"`
	TotalsMS   *float64         `json:"totals_ms"` // Store.Summary
	AllColdMS  *float64         `json:"all_cold_ms"`
	OneColdMS  *float64         `json:"one_cold_ms"`
	OneWorstMS *float64         `json:"one_worst_ms"` // of the drawn workloads
}

// summary loads flows and asks for edges, at each size.
func summary(ctx context.Context, s *site, r *Report) (err error) {
	wanted := sizes
	if s.quick {
		wanted = sizes[:2]
	}
	dir := s.dir
	if dir == "" {
		dir = filepath.Join(s.temp, "summary")
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	note, err := readNote(dir)
	if err != nil {
		return err
	}
	if left := wanted[len(wanted)-1].flows - note.Flows; left > 0 {
		if err := room(dir, uint64(left)*bytesPerLoaded); err != nil {
			return err
		}
	}
	for _, size := range wanted {
		if size.flows < note.Flows {
			continue // the directory held more from the start
		}
		if err := s.at(ctx, r, dir, &note, size); err != nil {
			return fmt.Errorf("%s flows: %w", size.name, err)
		}
	}
	return nil
}

// note says what a directory holds.
type note struct {
	Flows int       `json:"flows"`
	End   time.Time `json:"end"` // of the time they are spread over
	Seed  uint64    `json:"seed"`
}

const noteName = "bench.json"

func readNote(dir string) (n note, err error) {
	b, err := os.ReadFile(filepath.Join(dir, noteName))
	if errors.Is(err, os.ErrNotExist) {
		if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
			return n, errors.Join(err, fmt.Errorf("%s holds something else: remove it, or give another -data", dir))
		}
		n = note{End: time.Now().UTC().Truncate(time.Hour), Seed: seed}
		return n, report.Write(n, filepath.Join(dir, noteName))
	}
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err == nil && n.Seed != seed {
		err = fmt.Errorf("it was made with seed %d: remove %s", n.Seed, dir)
	}
	if err != nil {
		return n, fmt.Errorf("read %s: %w", noteName, err)
	}
	return n, nil
}

// at brings the store to a size and measures.
func (s *site) at(ctx context.Context, r *Report, dir string, n *note, size size) (err error) {
	data := filepath.Join(dir, "engine")
	e, err := s.start(ctx, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(ctx)) }()
	out := &Stored{}
	r.Stored[size.name] = out
	if more := size.flows - n.Flows; more > 0 {
		begin := time.Now()
		for n.Flows < size.flows {
			if err := s.load(ctx, e, n, min(layer, size.flows-n.Flows)); err != nil {
				return err
			}
			if err := report.Write(n, filepath.Join(dir, noteName)); err != nil {
				return err
			}
		}
		out.LoadPerS = float64(int(float64(more) / time.Since(begin).Seconds()))
		begin = time.Now()
		if err := e.settle(ctx); err != nil {
			return err
		}
		out.SettleS = report.Round(time.Since(begin).Seconds())
	}
	if out.Tables, err = e.tables(ctx); err != nil {
		return err
	}
	a := &asker{s: s, r: r, size: size, out: out, workloads: s.draw()}
	if err := a.warm(ctx, e.store); err != nil {
		return err
	}
	for range coldRounds {
		if err := e.stop(ctx); err != nil {
			return err
		}
		if err := chill(data); err != nil {
			return err
		}
		fresh, err := s.start(ctx, data)
		if err != nil {
			return err
		}
		*e = *fresh
		a.cold(ctx, e.store)
	}
	a.conclude()
	return nil
}

// draw chooses workloads to ask about, always the same ones.
func (s *site) draw() []flow.Workload {
	r := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // not for secrets
	all := s.estate.Workloads()
	var out []flow.Workload
	for _, i := range r.Perm(len(all))[:drawn] {
		out = append(out, all[i])
	}
	return out
}

// load inserts that many rows more, spread over all of the time. One that was
// broken off inserts the same again, under the same tokens.
func (s *site) load(ctx context.Context, e *engine, n *note, more int) error {
	stream := s.estate.Stream(estate.StreamConfig{
		Seed: uint64(n.Flows) + 1, Node: estate.Everywhere, Start: n.End.Add(-kept), //nolint:gosec // a count
		Rows: float64(more) / (kept.Hours() / 24),
	})
	free, full := make(chan []flow.Labelled, s.writers+1), make(chan *batch)
	for range s.writers + 1 {
		free <- make([]flow.Labelled, loadBatch)
	}
	begin := time.Now()
	g, loading := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(full)
		for i := 0; i < more; i += loadBatch {
			b := &batch{number: n.Flows + i, rows: <-free}
			b.rows = b.rows[:min(loadBatch, more-i)]
			stream.Fill(b.rows)
			s.progress("load: %.1f million flows, %.0f a second, %s", float64(n.Flows+i)/1e6,
				float64(i)/time.Since(begin).Seconds(), stream.Now().Format(time.DateOnly))
			select {
			case full <- b:
			case <-loading.Done():
				return nil
			}
		}
		return nil
	})
	for range s.writers {
		g.Go(func() error {
			for b := range full {
				if err := e.store.InsertFlows(loading, fmt.Sprintf("load/%d", b.number), b.rows); err != nil {
					return err
				}
				free <- b.rows[:loadBatch]
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	n.Flows += more
	tables, err := e.tables(ctx)
	if err == nil && tables["flows"].Rows != uint64(n.Flows) { //nolint:gosec // a count
		err = fmt.Errorf("%d flows are stored, %d were sent", tables["flows"].Rows, n.Flows)
	}
	return err
}

// asker asks one store of one size.
type asker struct {
	s         *site
	r         *Report
	size      size
	out       *Stored
	workloads []flow.Workload

	coldAll, coldOne []float64
	failed           bool
}

// timed returns how long fn takes, in ms. An error is noted: the figure is missing then.
func (a *asker) timed(what string, fn func() error) (ms float64, ok bool) {
	begin := time.Now()
	if err := fn(); err != nil {
		a.failed = true
		a.r.Remarks = append(a.r.Remarks, fmt.Sprintf("%s of %s flows: %v", what, a.size.name, err))
		return 0, false
	}
	return float64(time.Since(begin).Microseconds()) / 1000, true
}

func (a *asker) all(ctx context.Context, st *store.Store) (float64, bool) {
	return a.timed("all edges", func() error {
		edges, err := st.Edges(ctx, store.EdgeFilter{Limit: manyEdges})
		a.out.Edges = len(edges)
		return err
	})
}

func (a *asker) one(ctx context.Context, st *store.Store, w flow.Workload) (float64, bool) {
	return a.timed("edges of "+w.String(), func() error {
		_, err := st.Edges(ctx, store.EdgeFilter{Workload: &w, Limit: manyEdges})
		return err
	})
}

// rounds repeats a question and notes the samples.
func (a *asker) rounds(name string, ask func() (float64, bool)) *float64 {
	var samples []float64
	for range warmRounds {
		ms, ok := ask()
		if !ok {
			return nil
		}
		samples = append(samples, ms)
		a.s.progress("%s of %s flows: %.0f ms", name, a.size.name, ms)
	}
	return new(a.r.Series.Add(fmt.Sprintf("summary_ms.%s_%s", name, a.size.name), samples).Q1)
}

func (a *asker) warm(ctx context.Context, st *store.Store) error {
	a.r.SummaryMS["all_"+a.size.name] = a.rounds("all", func() (float64, bool) { return a.all(ctx, st) })
	a.out.TotalsMS = a.rounds("totals", func() (float64, bool) {
		return a.timed("totals", func() error { _, err := st.Summary(ctx); return err })
	})
	var each []float64
	for _, w := range a.workloads {
		var samples []float64
		for range warmRounds {
			ms, ok := a.one(ctx, st, w)
			if !ok {
				return ctx.Err()
			}
			samples = append(samples, ms)
		}
		each = append(each, report.Sum(samples).Q1)
	}
	of := a.r.Series.Add("summary_ms.one_"+a.size.name, each)
	a.r.SummaryMS["one_"+a.size.name], a.out.OneWorstMS = &of.Median, &of.Max
	return ctx.Err()
}

// cold asks a store that was just started, and knows nothing yet.
func (a *asker) cold(ctx context.Context, st *store.Store) {
	if a.failed {
		return
	}
	first := len(a.coldAll) % len(a.workloads)
	if ms, ok := a.one(ctx, st, a.workloads[first]); ok {
		a.coldOne = append(a.coldOne, ms)
	}
	if ms, ok := a.all(ctx, st); ok {
		a.coldAll = append(a.coldAll, ms)
	}
}

func (a *asker) conclude() {
	for name, c := range map[string]struct {
		samples []float64
		out     **float64
	}{"all": {a.coldAll, &a.out.AllColdMS}, "one": {a.coldOne, &a.out.OneColdMS}} {
		if len(c.samples) > 0 {
			*c.out = new(a.r.Series.Add(fmt.Sprintf("summary_ms.%s_cold_%s", name, a.size.name), slices.Clone(c.samples)).Median)
		}
	}
}
