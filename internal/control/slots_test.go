package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func TestRevisionsAreNumberedAndKept(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.create(allow(80, 443))
	revs, err := f.Revisions(t.Context(), cart)
	if err != nil {
		t.Fatal(err)
	}
	if len(revs) != 2 || revs[0].Number != 2 || revs[0].Parent != 1 || revs[1].Number != 1 || revs[1].Parent != 0 {
		t.Fatalf("%+v", revs)
	}
	want := policy.Normalize(allow(80, 443))
	if diff := cmp.Diff(want, revs[0].Policy, cmp.Comparer(func(a, b flow.Workload) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if revs[0].Digest != policy.Digest(want) {
		t.Errorf("digest %s", revs[0].Digest)
	}
	for _, query := range []string{"UPDATE revisions SET comment = 'x'", "DELETE FROM revisions", "UPDATE events SET actor = 'x'", "DELETE FROM events"} {
		if _, err := f.writes.ExecContext(t.Context(), query); err == nil {
			t.Errorf("%s went through", query)
		}
	}
}

func TestCreateRevisionRefuses(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	bad := allow(80)
	bad.Ingress[0].Ports[0].EndPort = 9
	stranger := allow(80)
	stranger.Workload = front
	unknown := allow(80)
	unknown.Workload.Name = "nobody"
	for name, tc := range map[string]struct {
		n     NewRevision
		code  Code
		field string
	}{
		"stale parent":       {NewRevision{Workload: cart, Policy: allow(80), Origin: OriginEdit, Actor: "ann", Parent: 0}, CodeConflict, ""},
		"parent to come":     {NewRevision{Workload: cart, Policy: allow(80), Origin: OriginEdit, Actor: "ann", Parent: 2}, CodeConflict, ""},
		"invalid policy":     {NewRevision{Workload: cart, Policy: bad, Origin: OriginEdit, Actor: "ann", Parent: 1}, CodeInvalid, "policy.ingress[0].ports[0].endPort"},
		"another's policy":   {NewRevision{Workload: cart, Policy: stranger, Origin: OriginEdit, Actor: "ann", Parent: 1}, CodeInvalid, "policy.workload"},
		"unknown workload":   {NewRevision{Workload: unknown.Workload, Policy: unknown, Origin: OriginEdit, Actor: "ann"}, CodeNotFound, ""},
		"made-up origin":     {NewRevision{Workload: cart, Policy: allow(80), Origin: OriginRollback, Actor: "ann", Parent: 1}, CodeInvalid, "origin"},
		"nobody's":           {NewRevision{Workload: cart, Policy: allow(80), Origin: OriginEdit, Parent: 1}, CodeInvalid, ""},
		"comment of a novel": {NewRevision{Workload: cart, Policy: allow(80), Origin: OriginEdit, Actor: "ann", Parent: 1, Comment: strings.Repeat("x", 9000)}, CodeInvalid, "comment"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.CreateRevision(t.Context(), tc.n)
			if e := wantCode(t, err, tc.code); e.Field != tc.field {
				t.Errorf("field %q, want %q", e.Field, tc.field)
			}
		})
	}
	if revs, _ := f.Revisions(t.Context(), cart); len(revs) != 1 {
		t.Errorf("%d revisions", len(revs))
	}
}

// TestCircle goes observe → audit → enforce → enforce newer → back → back.
func TestCircle(t *testing.T) {
	f := open(t)
	expect := func(step string, live, staged uint32, stage Stage) {
		t.Helper()
		w, err := f.Workload(t.Context(), cart)
		if err != nil {
			t.Fatal(err)
		}
		if w.Requested.Live != live || w.Requested.Staged != staged || w.Ingress != stage || w.Egress != StageObserve {
			t.Fatalf("%s: live %d staged %d %s/%s, want %d %d %s", step, w.Requested.Live, w.Requested.Staged, w.Ingress, w.Egress, live, staged, stage)
		}
	}
	rollback := func() {
		t.Helper()
		if _, err := f.Rollback(t.Context(), f.ask(f.slots().Live)); err != nil {
			t.Fatal(err)
		}
		f.obey()
	}
	expect("begin", 0, 0, StageObserve)
	f.create(allow(80))
	expect("revision 1", 0, 0, StageObserve)
	f.stage(1)
	expect("audit 1", 0, 1, StageAudit)
	f.promote(1)
	expect("enforce 1", 1, 0, StageEnforce)
	f.create(allow(443))
	f.stage(2)
	expect("enforce 1, audit 2", 1, 2, StageEnforce)
	f.promote(2)
	expect("enforce 2", 2, 0, StageEnforce)
	rollback()
	expect("back to what 1 was", 3, 2, StageEnforce)
	rev, err := f.Revision(t.Context(), cart, 3)
	if err != nil || !policy.Equal(rev.Policy, allow(80)) || rev.Origin != OriginRollback || rev.Parent != 2 {
		t.Fatalf("revision 3: %+v, %v", rev, err)
	}
	rollback()
	expect("back to before the first", 4, 2, StageAudit)
	rev, err = f.Revision(t.Context(), cart, 4)
	if err != nil || rev.Policy.IsolateIngress || rev.Policy.IsolateEgress {
		t.Fatalf("revision 4: %+v, %v", rev, err)
	}
	_, err = f.Rollback(t.Context(), f.ask(4))
	wantCode(t, err, CodeConflict)
	f.promote(2)
	expect("enforce 2 again", 2, 0, StageEnforce)
	rollback()
	expect("back to 4", 5, 2, StageAudit)
	if _, err := f.Unstage(t.Context(), f.ask(2)); err != nil {
		t.Fatal(err)
	}
	expect("no more audit", 5, 0, StageObserve)
	if err := f.VerifyChain(t.Context()); err != nil {
		t.Error(err)
	}
	events, err := f.Events(t.Context(), EventFilter{Workload: cart})
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range events {
		actions = append(actions, e.Action)
	}
	want := "unstage rollback promote rollback rollback promote stage create promote stage create"
	if got := strings.Join(actions, " "); got != want {
		t.Errorf("activity %q, want %q", got, want)
	}
}

func TestChangesRefuse(t *testing.T) {
	// Revisions 1 to 4 exist, 1 is enforced, 2 audited.
	f := open(t)
	for i := range 4 {
		f.create(allow(uint16(80 + i)))
	}
	f.stage(1)
	f.promote(1)
	f.stage(2)
	v := f.slots().Version
	ask := func(revision uint32, version uint64) Change {
		return Change{Workload: cart, Revision: revision, Version: version, Actor: "bob"}
	}
	nobody := ask(1, 0)
	nobody.Workload.Name = "nobody"
	type op = func(context.Context, Change) (Slots, error)
	for name, tc := range map[string]struct {
		op   op
		c    Change
		code Code
		want string
	}{
		"audit what is enforced":        {f.Stage, ask(1, v), CodeConflict, "revision 1 of shop/Host/cart is already enforced"},
		"audit twice":                   {f.Stage, ask(2, v), CodeConflict, "already being audited"},
		"audit after a change":          {f.Stage, ask(3, v-1), CodeConflict, "changed meanwhile (ann audits revision 2"},
		"audit what is not":             {f.Stage, ask(9, v), CodeNotFound, "no revision 9"},
		"audit for nobody":              {f.Stage, nobody, CodeNotFound, "not in the inventory"},
		"audit by nobody":               {f.Stage, Change{Workload: cart, Revision: 3, Version: v}, CodeInvalid, "actor"},
		"enforce twice":                 {f.Promote, ask(1, v-2), CodeConflict, "revision 1 of shop/Host/cart is already enforced"},
		"enforce after a change":        {f.Promote, ask(2, v-1), CodeConflict, "changed meanwhile"},
		"enforce another than audited":  {f.Promote, ask(3, v), CodeConflict, "revision 2 is"},
		"enforce what is not":           {f.Promote, ask(9, v), CodeConflict, "revision 2 is"},
		"enforce for nobody":            {f.Promote, nobody, CodeNotFound, "not in the inventory"},
		"roll back another than live":   {f.Rollback, ask(2, v), CodeConflict, "is not live, revision 1 is"},
		"roll back after a change":      {f.Rollback, ask(1, v-1), CodeConflict, "changed meanwhile"},
		"stop auditing another":         {f.Unstage, ask(3, v), CodeConflict, "is not being audited"},
		"stop auditing after a change":  {f.Unstage, ask(2, v-1), CodeConflict, "changed meanwhile"},
		"a version that is not yet one": {f.Stage, ask(3, v+1), CodeConflict, "changed meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.slots()
			_, err := tc.op(t.Context(), tc.c)
			e := wantCode(t, err, tc.code)
			if !strings.Contains(e.Message, tc.want) || strings.Contains(e.Message, "\n") {
				t.Errorf("message %q does not say %q", e.Message, tc.want)
			}
			if f.slots() != before {
				t.Error("the slots changed")
			}
		})
	}
	if _, err := f.Rollback(t.Context(), ask(1, v)); err != nil {
		t.Fatal(err)
	}
	_, err := f.Rollback(t.Context(), ask(1, v))
	if e := wantCode(t, err, CodeConflict); !strings.Contains(e.Message, "was already rolled back: revision 5 is live") {
		t.Error(e.Message)
	}
}

