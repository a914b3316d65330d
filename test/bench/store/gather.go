package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/agentlink"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/gather"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/bench/store/estate"
)

// Gather is what many agents with little to tell cost, straight and gathered.
type Gather struct {
	BatchesPerS       float64 `json:"batches_per_s"`        // gathered, until all were stored
	DirectBatchesPerS float64 `json:"direct_batches_per_s"` // each an insert of its own
	InsertsPerS       float64 `json:"inserts_per_s"`        // that the engine got of those gathered
	RoundsPerS        float64 `json:"rounds_per_s"`         // the same with heartbeats
	DirectRoundsPerS  float64 `json:"direct_rounds_per_s"`
	Agents            int     `json:"agents"`        // gathered; direct are as many as the engine takes
	Records           int     `json:"batch_records"` // of a batch
	MostWaiting       int64   `json:"waiting_bytes"` // on the gatherer's disk, at most
}

const (
	smallBatch = 20
	// roundLength is the time that a batch and its heartbeats are of.
	roundLength = 10 * time.Second
	// heartbeats is how many an agent sends meanwhile.
	heartbeats = 2
	// gatherAgents have more records at once than a group, or they would wait for
	// the group's age and nothing else.
	gatherAgents = 4000
	// directAgents is what the embedded engine takes: it answers 100 queries at a
	// time, and an agent may have two.
	directAgents = 45
)

// teller is an agent with little to tell.
type teller struct {
	node  string
	rows  []flow.Labelled
	since time.Time
	lap   uint64
}

func (s *site) tellers(n int, what string) []*teller {
	start := time.Now().Add(-time.Hour)
	out := make([]*teller, n)
	for i := range out {
		t := &teller{node: fmt.Sprintf("%s-%d", what, i), rows: make([]flow.Labelled, smallBatch), since: start}
		s.estate.Stream(estate.StreamConfig{Node: i % s.estate.Nodes(), Start: start, Rows: 86_400 * smallBatch / 10, Steady: true}).Fill(t.rows)
		for j := range t.rows {
			t.rows[j].Node = t.node
		}
		out[i] = t
	}
	return out
}

// round hands over a batch, and beside it, one after the other, the heartbeats of
// its time.
func (t *teller) round(ctx context.Context, to collector.Sink, beats int) error {
	t.lap++
	for i := range t.rows {
		next(&t.rows[i].Record, time.Second)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		token := spool.Token{Node: t.node, Ring: 1, Start: t.lap, End: t.lap + 1, Sum: t.lap}
		return again(ctx, func() error { return to.InsertFlows(ctx, token.String(), t.rows) })
	})
	g.Go(func() error {
		for range beats {
			until := t.since.Add(roundLength / heartbeats)
			rows := []flow.Coverage{{Node: t.node, Start: t.since, End: until, Records: smallBatch / heartbeats, Endpoints: 5}}
			if err := again(ctx, func() error { return to.InsertCoverage(ctx, rows) }); err != nil {
				return err
			}
			t.since = until
		}
		return nil
	})
	return g.Wait()
}

// again tries until it succeeds, as an agent does.
func again(ctx context.Context, try func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, try() },
		backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxElapsedTime(time.Minute))
	return err
}

// rounds has all tellers go on for a while, each over its own way, and returns
// how many rounds they made.
func (s *site) rounds(ctx context.Context, what string, tellers []*teller, sinks []collector.Sink, beats int, during time.Duration) (uint64, error) {
	var done atomic.Uint64
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i, t := range tellers {
		g.Go(func() error {
			for time.Since(begin) < during {
				if err := t.round(ctx, sinks[i], beats); err != nil {
					return err
				}
				n := done.Add(1)
				s.progress("%s: %d batches, %.0f a second", what, n, float64(n)/time.Since(begin).Seconds())
			}
			return nil
		})
	}
	err := g.Wait()
	return done.Load(), err
}

func gathering(ctx context.Context, s *site, r *Report) (err error) {
	e, err := s.start(ctx, filepath.Join(s.temp, "gather"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(ctx)) }()
	out := &Gather{Agents: gatherAgents, Records: smallBatch}
	sent, err := e.straight(ctx, s, out)
	if err != nil {
		return err
	}
	more, err := e.gathered(ctx, s, out)
	if err != nil {
		return err
	}
	tables, err := e.tables(ctx)
	if err != nil {
		return err
	}
	if rows := tables["flows"].Rows; rows != smallBatch*(sent+more) {
		return fmt.Errorf("%d rows are stored, %d were sent", rows, smallBatch*(sent+more))
	}
	r.Gather = out
	return nil
}

