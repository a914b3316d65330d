package gather

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/statefile"
)

const (
	stateName    = "accepted.state"
	groupSuffix  = ".group"
	noteSuffix   = ".note"
	storedSuffix = ".stored"
	// maxGroups is how many groups may wait. One that was stored as the process was
	// killed is sent again after less than twice as many; the store remembers its
	// last 50,000 parts (migrations.Window), of which a group has one a day.
	maxGroups = 4000
	// foldAfter is how many notes of stored groups are added up at once.
	foldAfter = 64
)

// waiting is a group that is not yet stored.
type waiting struct {
	number  uint64
	records uint64
	bytes   int64
	since   time.Time // its first member came
}

// directory is what is on disk. Groups are put by several goroutines, and taken
// by one.
type directory struct {
	cfg      Config
	metrics  *metrics
	accepted *accepted

	putting sync.Mutex
	next    uint64
	// unsure says that files of the next number may be there, which nobody was
	// answered for.
	unsure bool

	mu     sync.Mutex
	groups []waiting // oldest first
	level  Level

	stored []uint64 // groups whose notes are not yet in accepted.state; the taking goroutine's
}

// put writes a group; its batches are accepted when it returns nil, and not
// otherwise.
func (d *directory) put(n note, rows []flow.Labelled) error {
	noted, err := n.encode()
	if err != nil {
		return err
	}
	group := encodeGroup(noted, rows)
	d.putting.Lock()
	defer d.putting.Unlock()
	w := waiting{number: d.next, records: n.records(), bytes: int64(statefile.Size(len(group))), since: n.At}
	// What tells of a loss makes room.
	if l := d.Level(); len(n.Lost) == 0 && (l.Groups >= maxGroups || l.Groups > 0 && l.Bytes+w.bytes > d.cfg.MaxBytes) {
		return ErrFull
	}
	if d.unsure {
		if err := d.clear(w.number); err != nil {
			return fmt.Errorf("remove group that was not answered: %w", err)
		}
	}
	d.unsure = true
	if err := statefile.Write(d.group(w.number), group); err != nil {
		return fmt.Errorf("write group: %w", err)
	}
	if err := statefile.Write(d.note(w.number), noted); err != nil {
		return fmt.Errorf("write note of group: %w", err)
	}
	d.unsure = false
	d.next++
	if err := d.accepted.add(n); err != nil {
		return err
	}
	d.add(w)
	return nil
}

// clear removes the files of a group, the note first: without it a group does
// not count.
func (d *directory) clear(number uint64) error {
	if err := statefile.Remove(d.note(number)); err != nil {
		return err
	}
	return statefile.Remove(d.group(number))
}

// pick returns the newest group or the oldest, and false when there is none.
func (d *directory) pick(newest bool) (waiting, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch n := len(d.groups); {
	case n == 0:
		return waiting{}, false
	case newest:
		return d.groups[n-1], true
	default:
		return d.groups[0], true
	}
}

// read returns a group.
func (d *directory) read(number uint64) (n note, b spool.Batch, err error) {
	err = readWhole(d.group(number), func(raw []byte) error {
		n, b, err = decodeGroup(raw)
		return err
	})
	return n, b, err
}

// readNote returns a group's note, which is in a file of that suffix.
func (d *directory) readNote(number uint64, suffix string) (n note, err error) {
	err = readWhole(d.path(number, suffix), func(raw []byte) error {
		n, err = decodeNote(raw)
		return err
	})
	return n, err
}

// readWhole reads a file that was there. What cannot be decoded is damaged, and
// so is what is gone.
func readWhole(path string, decode func([]byte) error) error {
	raw, err := statefile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &statefile.DamagedError{Path: path, Why: "it is gone"}
	}
	if err != nil {
		return err
	}
	if err := decode(raw); err != nil {
		return &statefile.DamagedError{Path: path, Why: err.Error()}
	}
	return nil
}