func TestPromoteNeedsAnAudit(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.obey()
	_, err := f.Promote(t.Context(), f.ask(1))
	if e := wantCode(t, err, CodeNotReady); len(e.Missing) != 1 {
		t.Errorf("%+v", e)
	}
	_, err = f.Rollback(t.Context(), f.ask(1))
	wantCode(t, err, CodeConflict)
}

// TestTwoPromotesAtOnce lets many people click at the same moment.
func TestTwoPromotesAtOnce(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	f.stage(1)
	c := f.ask(1)
	const people = 16
	errs := make([]error, people)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range people {
		wg.Go(func() {
			<-start
			_, errs[i] = f.Promote(t.Context(), c)
		})
	}
	close(start)
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if e := wantCode(t, err, CodeConflict); !strings.Contains(e.Message, "already enforced") {
			t.Error(e.Message)
		}
	}
	if won != 1 {
		t.Errorf("%d promotes went through", won)
	}
	if got := f.slots(); got.Live != 1 || got.Version != c.Version+1 {
		t.Errorf("%+v", got)
	}
	if err := f.VerifyChain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAChangeOutlivesItsCaller(t *testing.T) {
	f := open(t)
	f.create(allow(80))
	ctx, cancel := context.WithCancel(t.Context())
	err := f.write(ctx, func(tx *tx) error {
		cancel() // the browser goes away in the middle
		return tx.record(Event{Actor: "ann", Action: ActionLogin, Text: "x"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if e := newest(t, f.Store); e.Text != "x" {
		t.Errorf("the change was lost: %+v", e)
	}
	if err := f.write(ctx, func(*tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a change began after its caller left: %v", err)
	}
}

func TestChainShowsTampering(t *testing.T) {
	for name, tc := range map[string]struct{ query, want string }{
		"an actor":  {"UPDATE events SET actor = 'eve' WHERE id = 2", "entry 2 was changed"},
		"a time":    {"UPDATE events SET at = at + 1 WHERE id = 2", "entry 2 was changed"},
		"a text":    {"UPDATE events SET message = 'nothing' WHERE id = 3", "entry 3 was changed"},
		"a hash":    {"UPDATE events SET hash = zeroblob(32) WHERE id = 1", "entry 1 was changed"},
		"a removal": {"DELETE FROM events WHERE id = 2", "entry 2 is missing"},
		"the first": {"DELETE FROM events WHERE id = 1", "entry 1 is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			f.create(allow(80))
			f.stage(1)
			if err := f.VerifyChain(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, q := range []string{"DROP TRIGGER events_keep", "DROP TRIGGER events_stay", tc.query} {
				if _, err := f.writes.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			if e := wantCode(t, f.VerifyChain(t.Context()), CodeInternal); !strings.Contains(e.Message, tc.want) {
				t.Error(e.Message)
			}
			// It is no reason not to start: going back must stay possible.
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			openAt(t, f.path, f.clock).load()
		})
	}
}

func TestDamagedRevisionIsNotServed(t *testing.T) {
	for name, query := range map[string]string{
		"document":           `UPDATE revisions SET document = replace(CAST(document AS TEXT), '80', '81')`,
		"document of others": `UPDATE revisions SET workload = 257`,
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			f.create(allow(80))
			if name == "document" {
				f.stage(1)
			}
			for _, q := range []string{"DROP TRIGGER revisions_keep", "PRAGMA foreign_keys = 0", strings.Replace(query, "document = replace(CAST(document AS TEXT), '80', '81')",
				"document = CAST(replace(CAST(document AS TEXT), '80', '81') AS BLOB)", 1)} {
				if _, err := f.writes.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			w := cart
			if name != "document" {
				w = front
			}
			_, err := f.Revision(t.Context(), w, 1)
			if e := wantCode(t, err, CodeInternal); !strings.Contains(e.Message, "damaged") {
				t.Error(e.Message)
			}
			if name != "document" {
				return
			}
			// The next change must not hand nodes a state without the slot.
			other := testInventory()
			other.Workloads[1].Labels["tier"] = "web"
			if _, err := f.SetInventory(t.Context(), other, System); err != nil {
				t.Fatal(err)
			}
			if _, err := f.State(t.Context()); CodeOf(err) != CodeInternal {
				t.Errorf("state is %v", err)
			}
		})
	}
}

func TestEventsPage(t *testing.T) {
	f := open(t)
	for range 5 {
		if err := f.RecordLogin(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(time.Second)
	}
	first, err := f.Events(t.Context(), EventFilter{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Events(t.Context(), EventFilter{Limit: 2, Before: first[1].ID})
	if err != nil {
		t.Fatal(err)
	}
	if first[0].ID != 6 || second[0].ID != 4 || len(second) != 2 || !first[0].Time.After(second[0].Time) {
		t.Errorf("%+v\n%+v", first, second)
	}
	rest, err := f.Events(t.Context(), EventFilter{After: 4})
	if err != nil || len(rest) != 2 {
		t.Errorf("%+v, %v", rest, err)
	}
}
