package analyzer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Errors that callers tell apart.
var (
	ErrUnknownWorkload = errors.New("is not in the inventory; add it there or check its name")
	ErrNoLabels        = errors.New("has no label that a selector can rely on; give it one, such as app")
)

// Config holds the thresholds of learning. The zero value gets the defaults.
type Config struct {
	// MinCovered is how long every node of a workload must have been watching
	// before the workload may be enforced. Default 168h: what is done once a week
	// is seen once.
	MinCovered time.Duration
	// MinWeekHours is how many of the 168 hours of the week must have been watched
	// without a loss. Default: those of MinCovered, at most 168.
	MinWeekHours int
	// MaxUnseen is the largest share of connections that the estimate (what it
	// expects; weeks of few edges cannot bring its upper bound down) and the check of
	// the later half may leave to edges that nobody saw. Default 0.05, or
	// 1 where MinCovered is below a day and there is nothing to estimate from.
	MaxUnseen float64
	// MinShare is the share of the time since the first heartbeat that must be
	// covered. Default 0.95.
	MinShare float64
	// MaxSilence is how old a node's newest heartbeat may be at the window's
	// end. Default 30s.
	MaxSilence time.Duration
	// Burst: an edge whose whole traffic fits in it is flagged. Default 30s.
	Burst time.Duration
	// LateShare and ExternalLateShare: an edge first seen after this share of the
	// observed time is flagged. Defaults 0.75, and 0.5 for external peers.
	LateShare         float64
	ExternalLateShare float64
	// RareAfter: once observed for so long, an edge seen in one hour only is
	// flagged. Default 12h.
	RareAfter time.Duration
	// ScanTargets weak edges of one source that begin within ScanInterval look
	// like a scan. Defaults 5 and 1m.
	ScanTargets  int
	ScanInterval time.Duration
	// Settle is how long the two ends' records of one flow may lie apart.
	// Default 30s.
	Settle time.Duration
	// EnvironmentLabels name the label keys whose values must not differ between
	// two ends without a flag. Default env, environment, sensitivity, compliance.
	EnvironmentLabels []string
}

func (c *Config) setDefaults() {
	orDuration := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	orShare := func(f *float64, v float64) {
		if *f == 0 {
			*f = v
		}
	}
	orDuration(&c.MinCovered, flow.HoursOfWeek*time.Hour)
	if c.MinWeekHours == 0 {
		c.MinWeekHours = min(int(c.MinCovered/time.Hour), flow.HoursOfWeek)
	}
	if c.MinCovered < 24*time.Hour {
		orShare(&c.MaxUnseen, 1)
	}
	orShare(&c.MaxUnseen, 0.05)
	orDuration(&c.MaxSilence, 30*time.Second)
	orDuration(&c.Burst, 30*time.Second)
	orDuration(&c.RareAfter, 12*time.Hour)
	orDuration(&c.ScanInterval, time.Minute)
	orDuration(&c.Settle, 30*time.Second)
	orShare(&c.MinShare, 0.95)
	orShare(&c.LateShare, 0.75)
	orShare(&c.ExternalLateShare, 0.5)
	if c.ScanTargets == 0 {
		c.ScanTargets = 5
	}
	if c.EnvironmentLabels == nil {
		c.EnvironmentLabels = []string{"env", "environment", "sensitivity", "compliance"}
	}
}

// Validate reports every setting that makes no sense.
func (c Config) Validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"MinCovered", c.MinCovered}, {"MaxSilence", c.MaxSilence}, {"Burst", c.Burst},
		{"RareAfter", c.RareAfter}, {"ScanInterval", c.ScanInterval}, {"Settle", c.Settle},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("analyzer: %s is %s; want a positive duration", d.name, d.value))
		}
	}
	for _, s := range []struct {
		name  string
		value float64
	}{{"MinShare", c.MinShare}, {"MaxUnseen", c.MaxUnseen}, {"LateShare", c.LateShare}, {"ExternalLateShare", c.ExternalLateShare}} {
		if !(s.value >= 0 && s.value <= 1) {
			errs = append(errs, fmt.Errorf("analyzer: %s is %v; want a share from 0 to 1", s.name, s.value))
		}
	}
	if c.ScanTargets < 0 {
		errs = append(errs, fmt.Errorf("analyzer: ScanTargets is %d; want a positive number", c.ScanTargets))
	}
	if c.MinWeekHours < 0 || c.MinWeekHours > flow.HoursOfWeek {
		errs = append(errs, fmt.Errorf("analyzer: MinWeekHours is %d; want 0 to %d", c.MinWeekHours, flow.HoursOfWeek))
	}
	return errors.Join(errs...)
}

