package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/lab"
)

var (
	testFrontend = flow.Workload{Namespace: "boutique", Kind: "Host", Name: "frontend"}
	testCart     = flow.Workload{Namespace: "boutique", Kind: "Host", Name: "cart"}
)

// total is what the store says of frontend -> cart TCP/80, seen from direction.
func total(direction flow.Direction, connections, packets, bytes uint64) flow.EdgeTotal {
	return flow.EdgeTotal{
		Direction: direction, Source: flow.Party{Workload: testFrontend}, Destination: flow.Party{Workload: testCart},
		Protocol: flow.TCP, Port: 80, Connections: connections,
		Forward: flow.Counters{Packets: packets / 2, Bytes: bytes / 2},
		Reverse: flow.Counters{Packets: packets - packets/2, Bytes: bytes - bytes/2},
	}
}

func TestCompareFlows(t *testing.T) {
	counted := lab.Counts{Attempts: 10, BytesSent: 400, BytesReceived: 600}
	tests := []struct {
		name   string
		stored []flow.EdgeTotal
		differ string
	}{
		{"equal", []flow.EdgeTotal{total(flow.Egress, 10, 60, 1000+60*66)}, ""},
		{"the other end does not count twice", []flow.EdgeTotal{total(flow.Egress, 10, 60, 1000+60*66), total(flow.Ingress, 10, 60, 1000+60*66)}, ""},
		{"nothing stored", nil, "10 connections counted, 0 stored"},
		{"one lost", []flow.EdgeTotal{total(flow.Egress, 9, 60, 1000+60*66)}, "10 connections counted, 9 stored"},
		{"one too many", []flow.EdgeTotal{total(flow.Egress, 11, 60, 1000+60*66)}, "10 connections counted, 11 stored"},
		{"only the other end", []flow.EdgeTotal{total(flow.Ingress, 10, 60, 1000+60*66)}, "10 connections counted, 0 stored"},
		{"fewer bytes than payload", []flow.EdgeTotal{total(flow.Egress, 10, 60, 999)}, "1000 bytes of payload counted, 999 bytes"},
		{"more bytes than headers explain", []flow.EdgeTotal{total(flow.Egress, 10, 60, 1000+60*maxTCPHeaders+1)}, "1000 bytes of payload counted"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			name := edgeText(testFrontend.String(), testCart.String(), "TCP", 80)
			r := compareFlows(map[string]lab.Counts{name: counted}, tc.stored)
			if tc.differ == "" {
				if r.Matched != 1 || len(r.Differences) != 0 {
					t.Errorf("matched %d, differences %q; want 1 and none", r.Matched, r.Differences)
				}
				return
			}
			if r.Matched != 0 || len(r.Differences) != 1 || !strings.Contains(r.Differences[0], tc.differ) {
				t.Errorf("matched %d, differences %q; want none and one with %q", r.Matched, r.Differences, tc.differ)
			}
		})
	}
}

func TestLearnedEdgesNeedEvidence(t *testing.T) {
	ref := api.RefOf(testFrontend)
	whole := api.Evidence{
		Peer: api.Party{Workload: &ref}, Protocol: "TCP", Port: 80, Connections: 3, Answered: 3, BytesForward: 9,
		SourceEndpoints: 1, DestinationEndpoints: 1,
	}
	whole.FirstSeen, whole.LastSeen = whole.FirstSeen.AddDate(2000, 0, 0), whole.LastSeen.AddDate(2000, 0, 0)
	hollow := whole
	hollow.Answered = 0
	yes := true
	name := edgeText(testFrontend.String(), testCart.String(), "TCP", 80)
	tests := []struct {
		name          string
		rule          api.RecommendedRule
		learned, seen bool
	}{
		{"whole", api.RecommendedRule{Direction: api.Ingress, Evidence: []api.Evidence{whole}}, true, true},
		{"never answered", api.RecommendedRule{Direction: api.Ingress, Evidence: []api.Evidence{hollow}}, true, false},
		{"implied", api.RecommendedRule{Direction: api.Ingress, Implied: &yes, Evidence: []api.Evidence{whole}}, false, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := learnedEdges([]api.Recommendation{{Workload: api.RefOf(testCart), Rules: []api.RecommendedRule{tc.rule}}})
			seen, learned := got[name]
			if learned != tc.learned || seen != tc.seen {
				t.Errorf("learned %v with evidence %v, want %v and %v (all: %v)", learned, seen, tc.learned, tc.seen, got)
			}
		})
	}
}

