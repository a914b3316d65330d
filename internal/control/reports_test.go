package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rollout"
)

// TestPromoteReadiness spoils one thing at a time.
func TestPromoteReadiness(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*fixture, *rollout.Report)
		want  string // "" when it may be enforced
	}{
		"all well":     {func(*fixture, *rollout.Report) {}, ""},
		"exactly warm": {func(f *fixture, r *rollout.Report) { r.Workloads[0].ObservedSince = f.clock.now().Add(-time.Hour) }, ""},
		"not warm": {func(f *fixture, r *rollout.Report) {
			r.Workloads[0].ObservedSince = f.clock.now().Add(-50 * time.Minute)
		}, "10m0s to go"},
		"since when":      {func(_ *fixture, r *rollout.Report) { r.Workloads[0].ObservedSince = time.Time{} }, "since when"},
		"not attached":    {func(_ *fixture, r *rollout.Report) { r.Workloads[0].Endpoints = 0 }, "0 of 1 endpoints"},
		"under panic":     {func(_ *fixture, r *rollout.Report) { r.Panicked = true }, "panic"},
		"refused":         {func(_ *fixture, r *rollout.Report) { r.Error, r.Workloads[0].StagedRevision = "table full", 0 }, "table full"},
		"refused another": {func(_ *fixture, r *rollout.Report) { r.Error = "shop/Host/front: table full" }, ""},
		"no interface": {func(_ *fixture, r *rollout.Report) {
			r.Problems, r.Workloads[0].Endpoints = []string{"no interface rfc2"}, 0
		}, "no interface rfc2"},
		"other audit":     {func(_ *fixture, r *rollout.Report) { r.Workloads[0].StagedRevision = 7 }, "does not audit revision 1"},
		"says nothing":    {func(_ *fixture, r *rollout.Report) { r.Workloads = nil }, "0 of 1 endpoints"},
		"is disconnected": {func(f *fixture, _ *rollout.Report) { f.Disconnected("node-2") }, "node-2 is not connected"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			f.create(allow(80))
			f.stage(1)
			r := f.report("node-2")
			tc.spoil(f, &r)
			if name != "is disconnected" {
				f.say(r)
			}
			actions, err := f.Actions(t.Context(), cart)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Promote(t.Context(), f.ask(1))
			if tc.want == "" {
				if err != nil || actions.Enforce != "" {
					t.Fatalf("%v, %q", err, actions.Enforce)
				}
				return
			}
			e := wantCode(t, err, CodeNotReady)
			if len(e.Missing) != 1 || !strings.Contains(e.Missing[0], tc.want) {
				t.Errorf("missing %q, want %q", e.Missing, tc.want)
			}
			if actions.Enforce != e.Message || actions.Audit != "" || actions.Rollback == "" {
				t.Errorf("actions %+v", actions)
			}
			if f.slots().Live != 0 {
				t.Error("it is live nevertheless")
			}
		})
	}
}

func TestPromoteNeedsRecentReports(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.stage(1)
	f.clock.advance(6 * time.Second)
	_, err := f.Promote(t.Context(), f.ask(1))
	if e := wantCode(t, err, CodeNotReady); len(e.Missing) != 2 {
		t.Errorf("missing %q", e.Missing)
	}
}

type readiness func() ([]string, error)

func (r readiness) Missing(context.Context, flow.Workload) ([]string, error) { return r() }

func TestPromoteAsksCoverage(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.stage(1)
	f.deps.Readiness = readiness(func() ([]string, error) { return []string{"7 records were lost"}, nil })
	_, err := f.Promote(t.Context(), f.ask(1))
	if e := wantCode(t, err, CodeNotReady); e.Missing[0] != "7 records were lost" {
		t.Errorf("missing %q", e.Missing)
	}
	f.deps.Readiness = readiness(func() ([]string, error) { return nil, errors.New("connection refused") })
	_, err = f.Promote(t.Context(), f.ask(1))
	wantCode(t, err, CodeUnavailable)
	// That nothing is missing holds for a while, that something is does not.
	asked := 0
	f.deps.Readiness = readiness(func() ([]string, error) { asked++; return nil, nil })
	if a, err := f.Actions(t.Context(), cart); err != nil || a.Enforce != "" {
		t.Fatalf("%+v, %v", a, err)
	}
	f.clock.advance(16 * time.Second)
	f.obey()
	if a, err := f.Actions(t.Context(), cart); err != nil || a.Enforce != "" || asked != 2 {
		t.Fatalf("%+v, %v, asked %d times", a, err, asked)
	}
	f.promote(1)
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	// Going back needs neither.
	f.deps.Readiness = readiness(func() ([]string, error) { return nil, errors.New("connection refused") })
	f.Disconnected("node-1")
	if _, err := f.Rollback(t.Context(), f.ask(1)); err != nil {
		t.Error(err)
	}
}

