package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Slots are the revisions that are requested for one workload. A 0 is an empty
// slot.
type Slots struct {
	Live   uint32
	Staged uint32
	// Version rises with every change; a change must name the one it saw.
	Version uint64
	// LiveAt and StagedAt are when the slot took what it holds.
	LiveAt   time.Time
	StagedAt time.Time
	// liveGeneration is the State that brought Live.
	liveGeneration uint64
}

// Change asks for a change of slots.
type Change struct {
	Workload flow.Workload
	// Revision to stage or promote; for a rollback, the live one to go back from.
	Revision uint32
	// Version of the slots that the actor saw.
	Version uint64
	Actor   string
	// Reason is why, for a rollback or a promotion; it may be empty.
	Reason string
	// Anyway promotes although learning is not complete, for a Reason. What nodes
	// lack is not passed over.
	Anyway bool
}

// Stage puts a revision into the staged slot, where it is judged and drops nothing.
func (s *Store) Stage(ctx context.Context, c Change) (Slots, error) {
	slots, err := s.change(ctx, c, func(t *tx, id flow.Identity, now Slots) (Slots, Event, error) {
		if now.Live == c.Revision && c.Revision != 0 {
			return now, Event{}, refuse(CodeConflict, "revision %d of %s is already enforced", c.Revision, c.Workload)
		}
		if now.Staged == c.Revision && c.Revision != 0 {
			return now, Event{}, refuse(CodeConflict, "revision %d of %s is already being audited", c.Revision, c.Workload)
		}
		if err := t.sameVersion(now, c); err != nil {
			return now, Event{}, err
		}
		if _, err := s.revision(t.ctx, t, id, c.Workload, c.Revision); err != nil {
			return now, Event{}, err
		}
		next := now
		next.Staged, next.StagedAt = c.Revision, t.now
		return next, c.event(ActionStage, fmt.Sprintf("%s audits revision %d of %s", c.Actor, c.Revision, c.Workload)), nil
	})
	s.metrics.count(ActionStage, err)
	return slots, err
}

// Unstage empties the staged slot.
func (s *Store) Unstage(ctx context.Context, c Change) (Slots, error) {
	slots, err := s.change(ctx, c, func(t *tx, _ flow.Identity, now Slots) (Slots, Event, error) {
		if now.Staged == 0 {
			return now, Event{}, refuse(CodeConflict, "nothing of %s is being audited", c.Workload)
		}
		if err := t.sameVersion(now, c); err != nil {
			return now, Event{}, err
		}
		if now.Staged != c.Revision {
			return now, Event{}, refuse(CodeConflict, "revision %d of %s is not being audited, revision %d is", c.Revision, c.Workload, now.Staged)
		}
		next := now
		next.Staged, next.StagedAt = 0, time.Time{}
		return next, c.event(ActionUnstage, fmt.Sprintf("%s no longer audits revision %d of %s", c.Actor, c.Revision, c.Workload)), nil
	})
	s.metrics.count(ActionUnstage, err)
	return slots, err
}

// Promote moves the staged revision to the live slot: from then on, what it does
// not allow is dropped.
func (s *Store) Promote(ctx context.Context, c Change) (Slots, error) {
	slots, err := s.promote(ctx, c)
	s.metrics.count(ActionPromote, err)
	return slots, err
}

func (s *Store) promote(ctx context.Context, c Change) (Slots, error) {
	// What needs no database lock is asked before it is taken, but after the
	// cheap refusals, which say more.
	if c.Anyway && c.Reason == "" {
		return Slots{}, invalid("anyway", "anyway: say why it is enforced although learning is not complete")
	}
	unlearned, err := s.refusePromote(ctx, c)
	if err != nil {
		return Slots{}, err
	}
	return s.change(ctx, c, func(t *tx, id flow.Identity, now Slots) (Slots, Event, error) {
		if err := t.promotable(now, c); err != nil {
			return now, Event{}, err
		}
		generation, err := t.nextGeneration()
		if err != nil {
			return now, Event{}, err
		}
		if err := t.recordLive(id, liveChange{Revision: c.Revision, Previous: now.Live, Action: ActionPromote, AuditedAt: now.StagedAt}); err != nil {
			return now, Event{}, err
		}
		text := fmt.Sprintf("%s enforces revision %d of %s", c.Actor, c.Revision, c.Workload)
		if now.Live != 0 {
			text += fmt.Sprintf(" instead of revision %d", now.Live)
		}
		if len(unlearned) > 0 {
			text += ", although " + oneLine(strings.Join(unlearned, "; "))
		}
		next := now
		next.Live, next.LiveAt, next.liveGeneration = c.Revision, t.now, generation
		next.Staged, next.StagedAt = 0, time.Time{}
		return next, c.event(ActionPromote, text), nil
	})
}

