package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/store"
)

func (a storeAccess) config(reg prometheus.Registerer) store.Config {
	return store.Config{Addrs: a.Addrs, User: a.User, Password: a.Password, Database: a.Database, Registerer: reg}
}

// retained is how far back a page looks that names no start: as long as flows
// are kept.
const retained = 30 * 24 * time.Hour

// storeDoor is the store as the analyzer, the API and the control store ask it.
// The store behind it changes when the embedded engine is started again.
type storeDoor struct{ now atomic.Pointer[store.Store] }

func newStoreDoor(s *store.Store) *storeDoor {
	d := &storeDoor{}
	d.now.Store(s)
	return d
}

func (d *storeDoor) replace(s *store.Store) error { return d.now.Swap(s).Close() }

// Close closes the store.
func (d *storeDoor) Close() error { return d.now.Load().Close() }

// Ping asks whether the store answers.
func (d *storeDoor) Ping(ctx context.Context) error { return d.now.Load().Ping(ctx) }

// Edges implements analyzer.EdgeSource.
func (d *storeDoor) Edges(ctx context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	return d.now.Load().Edges(ctx, f)
}

// Coverage implements analyzer.CoverageSource.
func (d *storeDoor) Coverage(ctx context.Context, since, until time.Time) ([]flow.NodeCoverage, error) {
	return d.now.Load().Coverage(ctx, since, until)
}

// Flows implements api.Flows.
func (d *storeDoor) Flows(ctx context.Context, q api.FlowQuery) ([]flow.Labelled, error) {
	f := flow.FlowFilter{
		Since: q.Since, Until: q.Until, Outcome: q.Outcome, Direction: q.Direction,
		Protocol: q.Protocol, Port: q.Port, Limit: q.Limit,
	}
	if !q.Workload.IsZero() {
		f.Workload = &q.Workload
	}
	return d.now.Load().Flows(ctx, f)
}

// Denials implements api.Flows.
func (d *storeDoor) Denials(ctx context.Context, q control.DenialQuery) (api.DenialReport, error) {
	f := flow.DenialFilter{Workload: &q.Workload, Slot: q.Slot, Revision: q.Revision, Since: q.Since}
	if f.Since.IsZero() {
		f.Since = time.Now().Add(-retained)
	}
	denials, err := d.now.Load().Denials(ctx, f)
	if err != nil {
		return api.DenialReport{}, err
	}
	judged, err := d.now.Load().Judged(ctx, f)
	if err != nil {
		return api.DenialReport{}, err
	}
	r := api.DenialReport{Denials: make([]control.Denial, 0, len(denials))}
	for i := range denials {
		n := &denials[i]
		r.Denied += n.Connections
		r.Denials = append(r.Denials, control.Denial{
			Direction: n.Direction, Source: n.Source, Destination: n.Destination, Protocol: n.Protocol, Port: n.Port,
			Reason: n.Reason, Connections: n.Connections, Packets: n.Packets, FirstSeen: n.FirstSeen, LastSeen: n.LastSeen,
		})
	}
	r.Judged = max(judged, r.Denied) // both are estimates above some thousands
	return r, nil
}

// Stats implements api.Flows.
func (d *storeDoor) Stats(ctx context.Context, q []api.StatsQuery) (map[flow.Workload]api.Stats, error) {
	list, err := d.now.Load().Stats(ctx, time.Now().Add(-retained))
	if err != nil {
		return nil, err
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
		return api.Learning{}, err
	}
	l := api.Learning{Since: sum.Since, Edges: sum.Edges, Connections: sum.Connections, NewestEdgeAt: sum.NewestEdgeAt}
	if sum.Since.IsZero() {
		return l, nil
	}
	nodes, err := s.Coverage(ctx, sum.Since, time.Now())
	if err != nil {
		return api.Learning{}, fmt.Errorf("read coverage: %w", err)
	}
	var covered, span time.Duration
	for i := range nodes {
		n := &nodes[i]
		l.LostRecords += n.Lost
		covered += n.Covered
		span += n.Last.Sub(sum.Since)
	}
	if span > 0 {
		l.Coverage = min(covered.Seconds()/span.Seconds(), 1)
	}
	return l, nil
}

// denialSource is the store as the guard of fresh enforcements asks it.
type denialSource struct{ *storeDoor }

// Denials implements control.DenialSource.
func (d denialSource) Denials(ctx context.Context, q control.DenialQuery) ([]control.Denial, error) {
	r, err := d.storeDoor.Denials(ctx, q)
	return r.Denials, err
}
