package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
)

// GetHealth answers that the process answers.
func (s *Server) GetHealth(context.Context, GetHealthRequestObject) (GetHealthResponseObject, error) {
	return GetHealth200JSONResponse{HealthJSONResponse{Status: HealthStatusOk}}, nil
}

// GetReadiness answers whether the stores answer. It says no more than that,
// since anybody may ask.
func (s *Server) GetReadiness(ctx context.Context, _ GetReadinessRequestObject) (GetReadinessResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	for _, store := range []struct {
		name string
		ping func(context.Context) error
	}{{"the control database", s.deps.Control.Ping}, {"ClickHouse", s.deps.Flows.Ping}} {
		if err := store.ping(ctx); err != nil {
			s.metrics.storeOut.Inc()
			return GetReadiness503JSONResponse{Status: HealthStatusUnavailable, Detail: optional(store.name + " does not answer")}, nil
		}
	}
	return GetReadiness200JSONResponse{HealthJSONResponse{Status: HealthStatusOk}}, nil
}

// GetStatus answers where everything stands.
func (s *Server) GetStatus(ctx context.Context, _ GetStatusRequestObject) (GetStatusResponseObject, error) {
	return GetStatus200JSONResponse(s.status(ctx)), nil
}

func (s *Server) status(ctx context.Context) Status {
	numbers := s.stats.get(ctx, s, time.Second)
	out := Status{Version: s.cfg.Version, StartedAt: s.started, Now: s.deps.Now(), Nodes: []Node{}}
	confirm, warm := int(s.cfg.ConfirmTimeout/time.Second), int(s.cfg.WarmUp/time.Second)
	out.ConfirmSeconds, out.WarmUpSeconds = &confirm, &warm
	for _, n := range s.deps.Control.Nodes() {
		out.Nodes = append(out.Nodes, nodeOf(n))
	}
	out.Store.Embedded = s.cfg.EmbeddedStore
	out.Store.Healthy = numbers.err == nil
	if numbers.err != nil {
		out.Store.Detail = optional(oneLine(numbers.err.Error()))
	}
	l := numbers.learning
	out.Learning.Since, out.Learning.NewestEdgeAt = optionalTime(l.Since), optionalTime(l.NewestEdgeAt)
	out.Learning.Edges, out.Learning.Connections = count(l.Edges), count(l.Connections)
	out.Learning.LostRecords, out.Learning.Coverage = count(l.LostRecords), l.Coverage
	return out
}

func nodeOf(n control.Node) Node {
	out := Node{
		Name: n.Name, Connected: n.Connected, Version: optional(n.Report.Version), LastReport: optionalTime(n.Reported),
		Panicked: n.Report.Panicked, Generation: count(n.Report.Generation), Error: optional(n.Report.Error),
	}
	for _, w := range n.Report.Workloads {
		out.Endpoints += w.Endpoints
	}
	return out
}

// ListActivity answers who did what when.
func (s *Server) ListActivity(ctx context.Context, r ListActivityRequestObject) (ListActivityResponseObject, error) {
	f := control.EventFilter{Before: deref(r.Params.Before), Limit: deref(r.Params.Limit)}
	if r.Params.Workload != nil {
		var err error
		if f.Workload, err = readRef(*r.Params.Workload); err != nil {
			return nil, err
		}
	}
	events, err := s.deps.Control.Events(ctx, f)
	if err != nil {
		return nil, err
	}
	out := ListActivity200JSONResponse{}
	for _, e := range events {
		out = append(out, activityOf(e))
	}
	return out, nil
}

func readRef(text string) (flow.Workload, error) {
	w, err := flow.ParseWorkload(text)
	if err != nil {
		return w, invalid("workload", "workload: "+oneLine(err.Error()))
	}
	return w, nil
}

// statsCache keeps ClickHouse from being asked for the same numbers by every
// page and every stream. While it does not answer, the last numbers stand.
type statsCache struct {
	mu  sync.Mutex
	at  time.Time
	now numbers
}

type numbers struct {
	stats    map[flow.Workload]Stats
	learning Learning
	err      error // why they are not of now
}

// get returns numbers that are at most maxAge old, or else the newest there are.
func (n *statsCache) get(ctx context.Context, s *Server, maxAge time.Duration) numbers {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.at.IsZero() || now.Sub(n.at) >= maxAge {
		n.at = now
		n.refresh(ctx, s)
	}
	return n.now
}

func (n *statsCache) refresh(ctx context.Context, s *Server) {
	// One caller's hurry must not leave the others without numbers.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
	defer cancel()
	workloads, err := s.deps.Control.Workloads(ctx)
	if err == nil {
		queries := make([]StatsQuery, 0, len(workloads))
		for i := range workloads {
			w := &workloads[i]
			queries = append(queries, StatsQuery{Workload: w.Workload.Ref(), Live: w.Requested.Live, Staged: w.Requested.Staged})
		}
		var stats map[flow.Workload]Stats
		if stats, err = s.deps.Flows.Stats(ctx, queries); err == nil {
			n.now.stats = stats
			var learning Learning
			if learning, err = s.deps.Flows.Learning(ctx); err == nil {
				n.now.learning = learning
			}
		}
	}
	if n.now.err = err; err != nil {
		s.metrics.storeOut.Inc()
		n.now.err = fmt.Errorf("numbers are not of now: %w", err)
	}
}

// peek returns the newest numbers there are, without asking for any.
func (n *statsCache) peek() map[flow.Workload]Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now.stats
}