// Window is a span of time, its end not included. Edges are kept by the hour, so
// the first and the last hour of a window count whole.
type Window struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// EdgeSource reads stored edges.
type EdgeSource interface {
	Edges(ctx context.Context, f flow.EdgeFilter) ([]flow.Edge, error)
}

// CoverageSource says what the agents covered.
type CoverageSource interface {
	Coverage(ctx context.Context, since, until time.Time) ([]flow.NodeCoverage, error)
}

// Deps are what an Analyzer reads from. All but Registerer are needed.
type Deps struct {
	Edges    EdgeSource
	Coverage CoverageSource
	// Inventory returns the newest inventory.
	Inventory  func() inventory.Inventory
	Registerer prometheus.Registerer
}

// Analyzer answers questions about stored edges. It is safe for concurrent use.
type Analyzer struct {
	cfg     Config
	deps    Deps
	metrics *metrics
}

// New returns an analyzer. It reads nothing yet.
func New(cfg Config, deps Deps) (*Analyzer, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Edges == nil || deps.Coverage == nil || deps.Inventory == nil {
		return nil, errors.New("analyzer: a source of edges, of coverage and an inventory are needed")
	}
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register analyzer metrics: %w", err)
	}
	return &Analyzer{cfg: cfg, deps: deps, metrics: m}, nil
}

// Recommend returns the candidate policy of one workload. A workload without
// usable labels is an ErrNoLabels, one that the inventory lacks an
// ErrUnknownWorkload; a workload without traffic gets a recommendation that has
// no policy and says why.
func (a *Analyzer) Recommend(ctx context.Context, w flow.Workload, window Window) (*Recommendation, error) {
	start := time.Now()
	v, err := a.view(ctx, window)
	if err != nil {
		return nil, err
	}
	v.times = true
	r, err := v.recommend(ctx, w)
	a.metrics.recommended(start, err)
	return r, err
}