// done removes a group, which is stored.
func (d *directory) done(w waiting) error {
	// A note of this name says so. The other may be gone, if it was damaged.
	if err := os.Rename(d.note(w.number), d.path(w.number, storedSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark stored group: %w", err)
	}
	if err := statefile.Remove(d.group(w.number)); err != nil {
		return fmt.Errorf("remove stored group: %w", err)
	}
	d.mu.Lock()
	d.groups = slices.DeleteFunc(d.groups, func(o waiting) bool { return o.number == w.number })
	d.level.Groups--
	d.level.Records -= w.records
	d.level.Bytes -= w.bytes
	d.mu.Unlock()
	d.stored = append(d.stored, w.number)
	return nil
}

// fold adds the notes of stored groups up, when there are many.
func (d *directory) fold(now time.Time) error {
	if len(d.stored) < foldAfter {
		return nil
	}
	d.putting.Lock()
	next := d.next
	d.putting.Unlock()
	raw, err := d.accepted.encode(next, now)
	if err != nil {
		return fmt.Errorf("encode what was accepted: %w", err)
	}
	if err := statefile.Write(filepath.Join(d.cfg.Dir, stateName), raw); err != nil {
		return fmt.Errorf("write what was accepted: %w", err)
	}
	for len(d.stored) > 0 {
		if err := os.Remove(d.path(d.stored[0], storedSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove note of stored group: %w", err)
		}
		d.stored = d.stored[1:]
	}
	return nil
}

// replace puts what tells of a damaged group in its place.
func (d *directory) replace(w waiting) error {
	n, err := d.readNote(w.number, noteSuffix)
	if _, damaged := errors.AsType[*statefile.DamagedError](err); damaged {
		n.Lost, err = d.lostByAnyone(w.number)
	} else {
		n.Lost = append(n.Lost, n.lost()...)
	}
	if err != nil {
		return err
	}
	n.Members = nil
	if err := d.put(n, nil); err != nil {
		return err
	}
	d.metrics.damaged.Inc()
	d.metrics.lost.Add(float64(w.records))
	return d.done(w)
}

// lostByAnyone is for a group that is damaged and its note, too: any node that
// is known may have lost records. A batch is of the day before it was put, see
// spool.Span.
func (d *directory) lostByAnyone(number uint64) ([]flow.Coverage, error) {
	end := time.Now().UTC()
	if info, err := os.Stat(d.group(number)); err == nil {
		end = info.ModTime().UTC()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []flow.Coverage
	for _, name := range d.accepted.names() {
		out = append(out, flow.Coverage{Kind: flow.CoverageDropped, Node: name, Start: end.Add(-spool.MaxSpan), End: end, Dropped: 1})
	}
	return out, nil
}

func (d *directory) add(w waiting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groups = append(d.groups, w)
	d.level.Groups++
	d.level.Records += w.records
	d.level.Bytes += w.bytes
}

// Level returns how much waits.
func (d *directory) Level() Level {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.level
}

func (d *directory) group(number uint64) string { return d.path(number, groupSuffix) }
func (d *directory) note(number uint64) string  { return d.path(number, noteSuffix) }

func (d *directory) path(number uint64, suffix string) string {
	return filepath.Join(d.cfg.Dir, strconv.FormatUint(number, 10)+suffix)
}

var namePattern = regexp.MustCompile(`^([1-9]\d{0,17})(\.group|\.note|\.stored)$`)

// open finds out what is on disk.
func (d *directory) open() error {
	if err := os.MkdirAll(d.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make gather directory: %w", err)
	}
	if err := d.readState(); err != nil {
		return err
	}
	known := d.next // what groups before this one had is in accepted.state
	entries, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return fmt.Errorf("read gather directory: %w", err)
	}
	var notes []noteFile
	var groups []uint64
	for _, e := range entries {
		path := filepath.Join(d.cfg.Dir, e.Name())
		name, unfinished := strings.CutSuffix(e.Name(), ".tmp")
		m := namePattern.FindStringSubmatch(name)
		switch {
		case m == nil && !strings.HasPrefix(name, stateName):
			d.cfg.Logger.Warn("a file in the gather directory is not ringfence's: it is left alone; remove it", "file", path)
		case unfinished:
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("read gather directory: %w", err)
			}
		case m != nil:
			number, _ := strconv.ParseUint(m[1], 10, 64) // 18 digits always fit
			d.next = max(d.next, number+1)
			if m[2] == groupSuffix {
				groups = append(groups, number)
			} else {
				notes = append(notes, noteFile{number, m[2]})
			}
		}
	}
	// In this order, since the last coverage of a node counts.
	slices.SortFunc(notes, func(a, b noteFile) int { return cmp.Compare(a.number, b.number) })
	return d.take(notes, groups, known)
}

// noteFile is that of a group, which is stored if the suffix says so.
type noteFile struct {
	number uint64
	suffix string
}

// take makes known what is on disk: a group has a note until it is stored. One
// that has none is stored, or was not answered.
func (d *directory) take(notes []noteFile, groups []uint64, known uint64) error {
	waits := map[uint64]bool{}
	for _, f := range notes {
		n, err := d.readNote(f.number, f.suffix)
		if damaged, ok := errors.AsType[*statefile.DamagedError](err); ok {
			d.complain(damaged)
			n, err = d.mend(f)
		}
		if err != nil {
			return fmt.Errorf("read gather directory: %w", err)
		}
		if f.number >= known {
			if err := d.accepted.add(n); err != nil {
				return err
			}
		}
		if f.suffix == storedSuffix {
			d.stored = append(d.stored, f.number)
			continue
		}
		waits[f.number] = true
		w := waiting{number: f.number, records: n.records(), since: n.At}
		if info, err := os.Stat(d.group(f.number)); err == nil {
			w.bytes = info.Size()
		}
		d.add(w)
	}
	for _, number := range groups {
		if waits[number] {
			continue
		}
		if err := statefile.Remove(d.group(number)); err != nil {
			return fmt.Errorf("remove group that was stored or not answered: %w", err)
		}
	}
	return nil
}

func (d *directory) complain(damaged error) {
	d.metrics.stateErrors.Inc()
	d.cfg.Logger.Error("what nodes handed over in a group is damaged: unless the group has it, too, a batch of it that is sent again is stored again", "error", damaged)
}

// mend writes a damaged note anew, from its group, and returns it. It is empty
// when there is no group, or that is damaged, too.
func (d *directory) mend(f noteFile) (note, error) {
	n, _, err := d.read(f.number)
	if _, damaged := errors.AsType[*statefile.DamagedError](err); damaged {
		return note{}, nil
	}
	if err != nil {
		return note{}, err
	}
	raw, err := n.encode()
	if err != nil {
		return note{}, err
	}
	return n, statefile.Write(d.path(f.number, f.suffix), raw)
}

// readState reads what earlier groups had.
func (d *directory) readState() error {
	path := filepath.Join(d.cfg.Dir, stateName)
	raw, err := statefile.Read(path)
	if damaged, ok := errors.AsType[*statefile.DamagedError](err); ok {
		d.metrics.stateErrors.Inc()
		d.cfg.Logger.Error("what nodes handed over is damaged: the one before is used, and a batch since then that is sent again is stored again", "error", damaged)
		raw, err = statefile.ReadPrevious(path)
		if damaged, again := errors.AsType[*statefile.DamagedError](err); again {
			d.cfg.Logger.Error("the one before is damaged, too", "error", damaged)
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s state
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return fmt.Errorf("read what nodes handed over, %s: %w: another version wrote it; remove it to go on without", path, err)
	}
	d.next = max(d.next, s.Next)
	if s.Nodes != nil {
		d.accepted.nodes = s.Nodes
	}
	return nil
}
