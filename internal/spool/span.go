package spool

import "time"

// MaxSpan is how old a record may be to count for the time that a batch is of.
const MaxSpan = 24 * time.Hour

// Span is the time that records are of.
type Span struct{ Start, End time.Time }

// Add takes a record of time t in, unless it cannot be of that time: it is after
// now, or MaxSpan before.
func (s *Span) Add(t, now time.Time) {
	if t.After(now) || now.Sub(t) > MaxSpan {
		return
	}
	if s.Start.IsZero() || t.Before(s.Start) {
		s.Start = t
	}
	if t.After(s.End) {
		s.End = t
	}
}

// IsZero reports whether nothing was taken in.
func (s *Span) IsZero() bool { return s.Start.IsZero() }
