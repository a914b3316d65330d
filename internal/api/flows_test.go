package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/query"
)

const flowsPath = "/api/v1/flows"

func TestFlows(t *testing.T) {
	h := build(t)
	var page FlowPage
	filter := "filter=" + url.QueryEscape(`from.namespace="a shop",b -to.port=443 verdict=audited since=2026-01-02T03:04:05Z`)
	h.get(flowsPath + "?limit=7&" + filter).want(200).into(&page)
	text, after, limit := h.flows.flowsAsked()
	if text != `from.namespace="a shop",b -to.port=443 verdict=audited since=2026-01-02T03:04:05Z` || !after.IsZero() || limit != 7 {
		t.Errorf("asked %q after %v, %d", text, after, limit)
	}
	f := page.Flows[0]
	if f.ID != "abc" || f.SourceAddress != "fd00:1::3" || deref(f.Destination.Endpoint) != "cart-1" || f.Staged.Verdict != "deny" ||
		deref(f.Destination.Labels)["tier"] != "x" || deref(f.Source.Identity) != 2 || f.Observer.Name != "cart" {
		t.Errorf("%+v", f)
	}
	var second FlowPage
	h.get(flowsPath + "?cursor=" + *page.Next + "&" + filter).want(200).into(&second)
	if _, after, _ = h.flows.flowsAsked(); after.ID != 9 || after.Since.IsZero() || second.Next != nil {
		t.Errorf("asked after %+v, answered %+v", after, second)
	}
	h.get(flowsPath+"?filter=protocol%3Dudp&cursor="+*page.Next).problem(400, ErrorCodeInvalid)

	h.get(flowsPath).want(200)
	if text, _, limit := h.flows.flowsAsked(); text != "" || limit != 100 {
		t.Errorf("defaults: %q, %d", text, limit)
	}
	h.get(flowsPath + "?filter=since%3D1h").want(200)
	h.flows.mu.Lock()
	ago := time.Since(h.flows.filter.Since)
	h.flows.mu.Unlock()
	if ago < time.Hour || ago > time.Hour+time.Minute {
		t.Errorf("an hour ago is %s ago", ago)
	}
}

func TestFilterErrorsSayWhere(t *testing.T) {
	h := build(t)
	for filter, want := range map[string]struct {
		column int
		says   string
	}{
		"verdict=audited  frm.port=443": {18, "unknown field"},
		"to.port=443,99999":             {13, "port"},
		"workload=cart":                 {10, "namespace/name"},
		"名前 to.port=1":                  {1, "is no condition"},
	} {
		for _, path := range []string{flowsPath, flowsPath + "/facets", flowsPath + "/tail"} {
			e := h.get(path+"?filter="+url.QueryEscape(filter)).problem(400, ErrorCodeInvalid)
			if deref(e.Column) != want.column || deref(e.Field) != "filter" || !strings.Contains(e.Message, want.says) {
				t.Errorf("%s: %q is refused with %+v, want column %d and %q", path, filter, e, want.column, want.says)
			}
		}
	}
}

func TestFlowsTooMany(t *testing.T) {
	h := build(t)
	h.flows.set(func(f *fakeFlows) {
		f.err = &query.LimitError{Err: errors.New("gave up: ask for a shorter time")}
	})
	for _, path := range []string{flowsPath, flowsPath + "/facets"} {
		if e := h.get(path).problem(400, ErrorCodeInvalid); !strings.Contains(e.Message, "shorter time") {
			t.Errorf("%s: %+v", path, e)
		}
	}
}

func TestFacets(t *testing.T) {
	h := build(t)
	var facets []Facet
	h.get(flowsPath + "/facets?top=5&filter=protocol%3Dtcp").want(200).into(&facets)
	if text, _, top := h.flows.flowsAsked(); text != "protocol=TCP" || top != 5 {
		t.Errorf("asked %q, %d", text, top)
	}
	v := facets[0].Values[0]
	if facets[0].Field != "to.namespace" || v.Value != "a shop" || v.Term != `to.namespace="a shop"` || v.Records != 5 || v.Connections != 3 {
		t.Errorf("%+v", facets)
	}
}

func (m message) flows(t *testing.T) []Flow {
	t.Helper()
	var out []Flow
	if m.kind != "flows" {
		return nil
	}
	if err := json.Unmarshal([]byte(m.data), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTail(t *testing.T) {
	h := build(t)
	l := h.listenTo(flowsPath+"/tail?last=3&filter=protocol%3Dtcp", h.byToken)
	l.await("first event", func(m message) bool { return m.kind == "flows" && m.data == "[]" })
	if text, _, last := h.flows.flowsAsked(); text != "protocol=TCP" || last != 3 {
		t.Errorf("follows %q from %d", text, last)
	}
	come := func(ids ...uint64) {
		h.flows.set(func(f *fakeFlows) {
			for _, id := range ids {
				r := oneRow()
				r.ID = id
				f.arrived = append(f.arrived, r)
			}
		})
	}
	come(1, 2)
	l.await("two flows", func(m message) bool {
		flows := m.flows(t)
		return len(flows) == 2 && flows[0].ID == "1" && flows[1].ID == "2"
	})
	l.await("heartbeat", func(m message) bool { return m.comment != "" })

	h.flows.set(func(f *fakeFlows) { f.err = errors.New("dial tcp: connection refused") })
	l.await("problem", func(m message) bool { return m.kind == "problem" && strings.Contains(m.data, "unavailable") })
	h.flows.set(func(f *fakeFlows) { f.err = nil })
	come(3)
	l.await("flow after the problem", func(m message) bool {
		if m.kind == "problem" {
			t.Error("the same problem is told twice")
		}
		return len(m.flows(t)) == 1
	})

	h.flows.set(func(f *fakeFlows) { f.err = &query.LimitError{Err: fmt.Errorf("too many to follow")} })
	l.await("refusal", func(m message) bool { return m.kind == "problem" && strings.Contains(m.data, "too many to follow") })
	select {
	case <-l.ended:
	case <-time.After(10 * time.Second):
		t.Error("the stream goes on after a refusal")
	}
	if n := len(h.server.streams); n != 0 {
		t.Errorf("%d places are not given back", n)
	}
}

func TestTailIsBounded(t *testing.T) {
	h := build(t, func(c *Config, _ *Deps) { c.MaxStreams = 1 })
	h.listenTo(flowsPath+"/tail", h.byToken).await("flows", func(m message) bool { return m.kind == "flows" })
	h.get(flowsPath+"/tail").problem(429, ErrorCodeRateLimited)
	h.do("GET", flowsPath+"/tail", "").problem(401, ErrorCodeUnauthorized)
}
