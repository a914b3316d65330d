package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	asked   control.DenialQuery
	query   FlowQuery
	stats   Stats
}

func (f *fakeFlows) set(change func(*fakeFlows)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeFlows) Ping(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeFlows) Flows(_ context.Context, q FlowQuery) ([]flow.Labelled, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = q
	return []flow.Labelled{{
		Record: flow.Record{
			Key: flow.Key{Source: netip.MustParseAddr("fd00:1::3"), Destination: netip.MustParseAddr("fd00:1::1"),
				SourcePort: 40000, DestinationPort: 80, Protocol: flow.TCP},
			Event: flow.EventEnd, Direction: flow.Ingress, Connections: 1, Outcome: flow.OutcomeAudited,
			Live: flow.Judgement{Reason: flow.ReasonNoPolicy}, Staged: flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 1},
		},
		Node: "node-1", Source: flow.Party{Reserved: "world"}, Dest: flow.Party{Workload: cart, Endpoint: "cart-1"},
	}}, f.err
}

func (f *fakeFlows) Denials(_ context.Context, q control.DenialQuery) (DenialReport, error) {
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

type fakeAnalyzer struct{ err error }

func (a fakeAnalyzer) Recommend(_ context.Context, w flow.Workload, since, until time.Time) (Recommendation, error) {
	return Recommendation{Workload: RefOf(w), Rules: []RecommendedRule{}, Excluded: []ExcludedEdge{},
		Coverage: Coverage{Since: since, Until: until, Missing: []string{}}}, a.err
}

func (a fakeAnalyzer) Replay(_ context.Context, p policy.Policy, _, _ time.Time) (Denials, error) {
	return Denials{Denials: []Denial{}, Judged: int64(len(p.Ingress))}, a.err
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
	server  *Server
	url     string
	token   string
	reg     *prometheus.Registry
}

func build(t testing.TB, change ...func(*Config, *Deps)) *house {
	t.Helper()
	h := &house{t: t, clock: &clock{}, flows: &fakeFlows{}, reg: prometheus.NewRegistry()}
	var err error
	h.control, err = control.Open(t.Context(), control.Config{Path: filepath.Join(t.TempDir(), "control.db")}, control.Deps{Now: h.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.control.Close() }) //nolint:errcheck // nothing to do about it
	if _, err := h.control.SetInventory(t.Context(), testInventory(), control.System); err != nil {
		t.Fatal(err)
	}
	if err := h.control.SetPassword(t.Context(), control.Admin, password, control.System); err != nil {
		t.Fatal(err)
	}
	if h.token, err = h.control.IssueToken(t.Context(), "cli", control.Admin, control.System); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Version: "test", ApplyTimeout: 5 * time.Second, StreamEvery: 20 * time.Millisecond, Heartbeat: 40 * time.Millisecond}
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
	h.obey()
	go func() {
		defer close(done)
		for {
			changed := h.control.Changed()
			h.obey()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (h *house) obey() {
	state, err := h.control.State(context.Background())
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
	if err := h.control.Report(context.Background(), r); err != nil {
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
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value}) //nolint:gosec // only the pair is sent
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

func TestCircleOverHTTP(t *testing.T) {
	h := build(t)
	h.node()
	var rev Revision
	h.post(cartPath+"/revisions", newRevision("0")).want(201).into(&rev)
	if rev.Number != 1 || rev.Author != "admin" || len(rev.Digest) != 64 || len(rev.Rules) != 1 ||
		rev.Rules[0].Sentence != "workloads with app=front in shop may connect on TCP 80" || deref(rev.Comment) != "first" {
		t.Errorf("%+v", rev)
	}
	h.post(cartPath+"/revisions", newRevision("0")).problem(409, ErrorCodeConflict)

	h.post(cartPath+"/promote", slotChange(1, 0)).problem(409, ErrorCodeNotReady)
	var result SlotResult
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200).into(&result)
	if result.Summary.IngressStage != Audit || result.Summary.EgressStage != Observe || deref(result.Summary.Effective.Staged) != 1 || result.SwitchedAt != nil {
		t.Errorf("audit: %+v", result)
	}
	before := time.Now()
	h.post(cartPath+"/promote", slotChange(1, result.Summary.Version)).want(200).into(&result)
	if result.Summary.IngressStage != Enforce || deref(result.Summary.Effective.Live) != 1 || result.Summary.Requested.Staged != nil ||
		!deref(result.Summary.Confirmed) || result.SwitchedAt == nil || result.SwitchedAt.Before(before) || len(result.Nodes) != 1 {
		t.Errorf("enforce: %+v", result)
	}
	e := h.post(cartPath+"/promote", slotChange(1, result.Summary.Version-1)).problem(409, ErrorCodeConflict)
	if !strings.Contains(e.Message, "already enforced") {
		t.Error(e.Message)
	}
	version := result.Summary.Version
	h.post(cartPath+"/rollback", slotChange(1, version)).want(200).into(&result)
	if result.Summary.IngressStage != Audit || deref(result.Summary.Requested.Live) != 2 || deref(result.Summary.Requested.Staged) != 1 {
		t.Errorf("rollback: %+v", result)
	}
	e = h.post(cartPath+"/rollback", slotChange(1, version)).problem(409, ErrorCodeConflict)
	if !strings.Contains(e.Message, "already rolled back") {
		t.Error(e.Message)
	}
	h.post(cartPath+"/unstage", slotChange(1, result.Summary.Version)).want(200).into(&result)
	if result.Summary.IngressStage != Observe {
		t.Errorf("unstage: %+v", result)
	}

	var revs []Revision
	h.get(cartPath + "/revisions").want(200).into(&revs)
	if len(revs) != 2 || revs[0].Origin != RevisionOriginRollback || revs[0].Policy.IsolateIngress || deref(revs[0].Parent) != 1 {
		t.Errorf("revisions: %+v", revs)
	}
	h.get(cartPath + "/revisions/1").want(200)
	h.get(cartPath+"/revisions/9").problem(404, ErrorCodeNotFound)
	var activity []Activity
	h.get("/api/v1/activity?workload=shop/Host/cart&limit=2").want(200).into(&activity)
	if len(activity) != 2 || activity[0].Action != "unstage" || activity[0].Actor != "admin" || activity[1].Action != "rollback" {
		t.Errorf("activity: %+v", activity)
	}
}

func TestAChangeThatNoNodeAppliesIsAccepted(t *testing.T) {
	h := build(t)
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	var result SlotResult
	h.post(cartPath+"/stage", slotChange(1, 0)).want(202).into(&result)
	if !strings.Contains(deref(result.Detail), "node-1 is not connected") || result.Summary.Effective.Staged != nil || deref(result.Summary.Requested.Staged) != 1 {
		t.Errorf("%+v", result)
	}
	// A node that is there but never gets to it.
	h2 := build(t, func(c *Config, _ *Deps) { c.ApplyTimeout = 10 * time.Millisecond })
	h2.obey()
	h2.post(cartPath+"/revisions", newRevision("0")).want(201)
	h2.post(cartPath+"/stage", slotChange(1, 0)).want(202).into(&result)
	if !strings.Contains(deref(result.Detail), "not every node") {
		t.Errorf("%+v", result)
	}
}

func TestWorkloads(t *testing.T) {
	h := build(t)
	h.node()
	h.flows.set(func(f *fakeFlows) { f.stats = Stats{Edges: 3, Connections: 9, WouldDeny: 2} })
	var list []WorkloadSummary
	h.get("/api/v1/workloads").want(200).into(&list)
	if len(list) != 2 || list[0].Workload.Name != "cart" || list[1].Workload.Name != "front" || list[0].Edges != 3 || list[0].WouldDeny != 2 {
		t.Errorf("%+v", list)
	}
	var w Workload
	h.get(cartPath).want(200).into(&w)
	if len(w.Endpoints) != 1 || len(w.Endpoints[0].Addresses) != 2 || w.Actions.Audit == nil || w.Actions.Enforce == nil || w.Actions.Rollback == nil {
		t.Errorf("%+v", w)
	}
	for _, path := range []string{"/api/v1/workloads/shop/Host/none", "/api/v1/workloads/shop/Host/none/revisions",
		"/api/v1/workloads/shop/Host/none/recommendation", "/api/v1/workloads/shop/Host/none/denials?slot=live"} {
		h.get(path).problem(404, ErrorCodeNotFound)
	}
	var status Status
	h.get("/api/v1/status").want(200).into(&status)
	if len(status.Nodes) != 1 || !status.Nodes[0].Connected || !status.Store.Healthy || status.Learning.Edges != 15 || status.Version != "test" {
		t.Errorf("%+v", status)
	}
}

func TestWithoutClickHouse(t *testing.T) {
	h := build(t)
	h.node()
	h.flows.set(func(f *fakeFlows) { f.err = errors.New("dial tcp 127.0.0.1:9000: connection refused") })
	h.get("/api/v1/workloads").want(200)
	var status Status
	h.get("/api/v1/status").want(200).into(&status)
	if status.Store.Healthy || !strings.Contains(deref(status.Store.Detail), "connection refused") {
		t.Errorf("%+v", status.Store)
	}
	if a := h.do("GET", "/readyz", "").want(503); bytes.Contains(a.body, []byte("9000")) {
		t.Errorf("health tells strangers too much: %s", a.body)
	}
	h.do("GET", "/healthz", "").want(200)
	h.get("/api/v1/flows").problem(503, ErrorCodeUnavailable)
	// Deciding, enforcing and going back need none of it.
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	h.post(cartPath+"/promote", slotChange(1, h.summary().Version)).want(200)
	h.post(cartPath+"/rollback", slotChange(1, h.summary().Version)).want(200)
	h.get(cartPath+"/denials?slot=staged").problem(503, ErrorCodeUnavailable)
}

func TestFlowsAndDenials(t *testing.T) {
	h := build(t)
	h.node()
	var flows []Flow
	h.get("/api/v1/flows?workload=shop/Host/cart&outcome=audited&direction=ingress&protocol=tcp&port=80&limit=7").want(200).into(&flows)
	if q := h.flows.query; q.Workload != cart || q.Outcome != flow.OutcomeAudited || q.Direction != flow.Ingress || !q.HasDirection ||
		q.Protocol != flow.TCP || q.Port != 80 || q.Limit != 7 || q.Until.Sub(q.Since) != defaultWindow {
		t.Errorf("query %+v", q)
	}
	if len(flows) != 1 || flows[0].SourceAddress != "fd00:1::3" || deref(flows[0].Destination.Endpoint) != "cart-1" || flows[0].Staged.Verdict != "deny" {
		t.Errorf("%+v", flows)
	}
	h.get("/api/v1/flows").want(200)
	if h.flows.query.Limit != 100 || h.flows.query.HasDirection {
		t.Errorf("defaults: %+v", h.flows.query)
	}
	var none Denials
	h.get(cartPath + "/denials?slot=live").want(200).into(&none)
	if none.Revision != nil || none.Denials == nil {
		t.Errorf("an empty slot: %+v", none)
	}
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	h.flows.set(func(f *fakeFlows) {
		f.denials = DenialReport{Judged: 10, Denied: 4, Denials: []control.Denial{{
			Direction: flow.Ingress, Source: flow.Party{Reserved: "world", Address: netip.MustParseAddr("198.51.100.66")},
			Destination: flow.Party{Workload: cart}, Protocol: flow.TCP, Port: 22, Reason: flow.ReasonDefault, Connections: 4,
		}}}
	})
	var got Denials
	h.get(cartPath + "/denials?slot=staged").want(200).into(&got)
	if got.Judged != 10 || got.Denied != 4 || deref(got.Revision) != 1 || deref(got.Denials[0].Source.Address) != "198.51.100.66" || got.Denials[0].Port != 22 {
		t.Errorf("%+v", got)
	}
	if h.flows.asked.Slot != flow.SlotStaged || h.flows.asked.Revision != 1 {
		t.Errorf("asked %+v", h.flows.asked)
	}
	h.post(cartPath+"/replay", `{"policy":`+onePolicy+`}`).want(200).into(&got)
	if got.Judged != 1 {
		t.Errorf("replay %+v", got)
	}
	h.get(cartPath + "/recommendation").want(200)
}