// RecommendAll returns a recommendation for every workload of the inventory, in
// their order. One that Recommend would refuse has no policy and says why.
func (a *Analyzer) RecommendAll(ctx context.Context, window Window) ([]*Recommendation, error) {
	v, err := a.view(ctx, window)
	if err != nil {
		return nil, err
	}
	v.times = true
	if err := v.loadAll(ctx); err != nil {
		return nil, err
	}
	out := make([]*Recommendation, len(v.order))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, w := range v.order {
		g.Go(func() (err error) {
			start := time.Now()
			out[i], err = v.recommend(ctx, w)
			a.metrics.recommended(start, err)
			if errors.Is(err, ErrNoLabels) {
				r := v.empty(w)
				r.NoPolicy = err.Error()
				r.Coverage.Ready, r.Coverage.Missing = false, append(r.Coverage.Missing, r.NoPolicy)
				out[i], err = r, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// maxEdges bounds what one answer is made of. The source refuses to give more:
// a policy learned from a part would deny the rest.
const maxEdges = 2_000_000

// view is one window of one inventory: everything a single answer is made of. Once
// it is complete, several goroutines may make parts of the answer.
type view struct {
	cfg       Config
	window    Window
	source    EdgeSource
	workloads map[flow.Workload]*inventory.Workload
	order     []flow.Workload
	coverage  map[string]flow.NodeCoverage
	edges     map[flow.Workload][]*flow.Edge                   // by either end, as far as they were read; nobody changes them
	complete  bool                                             // edges holds every workload's
	unordered bool                                             // nobody looks at the order of edges
	services  *memo[flow.Workload, map[service]bool]           // that answered, in the edges of a workload
	probes    *memo[flow.Workload, map[flow.Party][]time.Time] // when sources began with each service that they probed, in the edges of a workload
	selectors *memo[flow.Workload, selection]
	metrics   *metrics

	guardrails []policy.Guardrail
	guards     *memo[flow.Workload, *judge] // of the guardrails alone
	namespaces map[string]map[string]string // labels
	index      *inventory.Index
	hours      *memo[string, *weekCover] // by node
	halved     *memo[int64, [2]*view]    // by the time of the cut
	times      bool                      // days and hours of the week are wanted
}

func (a *Analyzer) view(ctx context.Context, window Window) (*view, error) {
	if !window.Until.After(window.Since) {
		return nil, fmt.Errorf("the window ends at %s, which is not after its start at %s", window.Until.Format(time.RFC3339), window.Since.Format(time.RFC3339))
	}
	nodes, err := a.deps.Coverage.Coverage(ctx, window.Since, window.Until)
	if err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	inv := a.deps.Inventory()
	v := &view{
		cfg: a.cfg, window: window, source: a.deps.Edges, metrics: a.metrics,
		workloads: make(map[flow.Workload]*inventory.Workload, len(inv.Workloads)),
		coverage:  make(map[string]flow.NodeCoverage, len(nodes)),
		edges:     map[flow.Workload][]*flow.Edge{},
		services:  &memo[flow.Workload, map[service]bool]{},
		probes:    &memo[flow.Workload, map[flow.Party][]time.Time]{},
		selectors: &memo[flow.Workload, selection]{},

		guardrails: inv.Guardrails,
		guards:     &memo[flow.Workload, *judge]{},
		namespaces: map[string]map[string]string{},
		index:      inventory.NewIndex(inv),
		hours:      &memo[string, *weekCover]{},
		halved:     &memo[int64, [2]*view]{},
	}
	for _, n := range inv.Namespaces {
		v.namespaces[n.Name] = n.Labels
	}
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		v.workloads[w.Ref()] = w
		v.order = append(v.order, w.Ref())
	}
	slices.SortFunc(v.order, flow.Workload.Compare)
	for _, n := range nodes {
		v.coverage[n.Node] = n
	}
	return v, nil
}

func (v *view) loadAll(ctx context.Context) error {
	edges, err := v.read(ctx, nil)
	if err != nil {
		return err
	}
	for _, e := range edges {
		if e.Source.IsWorkload() {
			v.edges[e.Source.Workload] = append(v.edges[e.Source.Workload], e)
		}
		if e.Destination.IsWorkload() && e.Destination.Workload != e.Source.Workload {
			v.edges[e.Destination.Workload] = append(v.edges[e.Destination.Workload], e)
		}
	}
	v.complete = true
	return nil
}

// edgesOf returns the edges that w is at either end of.
func (v *view) edgesOf(ctx context.Context, w flow.Workload) ([]*flow.Edge, error) {
	if edges, ok := v.edges[w]; ok || v.complete {
		return edges, nil
	}
	edges, err := v.read(ctx, &w)
	if err != nil {
		return nil, err
	}
	v.edges[w] = edges
	return edges, nil
}

// read returns edges in one order, whatever the source's was. They are large and
// many: they stay where the source put them, and are copied only to be changed.
func (v *view) read(ctx context.Context, w *flow.Workload) ([]*flow.Edge, error) {
	edges, err := v.source.Edges(ctx, flow.EdgeFilter{Workload: w, Since: v.window.Since, Until: v.window.Until, Times: v.times, Limit: maxEdges})
	if err != nil {
		return nil, fmt.Errorf("read edges: %w", err)
	}
	v.metrics.read(len(edges))
	out := v.resolve(edges)
	if v.unordered {
		return out, nil
	}
	return arranged(out, compareEdges), nil
}

// arranged returns list in order, equal ones in theirs.
func arranged[T any](list []T, compare func(a, b T) int) []T {
	places := make([]int32, len(list))
	for i := range places {
		places[i] = int32(i)
	}
	slices.SortFunc(places, func(a, b int32) int {
		if c := compare(list[a], list[b]); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	out := make([]T, len(list))
	for i, at := range places {
		out[i] = list[at]
	}
	return out
}
