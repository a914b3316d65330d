package api

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/query"
)

// Deps are what the server needs of others.
type Deps struct {
	Control  Control
	Sessions Sessions
	Analyzer Analyzer
	Flows    Flows
	// UI holds index.html and its assets; nil, or without index.html, when the
	// user interface was not built.
	UI fs.FS
	// Metrics answers /metrics; nil when there are none.
	Metrics http.Handler
	// Registerer takes the server's own metrics. Default: none are exported.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Control is the store of decisions. *control.Store is one.
type Control interface {
	CheckPassword(ctx context.Context, user, password string) error
	CheckToken(ctx context.Context, token string) (user string, err error)
	RecordLogin(ctx context.Context, user string) error
	Ping(ctx context.Context) error

	Inventory() *inventory.Index
	Nodes() []control.Node
	Workloads(ctx context.Context) ([]control.Workload, error)
	Workload(ctx context.Context, w flow.Workload) (control.Workload, error)
	Actions(ctx context.Context, w flow.Workload) (control.Actions, error)
	Events(ctx context.Context, f control.EventFilter) ([]control.Event, error)
	// Updated returns a channel that is closed once any of these may have changed.
	Updated() <-chan struct{}

	Revisions(ctx context.Context, w flow.Workload) ([]control.Revision, error)
	Revision(ctx context.Context, w flow.Workload, number uint32) (control.Revision, error)
	CreateRevision(ctx context.Context, n control.NewRevision) (control.Revision, error)
	Stage(ctx context.Context, c control.Change) (control.Slots, error)
	Unstage(ctx context.Context, c control.Change) (control.Slots, error)
	Promote(ctx context.Context, c control.Change) (control.Slots, error)
	Rollback(ctx context.Context, c control.Change) (control.Slots, error)
	WaitApplied(ctx context.Context, w flow.Workload, want control.Slots) error
}

// Sessions keeps login sessions. *control.Sessions is one.
type Sessions interface {
	scs.CtxStore
	// Alive reports whether a session goes on, without marking it used.
	Alive(ctx context.Context, token string) (bool, error)
}

// Analyzer learns from stored edges. Its answers are in the contract's types. An
// *control.Error keeps its code; any other error is an internal one.
type Analyzer interface {
	Recommend(ctx context.Context, w flow.Workload, since, until time.Time) (Recommendation, error)
	Replay(ctx context.Context, p policy.Policy, since, until time.Time) (Denials, error)
	// Check is of a policy that was made at a time. Slot, Revision and Made of its
	// answer are the caller's to fill in.
	Check(ctx context.Context, p policy.Policy, made, since, until time.Time) (PolicyCheck, error)
	// Diff judges by two policies of one workload.
	Diff(ctx context.Context, before, after policy.Policy, since, until time.Time) (Difference, error)
}

// Flows reads stored flows. Every method may fail while ClickHouse is away:
// what is decided and enforced is served nevertheless.
type Flows interface {
	Ping(ctx context.Context) error
	// Flows returns a page of records, newest first, that come after a cursor.
	Flows(ctx context.Context, f query.Filter, after query.Cursor, limit int) (query.Page, error)
	Facets(ctx context.Context, f query.Filter, top int) ([]query.Facet, error)
	// Follow returns what gives the newest records, as many as last says, and then
	// those that are stored.
	Follow(f query.Filter, last int) query.Follower
	// Denials returns what a revision denied or would have denied.
	Denials(ctx context.Context, f flow.DenialFilter) (DenialReport, error)
	// Stats returns totals for each workload asked for, of which some may miss.
	Stats(ctx context.Context, q []StatsQuery) (map[flow.Workload]Stats, error)
	Learning(ctx context.Context) (Learning, error)
}

// DenialReport is what one revision denied, of how much it judged.
type DenialReport struct {
	Judged  uint64 // connections
	Denied  uint64
	Denials []flow.Denial
}

// StatsQuery names a workload and the revisions in its slots, 0 for none.
type StatsQuery struct {
	Workload     flow.Workload
	Live, Staged uint32
}

// Stats are one workload's totals.
type Stats struct {
	Edges       uint64
	Connections uint64
	WouldDeny   uint64 // connections that the staged revision would have denied
	Denied      uint64 // connections that the live revision denied
	LastSeen    time.Time
}

// Learning is how far observation has come, over all workloads.
type Learning struct {
	Since        time.Time // first record; zero when there is none
	Edges        uint64
	Connections  uint64
	LostRecords  uint64
	Coverage     float64 // share of the time since then that agents covered
	NewestEdgeAt time.Time
}
