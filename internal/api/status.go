package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
)

// GetHealth answers that the process answers.
func (s *Server) GetHealth(context.Context, GetHealthRequestObject) (GetHealthResponseObject, error) {
	return GetHealth200JSONResponse{HealthJSONResponse{Status: HealthStatusOk}}, nil
}

// GetReadiness answers whether the stores are ready. It says no more than that,
// since anybody may ask.
func (s *Server) GetReadiness(ctx context.Context, _ GetReadinessRequestObject) (GetReadinessResponseObject, error) {
	ctx = own(ctx)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	for _, store := range []struct {
		name string
		ping func(context.Context) error
	}{{"the control database", s.deps.Control.Ping}, {"ClickHouse", s.deps.Flows.Ping}} {
		if err := store.ping(ctx); err != nil {
			s.metrics.storeOut.Inc()
			return GetReadiness503JSONResponse{Status: HealthStatusUnavailable, Detail: optional(store.name + " is not ready: look at the server's log")}, nil
		}
	}
	return GetReadiness200JSONResponse{HealthJSONResponse{Status: HealthStatusOk}}, nil
}

// GetStatus answers where everything stands.
func (s *Server) GetStatus(ctx context.Context, _ GetStatusRequestObject) (GetStatusResponseObject, error) {
	ctx = own(ctx)
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
		Panicked: n.Report.Panicked, Generation: count(n.Report.Generation), Error: troubleOf(n.Report.Error, n.Report.Problems),
	}
	for _, w := range n.Report.Workloads {
		out.Endpoints += w.Endpoints
	}
	return out
}

// troubleOf returns everything that a node says is wrong.
func troubleOf(refused string, problems []string) *string {
	texts := slices.Clone(problems)
	if refused != "" {
		texts = append([]string{refused}, texts...)
	}
	return optional(oneLine(strings.Join(texts, "; ")))
}

// ListActivity answers who did what when.
func (s *Server) ListActivity(ctx context.Context, r ListActivityRequestObject) (ListActivityResponseObject, error) {
	ctx = own(ctx)
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

const (
	// statsTimeout bounds what a page waits for numbers, of which it has older ones.
	statsTimeout = 2 * time.Second
	// statsPause is how long ClickHouse is left alone after it did not answer.
	statsPause = 5 * time.Second
)

// statsCache keeps ClickHouse from being asked for the same numbers by every
// page and every stream. While it does not answer, the last numbers stand.
type statsCache struct {
	asking sync.Mutex // held by the one who asks
	now    atomic.Pointer[numbers]
}

// numbers are never changed once others can see them.
type numbers struct {
	at       time.Time
	stats    map[flow.Workload]Stats
	learning Learning
	err      error // why they are not of now
}

// peek returns the newest numbers there are, without asking for any.
func (n *statsCache) peek() *numbers {
	if now := n.now.Load(); now != nil {
		return now
	}
	return &numbers{}
}

// get returns numbers that are at most maxAge old, or else the newest there are.
func (n *statsCache) get(ctx context.Context, s *Server, maxAge time.Duration) *numbers {
	fresh := func() bool {
		now := n.peek()
		if now.err != nil {
			maxAge = statsPause
		}
		return !now.at.IsZero() && time.Since(now.at) < maxAge
	}
	if fresh() {
		return n.peek()
	}
	n.asking.Lock()
	defer n.asking.Unlock()
	if !fresh() {
		n.now.Store(n.ask(ctx, s))
	}
	return n.peek()
}

func (n *statsCache) ask(ctx context.Context, s *Server) *numbers {
	// One caller's hurry must not leave the others without numbers.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(statsTimeout, s.cfg.StoreTimeout))
	defer cancel()
	old := n.peek()
	out := &numbers{stats: old.stats, learning: old.learning}
	if err := s.ask(ctx, out); err != nil {
		s.metrics.storeOut.Inc()
		out.err = fmt.Errorf("numbers are not of now: %w", err)
	}
	out.at = time.Now()
	return out
}

func (s *Server) ask(ctx context.Context, out *numbers) error {
	workloads, err := s.deps.Control.Workloads(ctx)
	if err != nil {
		return err
	}
	queries := make([]StatsQuery, 0, len(workloads))
	for i := range workloads {
		w := &workloads[i]
		queries = append(queries, StatsQuery{Workload: w.Workload.Ref(), Live: w.Requested.Live, Staged: w.Requested.Staged})
	}
	stats, err := s.deps.Flows.Stats(ctx, queries)
	if err != nil {
		return err
	}
	learning, err := s.deps.Flows.Learning(ctx)
	if err != nil {
		return err
	}
	out.stats, out.learning = stats, learning
	return nil
}
