package bpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killSteps is how the child of TestKilledUpgrade is told what to do.
const killSteps = "RF_TEST_KILL"

type killOrder struct {
	Config Config
	Next   bool
	Step   int // to be killed at, from 1
}

// killedChild opens a datapath and is killed on the way.
func killedChild(order string) int {
	var o killOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if o.Next {
		o.Config.object = nextLayout
	}
	o.Config.step = func(*Datapath, string) {
		if o.Step--; o.Step == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	if _, err := Open(o.Config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledUpgrade kills the agent at every step of an upgrade. The next one,
// of either version, goes on: nothing is lost, counted twice or left behind.
func TestKilledUpgrade(t *testing.T) { modes(t, killedUpgradeBy) }

func killedUpgradeBy(t *testing.T, mode AttachMode) {
	t.Helper()
	for _, finish := range []string{"next layout", "former layout"} {
		t.Run(finish, func(t *testing.T) {
			l := newLab(t, attachBy(mode))
			prepareUpgrade(t, l)
			p, q := tcp(web.v4, db.v4, 1000, 80, ""), udp(web.v4, db.v4, 1001, 53)
			l.connect(p)
			l.want(pass, q, "before")
			sent := uint64(4)
			var sum total
			next := false
			done := false
			steps := 0
			for step := 1; !done; step++ {
				l.want(pass, p.with("A"), "not reported")
				sent++
				cfg := l.d.cfg
				if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
					t.Fatal(err)
				}
				done = !killed(t, killOrder{Config: cfg, Next: !next, Step: step})
				if done {
					next = !next
				}
				if finish == "next layout" && !done {
					next = !next
				}
				cfg.object = nil
				if next {
					cfg.object = nextLayout
				}
				l.d = openAt(t, cfg)
				l.openReader()
				l.want(pass, p.reply("A"), "established")
				l.want(pass, q.reply(""), "answer")
				l.want(drop, udp(db.v4, web.v4, 53, uint16(2000+step)), "denied")
				sent += 3
				if step%2 == 0 { // else two or more generations have something to say
					sum.add(l.drainAll())
				}
				steps = step
			}
			if steps < 12 {
				t.Errorf("killed at %d steps only", steps-1)
			}
			l.sweep(10 * time.Second)
			sum.add(l.drainAll())
			if sum.packets() != sent || sum.connections != uint32(steps)+2 {
				t.Errorf("records of %d packets and %d connections, want %d and %d", sum.packets(), sum.connections, sent, steps+2)
			}
			if list := l.generations(); len(list) != 1 {
				t.Errorf("generations %v are left", list)
			}
			t.Logf("killed at %d steps, %d packets, none lost or twice", steps-1, sent)
		})
	}
}

// killed runs the order in a child and reports whether it was killed, and not
// done.
func killed(t *testing.T, o killOrder) bool {
	t.Helper()
	o.Config.Logger = nil
	order, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killSteps+"="+string(order))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.Success() {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); !ok || !status.Signaled() {
		t.Fatalf("child: %v: %s", err, out)
	}
	return true
}
