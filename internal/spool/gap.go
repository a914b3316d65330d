package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/statefile"
)

const gapsName = "gaps.state"

const (
	// joinWithin is how far apart two gaps may be and still become one.
	joinWithin = time.Minute
	// maxGaps bounds those that nobody was told of yet: beyond, the two newest
	// become one.
	maxGaps = 1000
)

// Gap is a time of which records were given up for good.
type Gap struct {
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Records uint64    `json:"records"`
	// Told says that somebody may know of it: it must not change any more.
	Told bool `json:"told,omitempty"`
}

// gaps are those that somebody has yet to be told of, on disk.
type gaps struct {
	Gaps []Gap `json:"gaps"`
	// Removing are the numbers of the files that were given up last. One that is
	// found again was given up already.
	Removing []uint64 `json:"removing"`
}

// with returns g and what is lost with the files.
func (g gaps) with(files []file) gaps {
	out := gaps{Gaps: slices.Clone(g.Gaps)}
	for _, f := range files {
		out.Removing = append(out.Removing, f.number)
		if f.records == 0 {
			continue
		}
		n := len(out.Gaps)
		if n > 0 && !out.Gaps[n-1].Told && (n > maxGaps || out.Gaps[n-1].touches(f)) {
			last := &out.Gaps[n-1]
			last.Records += f.records
			if f.start.Before(last.Start) {
				last.Start = f.start
			}
			if f.end.After(last.End) {
				last.End = f.end
			}
			continue
		}
		out.Gaps = append(out.Gaps, Gap{Start: f.start, End: f.end, Records: f.records})
	}
	return out
}

func (g Gap) touches(f file) bool {
	return !f.start.After(g.End.Add(joinWithin)) && !f.end.Before(g.Start.Add(-joinWithin))
}

// Gap returns the oldest one that is owed to somebody, until Told is called. It
// does not change any more, so that telling it twice can be noticed.
func (s *Spool) Gap() (Gap, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gaps.Gaps) == 0 {
		return Gap{}, false, nil
	}
	if !s.gaps.Gaps[0].Told {
		next := gaps{Gaps: slices.Clone(s.gaps.Gaps), Removing: s.gaps.Removing}
		next.Gaps[0].Told = true
		if err := s.writeGaps(next); err != nil {
			return Gap{}, false, err
		}
	}
	return s.gaps.Gaps[0], true, nil
}

// Told forgets the gap that Gap returned.
func (s *Spool) Told() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeGaps(gaps{Gaps: s.gaps.Gaps[1:], Removing: s.gaps.Removing})
}

func (s *Spool) readGaps() error {
	path := filepath.Join(s.cfg.Dir, gapsName)
	raw, err := statefile.Read(path)
	if damaged, ok := errors.AsType[*statefile.DamagedError](err); ok {
		// Gaps that are told twice are known again; forgotten ones are not.
		s.cfg.Logger.Error("the spool's note of lost records is damaged: the one before is used", "error", damaged)
		raw, err = statefile.ReadPrevious(path)
		if damaged, again := errors.AsType[*statefile.DamagedError](err); again {
			s.cfg.Logger.Error("the one before is damaged, too", "error", damaged)
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &s.gaps); err != nil {
		return fmt.Errorf("spool's note of lost records %s: %w; remove it", path, err)
	}
	for _, n := range s.gaps.Removing {
		s.next = max(s.next, n+1)
	}
	return nil
}

// writeGaps makes g what is owed.
func (s *Spool) writeGaps(g gaps) error {
	raw, err := json.Marshal(g)
	if err == nil {
		err = statefile.Write(filepath.Join(s.cfg.Dir, gapsName), raw)
	}
	if err != nil {
		return fmt.Errorf("note lost records: %w", err)
	}
	s.gaps = g
	return nil
}
