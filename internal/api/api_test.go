package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

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
	if result.Nodes[0].Confirmed || !strings.Contains(deref(result.Detail), "node-1 is not connected") || result.Summary.Effective.Staged != nil || deref(result.Summary.Requested.Staged) != 1 {
		t.Errorf("%+v", result)
	}
	// A node that is there but never gets to it.
	h2 := build(t, func(c *Config, _ *Deps) { c.ApplyTimeout = 10 * time.Millisecond })
	h2.obey(t.Context())
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

func TestDenials(t *testing.T) {
	h := build(t)
	h.node()
	var none Denials
	h.get(cartPath + "/denials?slot=live").want(200).into(&none)
	if none.Revision != nil || none.Denials == nil {
		t.Errorf("an empty slot: %+v", none)
	}
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	h.flows.set(func(f *fakeFlows) {
		f.denials = DenialReport{Judged: 10, Denied: 4, Denials: []flow.Denial{{
			Direction: flow.Ingress, Source: flow.Party{Reserved: "world", Address: netip.MustParseAddr("198.51.100.66")},
			Destination: flow.Party{Workload: cart}, Protocol: flow.TCP, Port: 22, Reason: flow.ReasonDefault, Connections: 4,
		}}}
	})
	var got Denials
	h.get(cartPath + "/denials?slot=staged").want(200).into(&got)
	if got.Judged != 10 || got.Denied != 4 || deref(got.Revision) != 1 || deref(got.Denials[0].Source.Address) != "198.51.100.66" || got.Denials[0].Port != 22 {
		t.Errorf("%+v", got)
	}
	if q := h.flows.denialsAsked(); q.Slot != flow.SlotStaged || q.Revision != 1 {
		t.Errorf("asked %+v", q)
	}
	h.post(cartPath+"/replay", `{"policy":`+onePolicy+`}`).want(200).into(&got)
	if got.Judged != 1 {
		t.Errorf("replay %+v", got)
	}
	h.get(cartPath + "/recommendation").want(200)
}

// TestAHungClickHouse must not make every page slow.
func TestAHungClickHouse(t *testing.T) {
	h := build(t)
	h.get("/api/v1/workloads").want(200)
	hung := &hungFlows{asked: make(chan struct{}, 100)}
	h.server.deps.Flows = hung
	h.server.stats.now.Load().at = time.Time{}
	h.get("/api/v1/workloads").want(200) // waits once
	begin := time.Now()
	for range 5 {
		h.get("/api/v1/workloads").want(200)
		h.get(cartPath).want(200)
	}
	if took := time.Since(begin); took > statsTimeout || len(hung.asked) != 1 {
		t.Errorf("it took %s and asked %d times", took, len(hung.asked))
	}
	var list []WorkloadSummary
	h.get("/api/v1/workloads").want(200).into(&list)
	if len(list) != 2 {
		t.Errorf("%+v", list)
	}
}

type hungFlows struct {
	fakeFlows
	asked chan struct{}
}

func (f *hungFlows) Stats(ctx context.Context, _ []StatsQuery) (map[flow.Workload]Stats, error) {
	f.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestFlaggedRulesNeedNames: who sends everything in one list is told what he
// did not look at.
func TestFlaggedRulesNeedNames(t *testing.T) {
	h := build(t)
	var p Policy
	if err := json.Unmarshal([]byte(onePolicy), &p); err != nil {
		t.Fatal(err)
	}
	read, err := readPolicy(p, "")
	if err != nil {
		t.Fatal(err)
	}
	rule := policy.Normalize(read).Ingress[0]
	h.flagged = fakeFlags{{Direction: flow.Ingress, Rule: rule, Flags: []control.Flag{{Code: "seen-once", Reason: "one connection"}}}}
	accepting := func(rule, flags string) string {
		return strings.Replace(newRevision("0"), `"parent"`, `"acceptedFlagged":[{"rule":"`+rule+`","flags":[`+flags+`]}],"parent"`, 1)
	}
	for name, body := range map[string]string{
		"nothing accepted": newRevision("0"), "another rule": accepting("feed", `"seen-once"`), "without its flags": accepting(rule.ID, ``),
	} {
		t.Run(name, func(t *testing.T) {
			e := h.on(t).post(cartPath+"/revisions", body).problem(409, ErrorCodeNotReady)
			if missing := deref(e.Missing); len(missing) != 1 || !strings.Contains(missing[0], rule.ID) || !strings.Contains(missing[0], "seen-once (one connection)") {
				t.Errorf("%+v", e)
			}
		})
	}
	h.post(cartPath+"/revisions", accepting(rule.ID, `"seen-once"`)).want(201)
	var events []Activity
	h.get("/api/v1/activity?workload=shop/Host/cart").want(200).into(&events)
	if len(events) != 2 || events[1].Action != "accept" || events[1].Actor != "admin" || !strings.Contains(events[1].Text, "seen-once (one connection)") {
		t.Errorf("%+v", events)
	}
}

func TestInventoryIsServedAsItIs(t *testing.T) {
	h := build(t)
	var got inventory.Inventory
	h.get("/api/v1/inventory").want(200).into(&got)
	if want := h.control.Inventory().Inventory(); !bytes.Equal(got.Canonical(), want.Canonical()) {
		t.Errorf("%s, want %s", got.Canonical(), want.Canonical())
	}
}

func TestPromoteAnywayOverHTTP(t *testing.T) {
	h := build(t)
	h.node()
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	h.unlearned = []string{"watched for 3h of 168h"}
	var w Workload
	h.get(cartPath).want(200).into(&w)
	if deref(w.Actions.Unlearned) == nil || w.Actions.Enforce == nil {
		t.Errorf("%+v", w.Actions)
	}
	h.post(cartPath+"/promote", slotChange(1, 1)).problem(409, ErrorCodeNotReady)
	h.post(cartPath+"/promote", `{"revision":1,"version":1,"anyway":"it is a trial"}`).want(200)
	var events []Activity
	h.get("/api/v1/activity").want(200).into(&events)
	if want := "although watched for 3h of 168h: it is a trial"; !strings.Contains(events[0].Text, want) {
		t.Errorf("%+v lacks %q", events[0], want)
	}
}
