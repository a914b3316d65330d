package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// System is the actor of what nobody asked for.
const System = "system"

// LocalRoot is the actor of what is done to the database itself, while no server
// has it.
const LocalRoot = "root on the server's machine"

// Actions of events.
const (
	ActionInventory = "inventory" // another inventory was loaded
	ActionCreate    = "create"    // a revision was saved
	ActionAccept    = "accept"    // a flagged rule was accepted with a revision
	ActionStage     = "stage"     // a revision is audited
	ActionUnstage   = "unstage"   // it no longer is
	ActionPromote   = "promote"   // the audited revision is enforced
	ActionRollback  = "rollback"  // what was live before is live again
	ActionRevert    = "revert"    // a node went back by itself
	ActionLogin     = "login"
	ActionUser      = "user"  // a password was set
	ActionToken     = "token" // an API token was made
)

// Event is one entry of the activity log. Entries form a chain: each one's hash
// covers the hash before it.
type Event struct {
	ID       int64
	Time     time.Time
	Actor    string
	Action   string
	Workload flow.Workload // zero when it concerns none
	Revision uint32        // 0 when it concerns none
	Text     string        // the whole as a sentence
}

// EventFilter selects events; its zero value selects all.
type EventFilter struct {
	Workload flow.Workload
	Before   int64 // only smaller ids, when not 0
	After    int64 // only larger ids
	Limit    int   // at most so many; default 100
}

// hashEvent covers everything in an entry. JSON keeps its fields apart.
func hashEvent(previous []byte, e *Event) []byte {
	content, err := json.Marshal([]any{
		hex.EncodeToString(previous), e.ID, stamp(e.Time), e.Actor, e.Action,
		e.Workload.Namespace, e.Workload.Kind, e.Workload.Name, e.Revision, e.Text,
	})
	if err != nil {
		panic("control: marshal event: " + err.Error()) // strings and numbers always do
	}
	sum := sha256.Sum256(content)
	return sum[:]
}

// record appends an event to the chain.
func (t *tx) record(e Event) error {
	var last int64
	var previous []byte
	err := t.QueryRowContext(t.ctx, "SELECT id, hash FROM events ORDER BY id DESC LIMIT 1").Scan(&last, &previous)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read end of the activity log: %w", err)
	}
	if previous == nil {
		previous = []byte{}
	}
	e.ID, e.Time = last+1, t.now.Truncate(time.Microsecond)
	_, err = t.ExecContext(t.ctx, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		e.ID, stamp(e.Time), e.Actor, e.Action, e.Workload.Namespace, e.Workload.Kind, e.Workload.Name,
		e.Revision, e.Text, previous, hashEvent(previous, &e))
	if err != nil {
		return fmt.Errorf("append to the activity log: %w", err)
	}
	return nil
}

const eventColumns = "id, at, actor, action, namespace, kind, name, revision, message"

func scanEvent(row interface{ Scan(...any) error }, more ...any) (Event, error) {
	var e Event
	var at int64
	err := row.Scan(append([]any{&e.ID, &at, &e.Actor, &e.Action, &e.Workload.Namespace, &e.Workload.Kind,
		&e.Workload.Name, &e.Revision, &e.Text}, more...)...)
	e.Time = unstamp(at)
	return e, err
}

// Events returns the selected events, newest first.
func (s *Store) Events(ctx context.Context, f EventFilter) ([]Event, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query, args := "SELECT "+eventColumns+" FROM events WHERE id > ?", []any{f.After}
	if f.Before > 0 {
		query, args = query+" AND id < ?", append(args, f.Before)
	}
	if !f.Workload.IsZero() {
		query += " AND namespace = ? AND kind = ? AND name = ?"
		args = append(args, f.Workload.Namespace, f.Workload.Kind, f.Workload.Name)
	}
	rows, err := s.reads.QueryContext(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("read activity log: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	events := []Event{}
	for rows.Next() {
		e, err := scanEvent(rows)
		if err != nil {
			return nil, fmt.Errorf("read activity log: %w", err)
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read activity log: %w", err)
	}
	return events, nil
}

// VerifyChain reads the whole activity log and returns an error that names the
// first entry which is not what was written. Only entries cut off its end leave
// no trace in it.
func (s *Store) VerifyChain(ctx context.Context) error {
	err := s.verifyChain(ctx)
	if err != nil && CodeOf(err) == CodeInternal {
		s.metrics.chainIntact.Set(0)
	}
	return err
}

func (s *Store) verifyChain(ctx context.Context) error {
	rows, err := s.reads.QueryContext(ctx, "SELECT "+eventColumns+", previous, hash FROM events ORDER BY id")
	if err != nil {
		return fmt.Errorf("read activity log: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	last, want := int64(0), []byte{}
	for rows.Next() {
		var previous, hash []byte
		e, err := scanEvent(rows, &previous, &hash)
		if err != nil {
			return fmt.Errorf("read activity log: %w", err)
		}
		switch {
		case e.ID != last+1:
			return refuse(CodeInternal, "activity log: entry %d is missing; compare it with a backup", last+1)
		case !bytes.Equal(previous, want) || !bytes.Equal(hash, hashEvent(previous, &e)):
			return refuse(CodeInternal, "activity log: entry %d was changed after it was written; compare it with a backup", e.ID)
		}
		last, want = e.ID, hash
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read activity log: %w", err)
	}
	return nil
}
