package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Origin is where a revision's policy came from.
type Origin string

// Origins.
const (
	OriginRecommendation Origin = "recommendation"
	OriginEdit           Origin = "edit"
	OriginRollback       Origin = "rollback"
)

// maxComment bounds a revision's comment, in bytes.
const maxComment = 8000

// Revision is one numbered, immutable policy of a workload.
type Revision struct {
	Workload flow.Workload
	Number   uint32
	Parent   uint32 // the newest revision when it was made; 0 if there was none
	Digest   string
	Policy   policy.Policy
	Origin   Origin
	Author   string
	Comment  string
	Created  time.Time
}

// NewRevision is a policy to save as its workload's next revision.
type NewRevision struct {
	Workload flow.Workload
	Policy   policy.Policy
	Origin   Origin
	Comment  string
	Actor    string
	// Parent is the newest revision that the author saw; 0 if there was none.
	Parent uint32
	// Accepted are the flagged rules that the author accepted one by one.
	Accepted []AcceptedFlagged
}

// CreateRevision saves a policy under the workload's next number. Nothing is
// audited or enforced by it.
func (s *Store) CreateRevision(ctx context.Context, n NewRevision) (Revision, error) {
	rev, err := s.createRevision(ctx, n)
	s.metrics.count(ActionCreate, err)
	return rev, err
}

func (s *Store) createRevision(ctx context.Context, n NewRevision) (Revision, error) {
	if err := n.check(); err != nil {
		return Revision{}, err
	}
	if _, err := s.present(n.Workload); err != nil {
		return Revision{}, err
	}
	accepted, err := s.acceptedFlagged(ctx, &n)
	if err != nil {
		return Revision{}, err
	}
	var rev Revision
	err = s.write(ctx, func(t *tx) error {
		id, err := t.known(n.Workload)
		if err != nil {
			return err
		}
		newest, err := t.newest(id)
		if err != nil {
			return err
		}
		if newest != n.Parent {
			return refuse(CodeConflict, "the newest revision of %s is %s, not %s: reload and look again",
				n.Workload, ordinal(newest), ordinal(n.Parent))
		}
		rev, err = t.insert(id, newest, Revision{
			Workload: n.Workload, Policy: n.Policy, Origin: n.Origin, Author: n.Actor, Comment: n.Comment,
		})
		if err != nil {
			return err
		}
		for i := range accepted {
			if err := t.record(accepted[i].accepted(&rev)); err != nil {
				return err
			}
		}
		return t.record(Event{Actor: n.Actor, Action: ActionCreate, Workload: n.Workload, Revision: rev.Number, Text: fmt.Sprintf(
			"%s saved revision %d of %s (%s)", n.Actor, rev.Number, n.Workload, n.Origin)})
	})
	return rev, err
}

func (n *NewRevision) check() error {
	if n.Actor == "" {
		return invalid("", "a revision needs an author")
	}
	if n.Origin != OriginRecommendation && n.Origin != OriginEdit {
		return invalid("origin", "origin %q: want recommendation or edit", n.Origin)
	}
	if len(n.Comment) > maxComment || !utf8.ValidString(n.Comment) {
		return invalid("comment", "the comment is no text of at most %d bytes", maxComment)
	}
	if n.Policy.Workload != n.Workload {
		return invalid("policy.workload", "the policy is of %s, the request is for %s", n.Policy.Workload, n.Workload)
	}
	return CheckPolicy(&n.Policy, "policy.")
}

// CheckPolicy returns an *Error that names the first problem of p and counts the
// others; prefix goes before its path.
func CheckPolicy(p *policy.Policy, prefix string) error {
	err := p.Validate()
	if err == nil {
		return nil
	}
	var first *policy.Problem
	if !errors.As(err, &first) {
		return &Error{Code: CodeInvalid, Message: err.Error(), Err: err}
	}
	text := prefix + first.Path + ": " + first.Text
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 1 {
		text += fmt.Sprintf(" (and %d more problems)", len(joined.Unwrap())-1)
	}
	return &Error{Code: CodeInvalid, Field: prefix + first.Path, Message: oneLine(text), Err: err}
}

// oneLine keeps what somebody sent from forging lines of output.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func ordinal(n uint32) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

// newest returns the workload's highest revision number, 0 if it has none.
func (t *tx) newest(workload flow.Identity) (uint32, error) {
	var n uint32
	err := t.QueryRowContext(t.ctx, "SELECT coalesce(max(number), 0) FROM revisions WHERE workload = ?", workload).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("read newest revision: %w", err)
	}
	return n, nil
}