// goodResult is a run in which every promise was kept.
func goodResult() demoResult {
	return demoResult{
		Edges:   edgeResult{True: 25, Learned: 25, Rare: 2, Evidence: 25},
		Attacks: attackResult{Total: 28, ReachedBefore: 28, ReachedInAudit: 28, FlaggedInAudit: 28, ReachedRolledBack: 28, ReachedPanicked: 28},
		Legit: legitResult{
			Requests: 1000, RequestsAtSwitch: 100, IdleConnections: 36, RequestsAgentKilled: 50,
		},
		Flows:    flowResult{Counted: 500, Stored: 500, Edges: 25, Matched: 25},
		SwitchMS: 20, SwitchMaxMS: 30, RollbackMS: 20, PanicMS: 10, LinksKept: true,
	}
}

func judged(t *testing.T, r demoResult) demoResult {
	t.Helper()
	l, err := lab.New(lab.Config{Command: []string{"unused"}, Logger: newLogger(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	c := &demoCheck{demo: &demo{lab: l}, result: r}
	c.judge()
	return c.result
}

func TestEveryCheckCanFail(t *testing.T) {
	if r := judged(t, goodResult()); !r.Passed {
		t.Fatalf("a good run is judged as failed: %+v", r.Checks)
	}
	tests := map[string]func(*demoResult){
		"true edges learned":                                   func(r *demoResult) { r.Edges.Missing = []string{"x"} },
		"other edges learned":                                  func(r *demoResult) { r.Edges.Extra = []string{"x"} },
		"rare edges learned":                                   func(r *demoResult) { r.Edges.Rare = 1 },
		"true edges with evidence":                             func(r *demoResult) { r.Edges.Evidence = 24 },
		"attacks that got through before":                      func(r *demoResult) { r.Attacks.ReachedBefore = 27 },
		"attacks that got through in audit":                    func(r *demoResult) { r.Attacks.ReachedInAudit = 27 },
		"attacks reported as would-deny":                       func(r *demoResult) { r.Attacks.FlaggedInAudit = 27 },
		"legitimate connections reported as would-deny":        func(r *demoResult) { r.Legit.FlaggedInAudit = 1 },
		"attacks that got through enforced":                    func(r *demoResult) { r.Attacks.ReachedEnforced = 1 },
		"requests that failed in the minute around the switch": func(r *demoResult) { r.Legit.FailedDuringSwitch = 1 },
		"idle connections broken by it":                        func(r *demoResult) { r.Legit.IdleFailed = 1 },
		"click to kernel, median":                              func(r *demoResult) { r.SwitchMS = 100 },
		"click to kernel, slowest":                             func(r *demoResult) { r.SwitchMaxMS = 1000 },
		"attacks that got through with agents killed":          func(r *demoResult) { r.Attacks.ReachedKilled = 1 },
		"requests that failed with agents killed":              func(r *demoResult) { r.Legit.FailedAgentKilled = 1 },
		"attacks that got through after their restart":         func(r *demoResult) { r.Attacks.ReachedRestarted = 1 },
		"restarted agents took the pinned links over":          func(r *demoResult) { r.LinksKept = false },
		"rollback":                                      func(r *demoResult) { r.RollbackMS = 1000 },
		"attacks that got through rolled back":          func(r *demoResult) { r.Attacks.ReachedRolledBack = 27 },
		"attacks that got through enforced again":       func(r *demoResult) { r.Attacks.ReachedEnforcedAgain = 1 },
		"panic with server, agents and ClickHouse dead": func(r *demoResult) { r.PanicMS = 0 },
		"attacks that got through after it":             func(r *demoResult) { r.Attacks.ReachedPanicked = 27 },
		"connections stored":                            func(r *demoResult) { r.Flows.Stored = 499 },
		"edges whose flows match what clients counted":  func(r *demoResult) { r.Flows.Matched = 24 },
		"requests that failed in all":                   func(r *demoResult) { r.Legit.FailedAtAll = 1 },
		"there are attacks":                             func(r *demoResult) { *r = demoResult{} },
	}
	var names []string
	for name, breakIt := range tests {
		names = append(names, name)
		r := goodResult()
		breakIt(&r)
		r = judged(t, r)
		i := slices.IndexFunc(r.Checks, func(c checkResult) bool { return c.Name == name })
		if i < 0 {
			t.Errorf("there is no check %q", name)
		} else if r.Checks[i].OK || r.Passed {
			t.Errorf("check %q passes with %s", name, r.Checks[i].Got)
		}
	}
	for _, c := range judged(t, goodResult()).Checks {
		if !slices.Contains(names, c.Name) {
			t.Errorf("check %q is not seen to fail here", c.Name)
		}
	}
}
