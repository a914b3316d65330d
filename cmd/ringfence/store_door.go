package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/store"
)

// storeDoor is the store as the analyzer, the API and the control store ask it,
// and the way there for what is gathered. The store behind it changes when the
// embedded engine is started again.
type storeDoor struct {
	now     atomic.Pointer[store.Store]
	problem func() error // of what is gathered for it; nil while nothing is
}

func newStoreDoor(s *store.Store) *storeDoor {
	d := &storeDoor{}
	d.now.Store(s)
	return d
}

func (d *storeDoor) replace(s *store.Store) error { return d.now.Swap(s).Close() }

// Close closes the store.
func (d *storeDoor) Close() error { return d.now.Load().Close() }

// retained is how far back a page looks that names no start: as long as flows
// are kept.
func (d *storeDoor) retained() time.Duration { return d.now.Load().Retention().Flows }

// Ping asks whether the store answers, and takes what is gathered.
func (d *storeDoor) Ping(ctx context.Context) error {
	if err := d.now.Load().Ping(ctx); err != nil || d.problem == nil {
		return err
	}
	return d.problem()
}

// InsertFlows implements gather.Sink.
func (d *storeDoor) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	return d.now.Load().InsertFlows(ctx, token, rows)
}

// InsertCoverage implements gather.Sink.
func (d *storeDoor) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	return d.now.Load().InsertCoverage(ctx, rows)
}

// Clock returns the store's time.
func (d *storeDoor) Clock(ctx context.Context) (time.Time, error) { return d.now.Load().Clock(ctx) }

// Edges implements analyzer.EdgeSource.
func (d *storeDoor) Edges(ctx context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	edges, err := d.now.Load().Edges(ctx, f)
	return edges, whole(err)
}

// Coverage implements analyzer.CoverageSource.
func (d *storeDoor) Coverage(ctx context.Context, since, until time.Time) ([]flow.NodeCoverage, error) {
	nodes, err := d.now.Load().Coverage(ctx, since, until)
	return nodes, whole(err)
}

// Flows implements api.Flows.
func (d *storeDoor) Flows(ctx context.Context, f query.Filter, after query.Cursor, limit int) (query.Page, error) {
	page, err := d.now.Load().Flows(ctx, f, after, limit)
	return page, whole(err)
}

// Facets implements api.Flows.
func (d *storeDoor) Facets(ctx context.Context, f query.Filter, top int) ([]query.Facet, error) {
	facets, err := d.now.Load().Facets(ctx, f, top)
	return facets, whole(err)
}

// Follow implements api.Flows.
func (d *storeDoor) Follow(f query.Filter, last int) query.Follower {
	return &follower{d, store.NewTail(f, last)}
}

// follower goes on with the store that is behind the door now.
type follower struct {
	door *storeDoor
	tail *store.Tail
}

// Next implements query.Follower.
func (f *follower) Next(ctx context.Context) ([]query.Row, error) {
	rows, err := f.door.now.Load().Next(ctx, f.tail)
	return rows, whole(err)
}

// Denials implements api.Flows.
func (d *storeDoor) Denials(ctx context.Context, f flow.DenialFilter) (api.DenialReport, error) {
	r := api.DenialReport{}
	var err error
	if r.Denials, err = d.now.Load().Denials(ctx, f); err != nil {
		return r, whole(err)
	}
	if r.Judged, err = d.now.Load().Judged(ctx, f); err != nil {
		return r, whole(err)
	}
	for i := range r.Denials {
		r.Denied += r.Denials[i].Connections
	}
	r.Judged = max(r.Judged, r.Denied) // an edge denies at least 1 where it denied before
	return r, nil
}

// Stats implements api.Flows.
func (d *storeDoor) Stats(ctx context.Context, q []api.StatsQuery) (map[flow.Workload]api.Stats, error) {
	list, err := d.now.Load().Stats(ctx, time.Now().Add(-d.retained()))
	if err != nil {
		return nil, whole(err)
	}
	known := make(map[flow.Workload]*flow.WorkloadStats, len(list))
	for i := range list {
		known[list[i].Workload] = &list[i]
	}
	out := make(map[flow.Workload]api.Stats, len(q))
	for _, w := range q {
		if s := known[w.Workload]; s != nil {
			out[w.Workload] = api.Stats{
				Edges: s.Edges, Connections: s.Connections, LastSeen: s.LastSeen,
				WouldDeny: s.WouldDeny[w.Staged], Denied: s.Denied[w.Live],
			}
		}
	}
	return out, nil
}

// Learning implements api.Flows.
func (d *storeDoor) Learning(ctx context.Context) (api.Learning, error) {
	s := d.now.Load()
	sum, err := s.Summary(ctx)
	if err != nil {
		return api.Learning{}, whole(err)
	}
	l := api.Learning{Since: sum.Since, Edges: sum.Edges, Connections: sum.Connections, NewestEdgeAt: sum.NewestEdgeAt}
	if sum.Since.IsZero() {
		return l, nil
	}
	nodes, err := s.Coverage(ctx, sum.Since, time.Now())
	if err != nil {
		return api.Learning{}, whole(err)
	}
	var covered, span time.Duration
	for i := range nodes {
		n := &nodes[i]
		l.LostRecords += n.Lost + n.Dropped
		covered += n.Covered
		span += max(n.Last.Sub(sum.Since), 0)
	}
	if span > 0 {
		l.Coverage = min(covered.Seconds()/span.Seconds(), 1)
	}
	return l, nil
}

// whole makes a partial answer a refusal that people are told: there is no
// number without all shards.
func whole(err error) error {
	var partial *store.PartialError
	if errors.As(err, &partial) {
		return &control.Error{Code: control.CodeUnavailable, Message: partial.Error(), Err: err}
	}
	return err
}

// denialSource is the store as the guard of fresh enforcements asks it.
type denialSource struct{ *storeDoor }

// Denials implements control.DenialSource.
func (d denialSource) Denials(ctx context.Context, f flow.DenialFilter) ([]flow.Denial, error) {
	return d.now.Load().Denials(ctx, f)
}
