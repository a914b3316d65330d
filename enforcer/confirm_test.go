package enforcer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy/policytest"
	"github.com/ringfence/ringfence/internal/rollout"
)

func TestConfirm(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, https()), nil))
	if err := n.e.Confirm(policytest.Subject, 2); err == nil || !strings.Contains(err.Error(), "does not await") {
		t.Errorf("another revision: %v", err)
	}
	if err := n.e.Confirm(policytest.Subject, 1); err != nil {
		t.Fatal(err)
	}
	if got := n.subject(); got.Unconfirmed || got.LiveRevision != 1 {
		t.Errorf("confirmed: %+v", got)
	}
	if err := n.e.Confirm(policytest.Subject, 1); err == nil {
		t.Error("a second confirmation")
	}
	n.clock.Advance(time.Hour)
	if r := n.restart(); r.Error != "" {
		t.Error(r.Error)
	}
	n.packets(flow.VerdictAllow, 1)
	// A State that changes nothing about it asks for no confirmation.
	if got := n.apply(state(2, revision(1, https()), revision(2, closed()))); got.Unconfirmed || got.StagedRevision != 2 {
		t.Errorf("same live revision: %+v", got)
	}
}

func TestLateConfirmationIsRefused(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, closed()), nil))
	n.clock.Advance(10 * time.Second)
	if err := n.e.Confirm(policytest.Subject, 1); err == nil {
		t.Error("confirmed after the deadline")
	}
	n.packets(flow.VerdictUnknown, 0)
}

func TestRevertsWithoutConfirmation(t *testing.T) {
	for _, c := range []struct {
		name     string
		previous *rollout.Revision
		verdict  flow.Verdict
		number   uint32
	}{
		{"to nothing", nil, flow.VerdictUnknown, 0},
		{"to an open policy", revision(1, open()), flow.VerdictAllow, 1},
		{"to a confirmed policy", revision(1, https()), flow.VerdictAllow, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			if got := n.apply(state(1, c.previous, nil)); got.Unconfirmed {
				if err := n.e.Confirm(policytest.Subject, 1); err != nil {
					t.Fatal(err)
				}
			}
			n.apply(state(2, revision(2, closed()), nil))
			n.packets(flow.VerdictDeny, 2)

			n.clock.Advance(10*time.Second - 1)
			n.e.mu.Lock()
			n.e.expire()
			n.e.mu.Unlock()
			n.packets(flow.VerdictDeny, 2)

			n.clock.Advance(1)
			// The very State that was not confirmed does not come back, however
			// often it is sent.
			for range 2 {
				got := n.apply(state(2, revision(2, closed()), nil))
				if got.RevertedFrom != 2 || got.LiveRevision != c.number || got.Unconfirmed {
					t.Errorf("reverted: %+v", got)
				}
				n.packets(c.verdict, c.number)
			}
			n.restart()
			n.apply(state(2, revision(2, closed()), nil))
			n.packets(c.verdict, c.number)

			// The server heard of it, and later asks again.
			if got := n.apply(state(3, c.previous, revision(2, closed()))); got.RevertedFrom != 0 || got.StagedRevision != 2 {
				t.Errorf("after the server heard: %+v", got)
			}
			if got := n.apply(state(4, revision(2, closed()), nil)); !got.Unconfirmed {
				t.Errorf("asked again: %+v", got)
			}
			n.packets(flow.VerdictDeny, 2)
		})
	}
}

// A second change before the first was confirmed goes back to before both.
func TestRevertsToLastConfirmed(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, https()), nil))
	if err := n.e.Confirm(policytest.Subject, 1); err != nil {
		t.Fatal(err)
	}
	n.apply(state(2, revision(2, closed()), nil))
	n.apply(state(3, revision(3, closed()), nil))
	n.clock.Advance(10 * time.Second)
	if got := n.apply(state(3, revision(3, closed()), nil)); got.LiveRevision != 1 || got.RevertedFrom != 3 {
		t.Errorf("got %+v", got)
	}
	n.packets(flow.VerdictAllow, 1)
}

type confirmer func(ctx context.Context, w flow.Workload, revision uint32) error

func (c confirmer) Confirm(ctx context.Context, w flow.Workload, revision uint32) error {
	return c(ctx, w, revision)
}

// Within a bubble the system's clock is the test's.
func TestRun(t *testing.T) {
	run := func(t *testing.T, answer confirmer, then func(e *Enforcer, m *model)) {
		synctest.Test(t, func(t *testing.T) {
			m := newModel(systemClock{})
			e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, answer)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			if _, err := e.Apply(ctx, state(1, revision(1, closed()), nil)); err != nil {
				t.Fatal(err)
			}
			then(e, m)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	live := func(e *Enforcer) rollout.Effective { return e.Report().Workloads[1] }

	t.Run("confirmed", func(t *testing.T) {
		asked := 0
		run(t, func(context.Context, flow.Workload, uint32) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		}, func(e *Enforcer, _ *model) {
			time.Sleep(time.Hour)
			if got := live(e); got.LiveRevision != 1 || got.Unconfirmed || asked != 3 {
				t.Errorf("asked %d times, %+v", asked, got)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		run(t, func(context.Context, flow.Workload, uint32) error { return errors.New("no") }, func(e *Enforcer, _ *model) {
			time.Sleep(10*time.Second - time.Millisecond)
			if got := live(e); got.LiveRevision != 1 {
				t.Errorf("before the deadline: %+v", got)
			}
			time.Sleep(2 * time.Millisecond)
			if got := live(e); got.LiveRevision != 0 || got.RevertedFrom != 1 {
				t.Errorf("after the deadline: %+v", got)
			}
		})
	})
	t.Run("server hangs", func(t *testing.T) {
		run(t, func(ctx context.Context, _ flow.Workload, _ uint32) error { <-ctx.Done(); return ctx.Err() }, func(e *Enforcer, _ *model) {
			time.Sleep(10*time.Second + time.Millisecond)
			if got := live(e); got.RevertedFrom != 1 {
				t.Errorf("after the deadline: %+v", got)
			}
		})
	})
	t.Run("kernel refuses the way back for a while", func(t *testing.T) {
		run(t, func(context.Context, flow.Workload, uint32) error { return errors.New("no") }, func(e *Enforcer, m *model) {
			m.mu.Lock()
			m.fail["Apply"] = errors.New("no memory")
			m.mu.Unlock()
			time.Sleep(12 * time.Second)
			if r := e.Report(); !strings.Contains(strings.Join(r.Problems, " "), "revert shop/Host/cart") || live(e).LiveRevision != 1 {
				t.Errorf("while it refuses: %+v", r)
			}
			m.mu.Lock()
			delete(m.fail, "Apply")
			m.mu.Unlock()
			time.Sleep(2 * time.Second)
			if r := e.Report(); len(r.Problems) != 0 || live(e).RevertedFrom != 1 {
				t.Errorf("afterwards: %+v", r)
			}
		})
	})
	t.Run("drift", func(t *testing.T) {
		run(t, func(context.Context, flow.Workload, uint32) error { return nil }, func(_ *Enforcer, m *model) {
			m.mu.Lock()
			clear(m.tables)
			m.mu.Unlock()
			time.Sleep(11 * time.Second)
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(m.tables) != 2 {
				t.Errorf("%d tables", len(m.tables))
			}
		})
	})
}
