package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/rollout"
)

const password = "correct horse battery"

var cart = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}

const cartPath = "/api/v1/workloads/shop/Host/cart"

// clock runs on from the present by what a test adds.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// fakeFlows answers as if ClickHouse held what a test puts into it.
type fakeFlows struct {
	mu      sync.Mutex
	err     error
	denials DenialReport
	asked   flow.DenialFilter
	filter  query.Filter
	after   query.Cursor
	limit   int
	arrived []query.Row // what a follower gives next
	stats   Stats
}

func (f *fakeFlows) set(change func(*fakeFlows)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// denialsAsked returns the newest question for denials.
func (f *fakeFlows) denialsAsked() flow.DenialFilter {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// flowsAsked returns the newest question for flows: its filter, cursor and limit.
func (f *fakeFlows) flowsAsked() (string, query.Cursor, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.filter.String(), f.after, f.limit
}

func (f *fakeFlows) Ping(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// oneRow is what the store holds.
func oneRow() query.Row {
	return query.Row{ID: 0xabc, Labelled: flow.Labelled{
		Record: flow.Record{
			Key: flow.Key{Source: netip.MustParseAddr("fd00:1::3"), Destination: netip.MustParseAddr("fd00:1::1"),
				SourcePort: 40000, DestinationPort: 80, Protocol: flow.TCP},
			Event: flow.EventEnd, Direction: flow.Ingress, Connections: 1, Outcome: flow.OutcomeAudited,
			Live: flow.Judgement{Reason: flow.ReasonNoPolicy}, Staged: flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 1},
		},
		Node: "node-1", Observer: &flow.Party{Workload: cart}, Source: &flow.Party{Reserved: "world", Identity: 2},
		Dest: &flow.Party{Workload: cart, Endpoint: "cart-1", Labels: "app=cart,tier=x"},
	}}
}

func (f *fakeFlows) Flows(_ context.Context, q query.Filter, after query.Cursor, limit int) (query.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter, f.after, f.limit = q, after, limit
	page := query.Page{Rows: []query.Row{oneRow()}}
	if after.IsZero() {
		page.Next = query.Cursor{Time: time.Unix(7, 0).UTC(), ID: 9, Same: 1, Since: q.Since, Until: q.Until}
	}
	return page, f.err
}

func (f *fakeFlows) Facets(_ context.Context, q query.Filter, top int) ([]query.Facet, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter, f.limit = q, top
	term, err := query.NewTerm("to.namespace", "a shop")
	if err != nil {
		return nil, err
	}
	return []query.Facet{{Field: "to.namespace", Values: []query.FacetValue{{Term: term, Records: 5, Connections: 3}}}}, f.err
}

func (f *fakeFlows) Follow(q query.Filter, last int) query.Follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter, f.limit = q, last
	return fakeFollower{f}
}

type fakeFollower struct{ f *fakeFlows }

func (x fakeFollower) Next(context.Context) ([]query.Row, error) {
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	if x.f.err != nil {
		return nil, x.f.err
	}
	rows := x.f.arrived
	x.f.arrived = nil
	return rows, nil
}

func (f *fakeFlows) Denials(_ context.Context, q flow.DenialFilter) (DenialReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = q
	return f.denials, f.err
}

func (f *fakeFlows) Stats(_ context.Context, q []StatsQuery) (map[flow.Workload]Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[flow.Workload]Stats{}
	for _, x := range q {
		out[x.Workload] = f.stats
	}
	return out, f.err
}

func (f *fakeFlows) Learning(context.Context) (Learning, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Learning{Edges: 15, Connections: 42, Coverage: 1}, f.err
}

type fakeAnalyzer struct {
	err error
	// stuck is told of each question, which is not answered before its context ends.
	stuck chan context.Context
}

func (a fakeAnalyzer) Recommend(ctx context.Context, w flow.Workload, since, until time.Time) (Recommendation, error) {
	if a.stuck != nil {
		a.stuck <- ctx
		<-ctx.Done()
		return Recommendation{}, ctx.Err()
	}
	return Recommendation{Workload: RefOf(w), Completeness: Completeness{Curve: []CurvePoint{}}, Rules: []RecommendedRule{}, Excluded: []ExcludedEdge{},
		Coverage: Coverage{Since: since, Until: until, Missing: []string{}}}, a.err
}

func (a fakeAnalyzer) Replay(_ context.Context, p policy.Policy, _, _ time.Time) (Denials, error) {
	return Denials{Denials: []Denial{}, Judged: int64(len(p.Ingress))}, a.err
}

func (a fakeAnalyzer) Check(_ context.Context, p policy.Policy, _, since, until time.Time) (PolicyCheck, error) {
	return PolicyCheck{Workload: RefOf(p.Workload), Since: since, Until: until, Rules: []RecommendedRule{}, Excluded: []ExcludedEdge{},
		Coverage: Coverage{Since: since, Until: until, Missing: []string{}}, Broad: len(p.Ingress)}, a.err
}

// Missing implements control.Readiness.
func (h *house) Missing(context.Context, flow.Workload) ([]string, error) { return h.unlearned, nil }

// fakeFlags are the flagged rules of every workload.
type fakeFlags []control.FlaggedRule

func (f *fakeFlags) Flagged(context.Context, flow.Workload) ([]control.FlaggedRule, error) {
	return *f, nil
}

func (a fakeAnalyzer) Diff(_ context.Context, before, after policy.Policy, since, until time.Time) (Difference, error) {
	return Difference{Since: since, Until: until, Denied: []Denial{}, Allowed: []Denial{},
		DeniedConnections: int64(len(before.Ingress)), AllowedConnections: int64(len(after.Ingress))}, a.err
}

func testInventory() inventory.Inventory {
	addr := netip.MustParseAddr
	return inventory.Inventory{
		Nodes: []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1")}}},
		Workloads: []inventory.Workload{
			{Namespace: "shop", Kind: "Host", Name: "cart", Labels: map[string]string{"app": "cart"}, Endpoints: []inventory.Endpoint{
				{Name: "cart-1", Node: "node-1", Interface: "rfc1", Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd00:1::1")}},
			}},
			{Namespace: "shop", Kind: "Host", Name: "front", Labels: map[string]string{"app": "front"}, Endpoints: []inventory.Endpoint{
				{Name: "front-1", Node: "node-1", Interface: "rff1", Addresses: []netip.Addr{addr("10.1.0.3"), addr("fd00:1::3")}},
			}},
		},
	}
}

// house is a server over a real control store, with a node that does as told.
type house struct {
	t       testing.TB
	clock   *clock
	control *control.Store
	flows   *fakeFlows
	flagged fakeFlags
	// unlearned is what learning lacks of every workload.
	unlearned []string
	server    *Server
	url       string
	token     string
	reg       *prometheus.Registry
}

func build(t testing.TB, change ...func(*Config, *Deps)) *house {
	t.Helper()
	h := &house{t: t, clock: &clock{}, flows: &fakeFlows{}, reg: prometheus.NewRegistry()}
	var err error
	h.control, err = control.Open(t.Context(), control.Config{Path: filepath.Join(t.TempDir(), "control.db")}, control.Deps{Now: h.clock.now, Flags: &h.flagged, Readiness: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.control.Close() }) //nolint:errcheck // nothing to do about it
	if _, err := h.control.SetInventory(t.Context(), testInventory(), control.System); err != nil {
		t.Fatal(err)
	}
	if err := h.control.SetPassword(t.Context(), control.AdminUser, password, control.System); err != nil {
		t.Fatal(err)
	}
	if h.token, err = h.control.IssueToken(t.Context(), "cli", control.AdminUser, control.System); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Version: "test", ApplyTimeout: 5 * time.Second, StreamEvery: 20 * time.Millisecond, TailEvery: 10 * time.Millisecond, Heartbeat: 40 * time.Millisecond}
	deps := Deps{
		Control: h.control, Sessions: h.control.Sessions(), Analyzer: fakeAnalyzer{}, Flows: h.flows, Now: h.clock.now,
		Registerer: h.reg, Metrics: promhttp.HandlerFor(h.reg, promhttp.HandlerOpts{}),
		UI: fstest.MapFS{
			"index.html":           {Data: []byte("<!doctype html><title>ringfence</title>")},
			"assets/app-1a2b3c.js": {Data: []byte("export {}")},
			".gitkeep":             {},
		},
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	if h.server, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(h.server.Handler())
	t.Cleanup(ts.Close)
	t.Cleanup(h.server.endStreams)
	h.url = ts.URL
	return h
}

// on returns the house for a subtest.
func (h *house) on(t testing.TB) *house {
	c := *h
	c.t = t
	return &c
}

// node lets node-1 obey every state until the test ends.
func (h *house) node() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	h.t.Cleanup(func() { cancel(); <-done })
	h.obey(ctx)
	go func() {
		defer close(done)
		for {
			changed := h.control.Changed()
			h.obey(ctx)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (h *house) obey(ctx context.Context) {
	state, err := h.control.State(ctx)
	if err != nil {
		h.t.Error(err)
		return
	}
	r := rollout.Report{Node: "node-1", Version: "test", Generation: state.Generation, Time: h.clock.now()}
	for _, s := range state.Slots {
		e := rollout.Effective{Workload: s.Workload, Endpoints: 1, ObservedSince: h.clock.now().Add(-2 * time.Hour), SwitchedAt: h.clock.now()}
		if s.Live != nil {
			e.LiveRevision = s.Live.Number
		}
		if s.Staged != nil {
			e.StagedRevision = s.Staged.Number
		}
		r.Workloads = append(r.Workloads, e)
	}
	if err := h.control.Report(ctx, r); err != nil && ctx.Err() == nil {
		h.t.Error(err)
	}
}

// answer is a response read whole.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

func (a answer) into(v any) {
	a.t.Helper()
	reflect.ValueOf(v).Elem().SetZero() // what is missing must not stay from before
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%v: %s", err, a.body)
	}
}

func (a answer) problem(status int, code ErrorCode) Error {
	a.t.Helper()
	a.want(status)
	var e Error
	a.into(&e)
	if e.Code != code || e.Message == "" || strings.ContainsAny(e.Message, "\n\r") {
		a.t.Fatalf("%+v, want code %s and one line", e, code)
	}
	return e
}

// do sends a request; edit may change it.
func (h *house) do(method, path, body string, edit ...func(*http.Request)) answer {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range edit {
		f(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	a := answer{h.t, resp.StatusCode, resp.Header, b}
	a.hold(r)
	return a
}

func (h *house) byToken(r *http.Request) { r.Header.Set("Authorization", "Bearer "+h.token) }

func (h *house) get(path string) answer { h.t.Helper(); return h.do("GET", path, "", h.byToken) }
func (h *house) post(path string, body string) answer {
	h.t.Helper()
	return h.do("POST", path, body, h.byToken)
}

func (h *house) login() *http.Cookie {
	h.t.Helper()
	a := h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`).want(200)
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == cookieName {
			return c
		}
	}
	h.t.Fatal("no cookie")
	return nil
}

// byCookie sends a request as the web interface does.
func (h *house) byCookie(c *http.Cookie) func(*http.Request) {
	return func(r *http.Request) {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		r.Header.Set("Origin", h.url)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
}

const onePolicy = `{"workload":{"namespace":"shop","kind":"Host","name":"cart"},"isolateIngress":true,"isolateEgress":false,
	"ingress":[{"peers":[{"selector":{"namespace":"shop","matchLabels":{"app":"front"}}}],"ports":[{"protocol":"TCP","port":80}]}],"egress":[]}`

func newRevision(parent string) string {
	return `{"policy":` + onePolicy + `,"origin":"edit","parent":` + parent + `,"comment":"first"}`
}

func (h *house) summary() WorkloadSummary {
	h.t.Helper()
	var w Workload
	h.get(cartPath).want(200).into(&w)
	return w.Summary
}

func slotChange(revision, version int64) string {
	b, _ := json.Marshal(SlotChange{Revision: revision, Version: version})
	return string(b)
}
