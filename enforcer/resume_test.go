package enforcer

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

func TestCrashWhileUnconfirmed(t *testing.T) {
	t.Run("deadline passed", func(t *testing.T) {
		n := newNode(t)
		n.apply(state(1, revision(1, https()), nil))
		if err := n.e.Confirm(policytest.Subject, 1); err != nil {
			t.Fatal(err)
		}
		n.apply(state(2, revision(2, closed()), nil))
		n.clock.Advance(time.Minute)
		n.packets(flow.VerdictDeny, 2)
		// The new process goes back in one step: what is overdue is not put in
		// force again first.
		n.m.step = func() {
			key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
			if got := n.m.judge(key, netip.MustParseAddr("192.0.2.7"), flow.TCP, 443); n.m.calls["Apply"] > 2 && got.revision != 1 {
				t.Errorf("revision %d is in force", got.revision)
			}
		}
		n.restart()
		n.packets(flow.VerdictAllow, 1)
		if got := n.subject(); got.RevertedFrom != 2 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("time left", func(t *testing.T) {
		n := newNode(t)
		n.apply(state(1, revision(2, closed()), nil))
		n.clock.Advance(4 * time.Second)
		n.restart()
		got := n.subject()
		if !got.Unconfirmed || !got.Deadline.Equal(n.clock.Now().Add(6*time.Second)) {
			t.Errorf("got %+v", got)
		}
		n.packets(flow.VerdictDeny, 2)
		if err := n.e.Confirm(policytest.Subject, 2); err != nil {
			t.Error(err)
		}
	})
	t.Run("before the switch", func(t *testing.T) {
		n := newNode(t)
		n.apply(state(1, nil, nil))
		// The process dies between the state file and the kernel.
		before := n.m.tables
		n.apply(state(2, revision(2, closed()), nil))
		n.m.tables = before
		n.packets(flow.VerdictUnknown, 0)
		n.restart()
		n.packets(flow.VerdictDeny, 2)
		if got := n.subject(); !got.Unconfirmed {
			t.Errorf("got %+v", got)
		}
	})
}

func TestRestartWithoutServer(t *testing.T) {
	n := newNode(t)
	n.apply(state(7, revision(1, https()), revision(2, closed())))
	if err := n.e.Confirm(policytest.Subject, 1); err != nil {
		t.Fatal(err)
	}
	switches := n.m.calls["Apply"]
	r := n.restart()
	if r.Generation != 7 || r.Error != "" {
		t.Errorf("report %+v", r)
	}
	if n.m.calls["Apply"] != switches {
		t.Error("policies that were right were written again")
	}
	// The machine rebooted: the kernel is empty.
	n.m = newModel(n.clock)
	n.restart()
	n.packets(flow.VerdictAllow, 1)
	if got := n.subject(); got.StagedRevision != 2 || got.Endpoints != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestDamagedStateFileLeavesKernelAlone(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, closed()), nil))
	path := filepath.Join(n.dir, stateName)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-3] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	r := n.restart()
	if !strings.Contains(r.Error, "digest does not match") || !strings.Contains(r.Error, "the kernel keeps what it has") {
		t.Errorf("error %q", r.Error)
	}
	n.packets(flow.VerdictDeny, 1)
	n.clock.Advance(time.Hour)
	n.packets(flow.VerdictDeny, 1)
	// The next State is in charge again, and removes what it does not name.
	n.apply(state(2, nil, nil))
	n.packets(flow.VerdictUnknown, 0)
	if r := n.e.Report(); r.Error != "" || len(n.m.tables) != 0 {
		t.Errorf("error %q, tables %v", r.Error, n.m.tables)
	}
}

func TestKernelRefusesTheSwitch(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, https()), nil))
	if err := n.e.Confirm(policytest.Subject, 1); err != nil {
		t.Fatal(err)
	}
	n.m.fail["Apply"] = errors.New("no memory")
	r, err := n.e.Apply(t.Context(), state(2, revision(2, closed()), nil))
	if err == nil || !strings.Contains(r.Error, "no memory") || r.Generation != 1 || n.subject().LiveRevision != 1 {
		t.Errorf("error %v, report %+v", err, r)
	}
	n.packets(flow.VerdictAllow, 1)
	// Nor does the next process believe in it.
	delete(n.m.fail, "Apply")
	n.restart()
	n.packets(flow.VerdictAllow, 1)
	n.apply(state(2, revision(2, closed()), nil))
	n.packets(flow.VerdictDeny, 2)
}

func TestStateFileThatCannotBeWritten(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, nil, nil))
	blocked := filepath.Join(n.dir, stateName+".tmp")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := n.e.Apply(t.Context(), state(2, revision(2, closed()), nil)); err == nil {
		t.Error("switched without a way back on disk")
	}
	n.packets(flow.VerdictUnknown, 0)
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	n.apply(state(2, revision(2, closed()), nil))
	// The way back itself must not need the disk.
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	n.clock.Advance(10 * time.Second)
	n.e.mu.Lock()
	n.e.expire()
	n.e.mu.Unlock()
	n.packets(flow.VerdictUnknown, 0)
	if r := n.e.Report(); !strings.Contains(strings.Join(r.Problems, " "), "revert shop/Host/cart") {
		t.Errorf("problems %q", r.Problems)
	}
}