// straight has agents insert as they do by themselves, each over a connection of
// its own.
func (e *engine) straight(ctx context.Context, s *site, out *Gather) (batches uint64, err error) {
	sinks := make([]collector.Sink, directAgents)
	c := e.Credentials()
	for i := range sinks {
		st, err := store.Open(ctx, store.Config{
			Addrs: []string{c.Addr}, User: c.User, Password: c.Password, Database: database, Retention: store.Retention{Flows: retention, Hours: retention},
		})
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, st.Close()) }()
		sinks[i] = st
	}
	tellers := s.tellers(directAgents, "direct")
	for _, p := range []struct {
		beats int
		per   *float64
	}{{0, &out.DirectBatchesPerS}, {heartbeats, &out.DirectRoundsPerS}} {
		begin := time.Now()
		n, err := s.rounds(ctx, "direct", tellers, sinks, p.beats, s.seconds/4)
		if err != nil {
			return 0, err
		}
		*p.per = report.Round(float64(n) / time.Since(begin).Seconds())
		batches += n
	}
	return batches, nil
}

// gathered has them hand the same to a gatherer, over the link.
func (e *engine) gathered(ctx context.Context, s *site, out *Gather) (batches uint64, err error) {
	dir := filepath.Join(s.temp, "link")
	g, err := gather.New(gather.Config{Dir: filepath.Join(s.temp, "groups")}, e.store)
	if err != nil {
		return 0, err
	}
	const token = "of-this-benchmark-alone"
	srv, err := agentlink.New(agentlink.Config{Token: token, Records: gatherer{g, e.store}}, nil)
	if err != nil {
		return 0, err
	}
	lis, err := agentlink.Listen(ctx, filepath.Join(dir, "sock"))
	if err != nil {
		return 0, err
	}
	serving, stop := context.WithCancel(ctx)
	var both errgroup.Group
	both.Go(func() error { return g.Run(serving) })
	both.Go(func() error { return srv.Serve(serving, lis) })
	defer func() {
		stop()
		err = errors.Join(err, both.Wait())
	}()
	tellers := s.tellers(gatherAgents, "gathered")
	sinks := make([]collector.Sink, gatherAgents)
	for i, t := range tellers {
		link, err := agentlink.NewClient(agentlink.ClientConfig{Address: "unix://" + lis.Addr().String(), Token: token, Node: t.node})
		if err != nil {
			return 0, err
		}
		k, err := link.Sink()
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, k.Close()) }()
		sinks[i] = k
	}
	for _, p := range []struct {
		beats        int
		per, inserts *float64
	}{{0, &out.BatchesPerS, &out.InsertsPerS}, {heartbeats, &out.RoundsPerS, nil}} {
		before, err := e.inserts(ctx)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		n, err := s.rounds(ctx, "gathered", tellers, sinks, p.beats, s.seconds/4)
		if err != nil {
			return 0, err
		}
		for g.Level().Groups > 0 {
			out.MostWaiting = max(out.MostWaiting, g.Level().Bytes)
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(10 * time.Millisecond): // nothing tells of it
			}
		}
		took := time.Since(begin).Seconds()
		after, err := e.inserts(ctx)
		if err != nil {
			return 0, err
		}
		*p.per = report.Round(float64(n) / took)
		if p.inserts != nil {
			*p.inserts = report.Round(float64(after-before) / took)
		}
		batches += n
	}
	return batches, nil
}

// inserts is how many the engine got since it was started.
func (e *engine) inserts(ctx context.Context) (uint64, error) {
	return e.number(ctx, "SELECT sum(value) FROM system.events WHERE event = 'InsertQuery'")
}

// gatherer is what agents speak to.
type gatherer struct {
	*gather.Gatherer
	*store.Store
}

// Clock returns the store's time.
func (g gatherer) Clock(ctx context.Context) (time.Time, error) { return g.Store.Clock(ctx) }