// refusePromote returns why c cannot be done now, if it cannot, and otherwise
// what learning lacks that c passes over.
func (s *Store) refusePromote(ctx context.Context, c Change) (unlearned []string, err error) {
	w, err := s.present(c.Workload)
	if err != nil {
		return nil, err
	}
	now, err := readSlots(ctx, s.reads, w.Identity)
	if err != nil {
		return nil, err
	}
	if err := promotable(ctx, s.reads, now, c); err != nil {
		return nil, err
	}
	rev, err := s.revision(ctx, s.reads, w.Identity, c.Workload, c.Revision)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, w, rev, c.Anyway)
}

func (t *tx) promotable(now Slots, c Change) error { return promotable(t.ctx, t, now, c) }

func promotable(ctx context.Context, q querier, now Slots, c Change) error {
	if now.Live == c.Revision && c.Revision != 0 {
		return refuse(CodeConflict, "revision %d of %s is already enforced", c.Revision, c.Workload)
	}
	if err := sameVersion(ctx, q, now, c); err != nil {
		return err
	}
	switch now.Staged {
	case c.Revision:
		if c.Revision != 0 {
			return nil
		}
		fallthrough
	case 0:
		return &Error{Code: CodeNotReady, Message: fmt.Sprintf("revision %d of %s is not being audited: audit it first", c.Revision, c.Workload),
			Missing: []string{fmt.Sprintf("revision %d has not been audited", c.Revision)}}
	}
	return refuse(CodeConflict, "revision %d of %s is not the one being audited, revision %d is: audit it first, or enforce that one",
		c.Revision, c.Workload, now.Staged)
}

func (c *Change) event(action, text string) Event {
	if c.Reason != "" {
		text += ": " + oneLine(c.Reason)
	}
	return Event{Actor: c.Actor, Action: action, Workload: c.Workload, Revision: c.Revision, Text: text}
}

// change reads a workload's slots, lets decide say what they become, and stores
// that with its event.
func (s *Store) change(ctx context.Context, c Change, decide func(*tx, flow.Identity, Slots) (Slots, Event, error)) (Slots, error) {
	if c.Actor == "" {
		return Slots{}, invalid("", "a change needs an actor")
	}
	if _, err := s.present(c.Workload); err != nil {
		return Slots{}, err
	}
	var now, next Slots
	err := s.write(ctx, func(t *tx) error {
		id, err := t.known(c.Workload)
		if err != nil {
			return err
		}
		if now, err = readSlots(t.ctx, t, id); err != nil {
			return err
		}
		var event Event
		if next, event, err = decide(t, id, now); err != nil {
			return err
		}
		if _, err := t.nextGeneration(); err != nil {
			return err
		}
		next.Version = now.Version + 1
		if err := t.storeSlots(id, next); err != nil {
			return err
		}
		return t.record(event)
	}, func() {
		if next.Live != now.Live {
			s.reports.forget(c.Workload)
		}
	})
	if err != nil {
		return Slots{}, err
	}
	return next, nil
}

func (t *tx) sameVersion(now Slots, c Change) error { return sameVersion(t.ctx, t, now, c) }

// sameVersion refuses a change by somebody who saw other slots, and says what
// happened meanwhile.
func sameVersion(ctx context.Context, q querier, now Slots, c Change) error {
	if now.Version == c.Version {
		return nil
	}
	e, err := scanEvent(q.QueryRowContext(ctx, "SELECT "+eventColumns+` FROM events
		WHERE namespace = ? AND kind = ? AND name = ? AND action IN (?, ?, ?, ?, ?) ORDER BY id DESC LIMIT 1`,
		c.Workload.Namespace, c.Workload.Kind, c.Workload.Name,
		ActionStage, ActionUnstage, ActionPromote, ActionRollback, ActionRevert))
	if errors.Is(err, sql.ErrNoRows) {
		return refuse(CodeConflict, "the slots of %s are at version %d, not %d: reload and look again", c.Workload, now.Version, c.Version)
	}
	if err != nil {
		return fmt.Errorf("read last change of %s: %w", c.Workload, err)
	}
	return refuse(CodeConflict, "%s changed meanwhile (%s, %s): reload and look again",
		c.Workload, e.Text, e.Time.Format(time.RFC3339))
}