// insert saves r as the revision that follows newest and returns it complete.
func (t *tx) insert(workload flow.Identity, newest uint32, r Revision) (Revision, error) {
	if newest == math.MaxUint32 {
		return Revision{}, refuse(CodeInternal, "%s has used up its revision numbers", r.Workload)
	}
	r.Policy = policy.Normalize(r.Policy)
	document := r.Policy.Canonical()
	r.Number, r.Parent, r.Digest, r.Created = newest+1, newest, digest(document), t.now.Truncate(time.Microsecond)
	_, err := t.ExecContext(t.ctx, "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		workload, r.Number, r.Parent, r.Digest, document, r.Origin, r.Author, r.Comment, stamp(r.Created))
	if err != nil {
		return Revision{}, fmt.Errorf("store revision %d of %s: %w", r.Number, r.Workload, err)
	}
	return r, nil
}

func digest(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

// Revisions returns all revisions of a workload, newest first.
func (s *Store) Revisions(ctx context.Context, w flow.Workload) ([]Revision, error) {
	id, err := knownWorkload(ctx, s.reads, w)
	if err != nil {
		return nil, err
	}
	rows, err := s.reads.QueryContext(ctx, "SELECT "+revisionColumns+" FROM revisions WHERE workload = ? ORDER BY number DESC", id)
	if err != nil {
		return nil, fmt.Errorf("read revisions of %s: %w", w, err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	revs := []Revision{}
	for rows.Next() {
		r, err := s.scanRevision(rows, w)
		if err != nil {
			return nil, err
		}
		revs = append(revs, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read revisions of %s: %w", w, err)
	}
	return revs, nil
}

// Revision returns one revision. Its policy must not be changed.
func (s *Store) Revision(ctx context.Context, w flow.Workload, number uint32) (Revision, error) {
	id, err := knownWorkload(ctx, s.reads, w)
	if err != nil {
		return Revision{}, err
	}
	return s.revision(ctx, s.reads, id, w, number)
}

const revisionColumns = "number, parent, digest, document, origin, author, comment, created_at"

func (s *Store) revision(ctx context.Context, q querier, id flow.Identity, w flow.Workload, number uint32) (Revision, error) {
	r, err := s.scanRevision(q.QueryRowContext(ctx,
		"SELECT "+revisionColumns+" FROM revisions WHERE workload = ? AND number = ?", id, number), w)
	if errors.Is(err, sql.ErrNoRows) {
		return Revision{}, refuse(CodeNotFound, "%s has no revision %d: list its revisions", w, number)
	}
	return r, err
}

func (s *Store) scanRevision(row interface{ Scan(...any) error }, w flow.Workload) (Revision, error) {
	r := Revision{Workload: w}
	var document []byte
	var created int64
	err := row.Scan(&r.Number, &r.Parent, &r.Digest, &document, &r.Origin, &r.Author, &r.Comment, &created)
	if err != nil {
		return Revision{}, fmt.Errorf("read revision of %s: %w", w, err)
	}
	r.Created = unstamp(created)
	if r.Policy, err = s.documents.read(w, document, r.Digest); err != nil {
		return Revision{}, &Error{Code: CodeInternal, Err: err, Message: fmt.Sprintf(
			"revision %d of %s is damaged (%v): restore the control database from a backup", r.Number, w, err)}
	}
	return r, nil
}

// documents remembers policies by their digest, so that State need not decode
// what cannot have changed. The stored bytes are hashed on every read.
type documents struct {
	mu   sync.Mutex
	byID map[string]policy.Policy
}

// maxDocuments bounds the memory; past it the cache begins anew.
const maxDocuments = 4096

func (d *documents) read(w flow.Workload, document []byte, want string) (policy.Policy, error) {
	if subtle.ConstantTimeCompare([]byte(digest(document)), []byte(want)) != 1 {
		return policy.Policy{}, errors.New("its digest does not match its content")
	}
	d.mu.Lock()
	p, ok := d.byID[want]
	d.mu.Unlock()
	if !ok {
		var err error
		if p, err = policy.Decode(document); err != nil {
			return policy.Policy{}, err
		}
	}
	if p.Workload != w {
		return policy.Policy{}, fmt.Errorf("it is a policy of %s", p.Workload)
	}
	if !ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.byID == nil || len(d.byID) >= maxDocuments {
			d.byID = map[string]policy.Policy{}
		}
		d.byID[want] = p
	}
	return p, nil
}
