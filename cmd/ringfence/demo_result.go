package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// demoResult is what --check writes to its output file.
type demoResult struct {
	Passed      bool          `json:"passed"`
	Edges       edgeResult    `json:"edges"`
	Attacks     attackResult  `json:"attacks"`
	Legit       legitResult   `json:"legit"`
	Flows       flowResult    `json:"flows"`
	SwitchMS    float64       `json:"switch_ms"`     // click to kernel, median over the workloads
	SwitchMaxMS float64       `json:"switch_max_ms"` // the slowest of them
	RollbackMS  float64       `json:"rollback_ms"`   // slowest rollback
	PanicMS     float64       `json:"panic_ms"`      // the command, with server, agents and store dead
	LinksKept   bool          `json:"links_kept"`    // pinned links survived the agents' death
	Duration    float64       `json:"duration_s"`
	Checks      []checkResult `json:"checks"`
}

type edgeResult struct {
	True     int      `json:"true"`
	Learned  int      `json:"learned"`
	Rare     int      `json:"rare"` // of the true ones, that were learned
	Evidence int      `json:"with_evidence"`
	Missing  []string `json:"missing"`
	Extra    []string `json:"extra"`
}

type attackResult struct {
	Total                int      `json:"total"`
	ReachedBefore        int      `json:"reached_before"`
	ReachedInAudit       int      `json:"reached_in_audit"`
	FlaggedInAudit       int      `json:"flagged_in_audit"`
	ReachedEnforced      int      `json:"reached_enforced"`
	ReachedKilled        int      `json:"reached_agent_killed"`
	ReachedRestarted     int      `json:"reached_agent_restarted"`
	ReachedRolledBack    int      `json:"reached_rolled_back"`
	ReachedEnforcedAgain int      `json:"reached_enforced_again"`
	ReachedPanicked      int      `json:"reached_panicked"`
	Unflagged            []string `json:"unflagged"` // in audit
	// Unexpected names the tries that ended otherwise than they should.
	Unexpected []string `json:"unexpected"`
}

type legitResult struct {
	Requests            uint64   `json:"requests"`
	FailedAtAll         uint64   `json:"failed"`
	FlaggedInAudit      int64    `json:"flagged_in_audit"`
	RequestsAtSwitch    uint64   `json:"requests_during_switch"`
	FailedDuringSwitch  uint64   `json:"failed_during_switch"`
	IdleConnections     int      `json:"idle_connections"`
	IdleFailed          int      `json:"idle_failed"`
	RequestsAgentKilled uint64   `json:"requests_agent_killed"`
	FailedAgentKilled   uint64   `json:"failed_agent_killed"`
	Flagged             []string `json:"flagged"`
	Errors              []string `json:"errors"`
}

type checkResult struct {
	Name string `json:"name"`
	Want string `json:"want"`
	Got  string `json:"got"`
	OK   bool   `json:"ok"`
}

// Limits that the check holds the demo to, in milliseconds.
const (
	switchLimit    = 100.0
	switchMaxLimit = 1000.0
	rollbackLimit  = 1000.0
	panicLimit     = 1000.0
)

// judge compares the numbers with what was promised.
func (c *demoCheck) judge() {
	r := &c.result
	r.Passed = true
	add := func(name string, ok bool, got, want string) {
		r.Checks = append(r.Checks, checkResult{Name: name, Got: got, Want: want, OK: ok})
		r.Passed = r.Passed && ok
	}
	count := func(name string, got, want int) {
		add(name, got == want, fmt.Sprint(got), fmt.Sprint(want))
	}
	below := func(name string, got, limit float64) {
		add(name, got > 0 && got < limit, fmt.Sprintf("%.1f ms", got), fmt.Sprintf("under %.0f ms", limit))
	}
	none := func(name string, got uint64, of uint64) {
		add(name, got == 0 && of > 0, fmt.Sprintf("%d of %d", got, of), "0")
	}

	rare := 0
	for _, e := range c.lab.Scenario().Edges() {
		if e.Rare {
			rare++
		}
	}
	e, a, l := &r.Edges, &r.Attacks, &r.Legit
	count("true edges learned", e.True-len(e.Missing), e.True)
	count("other edges learned", len(e.Extra), 0)
	count("rare edges learned", e.Rare, rare)
	count("true edges with evidence", e.Evidence, e.True)
	add("there are attacks", a.Total > 0, fmt.Sprint(a.Total), "some")
	count("attacks that got through before", a.ReachedBefore, a.Total)
	count("attacks that got through in audit", a.ReachedInAudit, a.Total)
	count("attacks reported as would-deny", a.FlaggedInAudit, a.Total)
	count("legitimate connections reported as would-deny", int(l.FlaggedInAudit), 0)
	count("attacks that got through enforced", a.ReachedEnforced, 0)
	none("requests that failed in the minute around the switch", l.FailedDuringSwitch, l.RequestsAtSwitch)
	none("idle connections broken by it", uint64(l.IdleFailed), uint64(l.IdleConnections)) //nolint:gosec // lengths
	below("click to kernel, median", r.SwitchMS, switchLimit)
	below("click to kernel, slowest", r.SwitchMaxMS, switchMaxLimit)
	count("attacks that got through with agents killed", a.ReachedKilled, 0)
	none("requests that failed with agents killed", l.FailedAgentKilled, l.RequestsAgentKilled)
	count("attacks that got through after their restart", a.ReachedRestarted, 0)
	add("restarted agents took the pinned links over", r.LinksKept, fmt.Sprint(r.LinksKept), "true")
	below("rollback", r.RollbackMS, rollbackLimit)
	count("attacks that got through rolled back", a.ReachedRolledBack, a.Total)
	count("attacks that got through enforced again", a.ReachedEnforcedAgain, 0)
	below("panic with server, agents and ClickHouse dead", r.PanicMS, panicLimit)
	count("attacks that got through after it", a.ReachedPanicked, a.Total)
	add("connections stored", r.Flows.Stored == r.Flows.Counted && r.Flows.Counted > 0,
		fmt.Sprint(r.Flows.Stored), fmt.Sprint(r.Flows.Counted))
	count("edges whose flows match what clients counted", r.Flows.Matched, r.Flows.Edges)
	none("requests that failed in all", l.FailedAtAll, l.Requests)
}

func (c *demoCheck) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a report, for everybody to read
		return err
	}
	doc, err := json.MarshalIndent(c.result, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(doc, '\n'), 0o644) //nolint:gosec // a report, for everybody to read
}
