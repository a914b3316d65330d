package bpf

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// ruleMap returns all rules that the kernel holds.
func (l *lab) ruleMap() map[kernelRfRuleKey]uint64 {
	l.t.Helper()
	rules, err := readMap[kernelRfRuleKey, uint64](l.d.maps.Rules)
	if err != nil {
		l.t.Fatal(err)
	}
	return rules
}

func (l *lab) levels() Levels {
	l.t.Helper()
	levels, err := l.d.Levels()
	if err != nil {
		l.t.Fatal(err)
	}
	return levels
}

func (l *lab) reclaim() {
	l.t.Helper()
	if _, err := l.d.Sweep(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

// entries makes n entries of TCP ports from first, each a rule of its own.
func entries(first uint16, n int) []Entry {
	var list []Entry
	for i := range n {
		list = append(list, allow(dbIdent, flow.TCP, first+64*uint16(i)))
	}
	return list
}

// reopen has another process take the pins over.
func (l *lab) reopen() {
	l.t.Helper()
	_ = l.r.Close()
	if err := l.d.Close(); err != nil {
		l.t.Fatal(err)
	}
	l.d = openAt(l.t, l.d.cfg)
	l.openReader()
}

// TestEqualTablesShare checks that content which the kernel holds already is
// not written again, and that a promote is one store.
func TestEqualTablesShare(t *testing.T) {
	l := newLab(t)
	l.apply(staged(flow.Egress, 1, entries(80, 10)...))
	before := l.ruleMap()
	if len(before) != 10 {
		t.Fatalf("%d rules, want 10", len(before))
	}
	l.want(pass, tcp(web.v4, evil.v4, 1, 80, "S"), "staged")
	promoted := live(flow.Egress, 1, entries(80, 10)...)
	slices.Reverse(promoted.Entries)
	l.apply(promoted, Table{TableKey: staged(flow.Egress, 1).TableKey, Delete: true})
	l.want(drop, tcp(web.v4, evil.v4, 2, 80, "S"), "promoted")
	l.want(pass, tcp(web.v4, db.v4, 2, 80, "S"), "promoted")
	other := promoted
	other.Identity = dbIdent
	l.apply(other)
	if diff := cmp.Diff(before, l.ruleMap()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if n := l.levels(); n.Tables != 1 || n.Entries != 10 || n.RetiredEntries != 0 || n.Workloads != 2 {
		t.Errorf("levels %+v", n)
	}
	// A rule more is another table.
	l.apply(live(flow.Egress, 1, entries(80, 11)...))
	if n := l.levels(); n.Tables != 2 || n.Entries != 21 {
		t.Errorf("levels %+v", n)
	}
}

// TestRetiredTables checks that a table goes once nobody names it, that it can
// come back before, and that none which is named goes.
func TestRetiredTables(t *testing.T) {
	l := newLab(t)
	l.apply(live(flow.Egress, 1, entries(80, 10)...))
	first := l.ruleMap()
	l.apply(live(flow.Egress, 2, entries(90, 5)...))
	if n := l.levels(); n.Tables != 1 || n.Entries != 5 || n.RetiredEntries != 10 || len(l.ruleMap()) != 15 {
		t.Errorf("levels %+v, %d rules", n, len(l.ruleMap()))
	}
	l.apply(live(flow.Egress, 1, entries(80, 10)...))
	l.reclaim()
	if diff := cmp.Diff(first, l.ruleMap()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	l.apply(Table{TableKey: live(flow.Egress, 0).TableKey, Delete: true})
	l.reclaim()
	if n := l.levels(); n.Tables != 0 || n.Entries != 0 || n.RetiredEntries != 0 || len(l.ruleMap()) != 0 {
		t.Errorf("levels %+v, %d rules", n, len(l.ruleMap()))
	}
}

// TestRetiredWhileWaiting checks that a table which was named anew, or only
// just given up, while the kernel was waited for stays.
func TestRetiredWhileWaiting(t *testing.T) {
	l := newLab(t)
	one, two, three := live(flow.Egress, 1, entries(80, 1)...), live(flow.Egress, 2, entries(90, 2)...), live(flow.Egress, 3, entries(100, 4)...)
	l.apply(one)
	l.apply(two)
	l.d.policies.clock++ // the wait begins, one is retired
	now := l.d.policies.clock
	l.apply(one)
	l.apply(three)
	l.apply(two) // one and three are retired since
	if err := l.d.policies.reclaim(now); err != nil {
		t.Fatal(err)
	}
	if n := len(l.ruleMap()); n != 7 {
		t.Errorf("%d rules, want all 7", n)
	}
	l.reclaim()
	if n := len(l.ruleMap()); n != 2 {
		t.Errorf("%d rules, want the 2 in force", n)
	}
}

// TestSharedCapacity checks that tables share the room, that what waits to be
// deleted makes way, and that what does not fit is refused with the numbers.
func TestSharedCapacity(t *testing.T) {
	l := newLab(t) // room for 64 entries
	l.apply(live(flow.Egress, 1, entries(1, 40)...), live(flow.Ingress, 1, entries(100, 20)...))
	kept := l.tables()
	_, err := l.d.Apply([]Table{live(flow.Egress, 2, entries(200, 5)...)})
	if want := "5 new policy entries beside the 60 in force: the kernel holds 64"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if diff := cmp.Diff(kept, l.tables()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	// 40 are retired, and in the way of 44.
	l.apply(Table{TableKey: live(flow.Egress, 0).TableKey, Delete: true})
	l.apply(live(flow.Egress, 3, entries(300, 44)...))
	if n := l.levels(); n.Entries != 64 || n.RetiredEntries != 0 {
		t.Errorf("levels %+v", n)
	}
	// A retired table that is wanted again takes up room like any other.
	l.apply(Table{TableKey: live(flow.Egress, 0).TableKey, Delete: true})
	if _, err := l.d.Apply([]Table{live(flow.Egress, 3, entries(300, 44)...), staged(flow.Egress, 4, allow(dbIdent, flow.TCP, 9))}); err == nil {
		t.Error("no error")
	}
	l.want(pass, tcp(db.v4, web.v4, 1, 100, "S"), "kept")
	l.want(drop, tcp(db.v4, web.v4, 1, 99, "S"), "kept")
}

// TestWriteFails checks that a write which the kernel stops half way leaves
// nothing behind.
func TestWriteFails(t *testing.T) {
	l := newLab(t)
	kept := live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))
	l.apply(kept)
	// Rules that somebody else put there fill the map up.
	for i := range uint32(60) {
		if err := l.d.maps.Rules.Put(kernelRfRuleKey{Table: 14, Peer: i + 1}, uint64(0)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.d.Apply([]Table{live(flow.Egress, 2, entries(100, 10)...), live(flow.Ingress, 2)})
	if err == nil || !strings.Contains(err.Error(), "write policy table of 10 entries") || strings.Contains(err.Error(), "delete") {
		t.Fatalf("error %v", err)
	}
	if n := len(l.ruleMap()); n != 61 {
		t.Errorf("%d rules, want the 61 from before", n)
	}
	if diff := cmp.Diff([]Table{kept}, l.tables()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	l.want(pass, tcp(web.v4, db.v4, 1, 80, "S"), "the kept table")
	l.want(drop, tcp(web.v4, db.v4, 1, 81, "S"), "the kept table")
	// Reading back has found the strangers, so they go.
	l.apply(live(flow.Egress, 2, entries(100, 10)...))
	l.reclaim()
	if n := len(l.ruleMap()); n != 10 {
		t.Errorf("%d rules, want 10", n)
	}
}

// TestAdoptPolicies checks that a process takes over what one before it left,
// wherever that one was in the middle of a change.
func TestAdoptPolicies(t *testing.T) {
	was := live(flow.Egress, 1, entries(80, 10)...)
	next := []Table{live(flow.Egress, 2, entries(90, 5)...), live(flow.Ingress, 2, entries(90, 6)...)}
	for _, c := range []struct {
		name   string
		killed func(l *lab, c *change)
		want   []Table
	}{
		{"before a table was whole", func(l *lab, c *change) {
			for d, im := range c.images {
				number := l.d.policies.freeTable()
				if err := l.d.policies.writeTable(number, d, im); err != nil {
					t.Fatal(err)
				}
				if err := l.d.maps.Rules.Delete(im.rules[0].key(number)); err != nil {
					t.Fatal(err)
				}
				l.d.policies.heads.values[number] = kernelRfTable{}
			}
		}, []Table{was}},
		{"before the switch", func(l *lab, c *change) {
			if err := l.d.policies.write(c); err != nil {
				t.Fatal(err)
			}
		}, []Table{was}},
		{"after the switch", func(l *lab, c *change) {
			if err := l.d.policies.write(c); err != nil {
				t.Fatal(err)
			}
			l.d.policies.point(c)
		}, []Table{next[1], next[0]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.apply(was)
			change, err := newChange(next)
			if err != nil {
				t.Fatal(err)
			}
			c.killed(l, change)
			l.reopen()
			if diff := cmp.Diff(c.want, l.tables()); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			sum := 0
			for _, t := range c.want {
				sum += len(t.Entries)
			}
			before := l.ruleMap()
			l.apply(c.want...)
			l.reclaim()
			if n := len(l.ruleMap()); n != sum || len(before) <= sum {
				t.Errorf("%d rules, of %d, want the %d in force", n, len(before), sum)
			}
			l.apply(next...)
			l.reclaim()
			if diff := cmp.Diff([]Table{next[1], next[0]}, l.tables()); diff != "" || len(l.ruleMap()) != 11 {
				t.Errorf("%d rules; tables (-want +got):\n%s", len(l.ruleMap()), diff)
			}
		})
	}
}

// TestChangedFromOutside checks that a table which is not what was written is
// found out and replaced, not used again.
func TestChangedFromOutside(t *testing.T) {
	for name, spoil := range map[string]func(p *policies, number uint32) error{
		"a rule more": func(p *policies, n uint32) error {
			r := rulesOf([]Entry{allow(evilIdent, flow.TCP, 80)})[0]
			return p.rules.Put(r.key(n), r.ports)
		},
		"a rule less": func(p *policies, n uint32) error { return p.rules.Delete(rulesOf(entries(80, 1))[0].key(n)) },
		"a port more": func(p *policies, n uint32) error {
			r := rulesOf(entries(80, 1))[0]
			return p.rules.Put(r.key(n), r.ports|1)
		},
		"a level not looked at": func(p *policies, n uint32) error {
			p.heads.values[n].Levels = 0
			return nil
		},
		"made open": func(p *policies, n uint32) error {
			p.heads.values[n].Flags |= tableOpen
			return nil
		},
		"taken away": func(p *policies, _ uint32) error {
			p.workloads.values[p.numbers[webIdent]].Egress = 0
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			wanted := live(flow.Egress, 1, entries(80, 2)...)
			l.apply(wanted)
			if err := spoil(&l.d.policies, l.d.policies.byDigest[newDigest(t, wanted)]); err != nil {
				t.Fatal(err)
			}
			if cmp.Equal([]Table{wanted}, l.tables()) {
				t.Fatal("nothing was changed")
			}
			l.apply(wanted)
			if diff := cmp.Diff([]Table{wanted}, l.tables()); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
			l.want(pass, tcp(web.v4, db.v4, 1, 80, "S"), "repaired")
			l.want(drop, tcp(web.v4, evil.v4, 1, 80, "S"), "repaired")
			l.reclaim()
			if n := len(l.ruleMap()); n != 2 {
				t.Errorf("%d rules, want 2", n)
			}
		})
	}
}

func newDigest(t *testing.T, table Table) digest {
	t.Helper()
	im, err := table.image()
	if err != nil {
		t.Fatal(err)
	}
	return im.digest()
}

// TestWorkloadNumbers checks that numbers of workloads that are gone come back,
// and that none of one that is here is given to another.
func TestWorkloadNumbers(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Workloads = 3 }) // web is one of them
	of := func(id flow.Identity) Table {
		t := live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))
		t.Identity = id
		return t
	}
	l.apply(of(400), of(401))
	if _, err := l.d.Apply([]Table{of(402)}); err == nil || !strings.Contains(err.Error(), "1 new workloads beside the 3 in force: the kernel holds 3") {
		t.Errorf("error %v", err)
	}
	l.apply(Table{TableKey: of(401).TableKey, Delete: true})
	number := l.d.policies.numbers[401]
	l.apply(of(402))
	if got := l.d.policies.numbers[402]; got != number {
		t.Errorf("number %d, want %d, which is free", got, number)
	}
	if n := l.levels(); n.Workloads != 3 {
		t.Errorf("%d workloads, want 3", n.Workloads)
	}
	// Web has no table yet, and its endpoint holds its number.
	l.apply(of(webIdent))
	l.want(pass, tcp(web.v4, db.v4, 1, 80, "S"), "own policy")
	l.want(drop, tcp(web.v4, db.v4, 1, 81, "S"), "own policy")
	if err := l.d.Attach(Endpoint{Interface: "web-peer", ID: dbID, Identity: 500}); err == nil || !strings.Contains(err.Error(), "workloads") {
		t.Errorf("error %v", err)
	}
}

// TestGraceClosed checks that a closed datapath waits for nobody.
func TestGraceClosed(t *testing.T) {
	l := newLab(t)
	if err := l.d.policies.grace.wait(); err != nil {
		t.Error(err)
	}
	l.d.policies.grace.close()
	if err := l.d.policies.grace.wait(); !errors.Is(err, errClosed) {
		t.Errorf("error %v", err)
	}
	g, err := newGrace()
	if err != nil {
		t.Fatal(err)
	}
	l.d.policies.grace = g
}