func TestEffectiveAndConfirmed(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.stage(1)
	if _, err := f.Promote(t.Context(), f.ask(1)); err != nil {
		t.Fatal(err)
	}
	look := func() Workload {
		t.Helper()
		w, err := f.Workload(t.Context(), cart)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	if w := look(); w.Requested.Live != 1 || w.EffectiveLive != 0 || w.EffectiveStaged != 1 || w.Confirmed {
		t.Errorf("requested only: %+v", w)
	}
	f.say(f.report("node-1"))
	if w := look(); w.EffectiveLive != 0 || w.Confirmed {
		t.Errorf("one node of two: %+v", w)
	}
	r := f.report("node-2")
	r.Workloads[0].Unconfirmed = true
	f.say(r)
	if w := look(); w.EffectiveLive != 1 || w.EffectiveStaged != 0 || w.Confirmed || w.Nodes[1].LastConfirmed != 0 || w.Nodes[0].LastConfirmed != 1 {
		t.Errorf("both, one unconfirmed: %+v", w)
	}
	for _, tc := range []struct {
		revision uint32
		want     bool
	}{{1, true}, {0, false}, {2, false}} {
		if ok, err := f.ConfirmLive(t.Context(), "node-2", cart, tc.revision); err != nil || ok != tc.want {
			t.Errorf("confirm %d: %v, %v", tc.revision, ok, err)
		}
	}
	if _, err := f.ConfirmLive(t.Context(), "node-9", cart, 1); CodeOf(err) != CodeNotFound {
		t.Error(err)
	}
	f.say(f.report("node-2"))
	if w := look(); !w.Confirmed || w.Nodes[1].LastConfirmed != 1 {
		t.Errorf("all: %+v", w)
	}
}

func TestWaitApplied(t *testing.T) {
	prepare := func(t *testing.T) (*fixture, Slots) {
		f := open(t)
		f.create(allow(80))
		f.stage(1)
		slots, err := f.Promote(t.Context(), f.ask(1))
		if err != nil {
			t.Fatal(err)
		}
		return f, slots
	}
	begin := func(ctx context.Context, f *fixture, want Slots) <-chan error {
		done := make(chan error, 1)
		go func() { done <- f.WaitApplied(ctx, cart, want) }()
		return done
	}
	t.Run("every node", func(t *testing.T) {
		f, slots := prepare(t)
		done := begin(t.Context(), f, slots)
		f.say(f.report("node-1"))
		select {
		case err := <-done:
			t.Fatalf("it ended after one node: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		f.say(f.report("node-2"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		f, slots := prepare(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := begin(ctx, f, slots)
		cancel()
		wantCode(t, <-done, CodeUnavailable)
	})
	t.Run("a node is away", func(t *testing.T) {
		f, slots := prepare(t)
		done := begin(t.Context(), f, slots)
		f.say(f.report("node-1"))
		f.Disconnected("node-2")
		if e := wantCode(t, <-done, CodeUnavailable); !strings.Contains(e.Message, "node-2 is not connected") {
			t.Error(e.Message)
		}
	})
	t.Run("a node refuses", func(t *testing.T) {
		f, slots := prepare(t)
		stale := f.report("node-2")
		stale.Error, stale.Workloads[0].LiveRevision, stale.Workloads[0].StagedRevision = "the table is full", 0, 1
		done := begin(t.Context(), f, slots)
		f.say(stale) // may be about the state before
		f.say(f.report("node-1"))
		select {
		case err := <-done:
			t.Fatalf("it believed a stale refusal: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		f.clock.advance(2 * time.Second)
		f.say(f.report("node-1"))
		f.say(stale)
		if e := wantCode(t, <-done, CodeUnavailable); !strings.Contains(e.Message, "the table is full") {
			t.Error(e.Message)
		}
	})
}

func TestNodeReverts(t *testing.T) {
	// Revision 1 is confirmed, 2 is enforced but goes unconfirmed on node-2.
	prepare := func(t *testing.T) *fixture {
		f := open(t)
		f.create(allow(80))
		f.create(allow(443))
		f.stage(1)
		f.promote(1)
		f.stage(2)
		f.promote(2)
		return f
	}
	reverted := func(f *fixture) rollout.Report {
		r := f.report("node-2")
		r.Workloads[0].LiveRevision, r.Workloads[0].RevertedFrom = 1, 2
		return r
	}
	t.Run("is taken over", func(t *testing.T) {
		f := prepare(t)
		f.say(reverted(f))
		if got := f.slots(); got.Live != 1 || got.Staged != 2 {
			t.Fatalf("%+v", got)
		}
		if e := newest(t, f.Store); e.Action != ActionRevert || e.Actor != System || e.Revision != 2 || !strings.Contains(e.Text, "node-2") {
			t.Errorf("%+v", e)
		}
		state, _ := f.State(t.Context())
		if state.Slots[0].Live.Number != 1 {
			t.Errorf("%+v", state.Slots)
		}
	})
	t.Run("to nothing", func(t *testing.T) {
		f := open(t)
		f.create(allow(80))
		f.stage(1)
		f.promote(1)
		r := f.report("node-1")
		r.Workloads[0].LiveRevision, r.Workloads[0].RevertedFrom = 0, 1
		f.say(r)
		if got := f.slots(); got.Live != 0 || got.Staged != 1 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("is told twice, acted on once", func(t *testing.T) {
		f := prepare(t)
		r := reverted(f)
		f.say(r)
		v := f.slots().Version
		f.say(r)
		if f.slots().Version != v {
			t.Error("a repeated report changed the slots")
		}
	})
	t.Run("is old", func(t *testing.T) {
		f := prepare(t)
		old := reverted(f)
		f.say(old)
		for _, node := range []string{"node-1", "node-2"} {
			f.say(f.report(node))
		}
		if _, err := f.Promote(t.Context(), f.ask(2)); err != nil {
			t.Fatal(err)
		}
		f.say(old) // a heartbeat from before the new attempt
		if got := f.slots(); got.Live != 2 {
			t.Fatalf("a stale report undid a promote: %+v", got)
		}
		f.say(reverted(f)) // the new attempt fails too
		if got := f.slots(); got.Live != 1 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("was seen applied", func(t *testing.T) {
		f := prepare(t)
		r := reverted(f)
		r.Generation-- // another workload kept the node from applying the state whole
		f.say(r)
		if got := f.slots(); got.Live != 1 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("by a stranger", func(t *testing.T) {
		f := prepare(t)
		r := reverted(f)
		r.Node = "node-9"
		wantCode(t, f.Report(t.Context(), r), CodeNotFound)
		if got := f.slots(); got.Live != 2 {
			t.Fatalf("%+v", got)
		}
	})
}

func TestUpdatedIsQuietOnHeartbeats(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.stage(1)
	told := func(r rollout.Report) bool {
		t.Helper()
		updated := f.Updated()
		f.say(r)
		select {
		case <-updated:
			return true
		default:
			return false
		}
	}
	r := f.report("node-1")
	f.clock.advance(time.Second)
	r.Time = f.clock.now()
	if told(r) {
		t.Error("a heartbeat that says nothing new was announced")
	}
	r.Problems = []string{"no interface rfc1"}
	if !told(r) {
		t.Error("a problem was not announced")
	}
	r.Panicked = true
	if !told(r) {
		t.Error("a panic was not announced")
	}
	f.Disconnected("node-1")
	if !told(r) {
		t.Error("a node that came back was not announced")
	}
}

// TestPromoteAnyway: a person may pass over what learning lacks, for a reason,
// and over nothing else.
func TestPromoteAnyway(t *testing.T) {
	lacking := readiness(func() ([]string, error) {
		return []string{"watched for 3h of 168h", "20 of 168 hours of the week"}, nil
	})
	away := readiness(func() ([]string, error) { return nil, errors.New("connection refused") })
	for name, tc := range map[string]struct {
		readiness readiness
		reason    string
		cut       bool // a node is away
		code      Code // "" when it goes through
		said      string
	}{
		"without a reason":        {lacking, "", false, CodeInvalid, ""},
		"while a node is away":    {lacking, "audit tomorrow", true, CodeNotReady, ""},
		"although learning lacks": {lacking, "audit tomorrow", false, "", "enforces revision 1 of shop/Host/cart, although watched for 3h of 168h; 20 of 168 hours of the week: audit tomorrow"},
		"while the store is away": {away, "it burns", false, "", "although whether it is ready cannot be told: connection refused: it burns"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			f.create(allow(80))
			f.stage(1)
			f.deps.Readiness = tc.readiness
			if tc.cut {
				f.Disconnected("node-2")
			}
			actions, err := f.Actions(t.Context(), cart)
			want := 2
			if tc.cut || name == "while the store is away" {
				want = 0
			}
			if err != nil || len(actions.Unlearned) != want {
				t.Errorf("%+v, %v", actions, err)
			}
			c := f.ask(1)
			c.Anyway, c.Reason = true, tc.reason
			_, err = f.Promote(t.Context(), c)
			if tc.code != "" {
				if e := wantCode(t, err, tc.code); tc.cut && (len(e.Missing) != 1 || !strings.Contains(e.Missing[0], "node-2 is not connected")) {
					t.Errorf("%+v", e)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			events, err := f.Events(t.Context(), EventFilter{Workload: cart, Limit: 1})
			if err != nil || !strings.Contains(events[0].Text, tc.said) {
				t.Errorf("%+v, %v", events, err)
			}
		})
	}
}