const slotColumns = "coalesce(live, 0), coalesce(staged, 0), version, live_generation, live_at, staged_at"

func scanSlots(row interface{ Scan(...any) error }, more ...any) (Slots, error) {
	var s Slots
	var liveAt, stagedAt int64
	err := row.Scan(append([]any{&s.Live, &s.Staged, &s.Version, &s.liveGeneration, &liveAt, &stagedAt}, more...)...)
	s.LiveAt, s.StagedAt = unstamp(liveAt), unstamp(stagedAt)
	return s, err
}

func readSlots(ctx context.Context, q querier, workload flow.Identity) (Slots, error) {
	s, err := scanSlots(q.QueryRowContext(ctx, "SELECT "+slotColumns+" FROM slots WHERE workload = ?", workload))
	if errors.Is(err, sql.ErrNoRows) {
		return Slots{}, nil
	}
	if err != nil {
		return Slots{}, fmt.Errorf("read slots: %w", err)
	}
	return s, nil
}

// allSlots returns the slots of every workload that ever had any.
func allSlots(ctx context.Context, q querier) (map[flow.Identity]Slots, error) {
	rows, err := q.QueryContext(ctx, "SELECT "+slotColumns+", workload FROM slots")
	if err != nil {
		return nil, fmt.Errorf("read slots: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	all := map[flow.Identity]Slots{}
	for rows.Next() {
		var id flow.Identity
		s, err := scanSlots(rows, &id)
		if err != nil {
			return nil, fmt.Errorf("read slots: %w", err)
		}
		all[id] = s
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read slots: %w", err)
	}
	return all, nil
}

func (t *tx) storeSlots(workload flow.Identity, s Slots) error {
	number := func(n uint32) any {
		if n == 0 {
			return nil
		}
		return n
	}
	_, err := t.ExecContext(t.ctx, `INSERT INTO slots (workload, live, staged, version, live_generation, live_at, staged_at)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (workload) DO UPDATE SET live = excluded.live, staged = excluded.staged,
		version = excluded.version, live_generation = excluded.live_generation, live_at = excluded.live_at, staged_at = excluded.staged_at`,
		workload, number(s.Live), number(s.Staged), s.Version, s.liveGeneration, stamp(s.LiveAt), stamp(s.StagedAt))
	if err != nil {
		return fmt.Errorf("store slots: %w", err)
	}
	return nil
}

// liveChange says how a revision came to be live.
type liveChange struct {
	Revision  uint32
	Previous  uint32 // what a rollback from it goes back to; 0 for none
	Action    string
	AuditedAt time.Time
	At        time.Time
}

func (t *tx) recordLive(workload flow.Identity, c liveChange) error {
	_, err := t.ExecContext(t.ctx,
		"INSERT INTO live_changes (workload, revision, previous, action, audited_at, at) VALUES (?, ?, ?, ?, ?, ?)",
		workload, c.Revision, c.Previous, c.Action, stamp(c.AuditedAt), stamp(t.now))
	if err != nil {
		return fmt.Errorf("record change of the live slot: %w", err)
	}
	return nil
}

// lastLive returns how a revision last became live; the zero value if it never did.
func lastLive(ctx context.Context, q querier, workload flow.Identity, revision uint32) (liveChange, error) {
	c := liveChange{Revision: revision}
	var audited, at int64
	err := q.QueryRowContext(ctx,
		"SELECT previous, action, audited_at, at FROM live_changes WHERE workload = ? AND revision = ? ORDER BY id DESC LIMIT 1",
		workload, revision).Scan(&c.Previous, &c.Action, &audited, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return liveChange{}, nil
	}
	if err != nil {
		return liveChange{}, fmt.Errorf("read changes of the live slot: %w", err)
	}
	c.AuditedAt, c.At = unstamp(audited), unstamp(at)
	return c, nil
}

// isolates reports whether a policy can drop anything.
func isolates(p *policy.Policy) bool { return p.IsolateIngress || p.IsolateEgress }
