package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/statefile"
)

// MinBytes is the least that Config.MaxBytes may be: room for a few batches.
const MinBytes = 16 << 20

// Config says where the spool is and how large it may be.
type Config struct {
	// Dir is the spool's own; it is made when missing.
	Dir string
	// MaxBytes bounds its files together; default 1 GiB.
	MaxBytes int64
	// Logger defaults to one that discards.
	Logger *slog.Logger
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("spool directory: missing"))
	}
	if c.MaxBytes != 0 && c.MaxBytes < MinBytes {
		errs = append(errs, fmt.Errorf("spool of %d bytes: want at least %d", c.MaxBytes, MinBytes))
	}
	return errors.Join(errs...)
}

// Batch is what is inserted at once, under one token.
type Batch struct {
	Token string
	Rows  []flow.Labelled
	// Start and End are the time that the rows are of.
	Start, End time.Time
	// Doubt says that the store may have it already.
	Doubt bool

	number uint64
}

// Level says how full the spool is, and what it gave up since it was opened.
type Level struct {
	Batches int
	Records uint64
	Bytes   int64
	Full    uint64 // records given up to make room
	Damaged uint64 // records of damaged files
	Refused uint64 // records that the store will never take
}

// Spool is a directory of batches. It is safe for concurrent use, but for Take
// and Done, which one goroutine calls.
type Spool struct {
	cfg Config

	mu     sync.Mutex
	files  []file // oldest first
	next   uint64
	taken  uint64 // the number of the file that is being inserted; 0 for none
	level  Level
	gaps   gaps
	buffer []byte
}

// Open reads the directory.
func Open(cfg Config) (*Spool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Spool{cfg: cfg, next: 1}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	if err := s.readGaps(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("read spool directory: %w", err)
	}
	for _, e := range entries {
		if err := s.find(e); err != nil {
			return nil, fmt.Errorf("read spool directory: %w", err)
		}
	}
	slices.SortFunc(s.files, func(a, b file) int { return int(a.number) - int(b.number) }) //nolint:gosec // far below 2^63
	return s, nil
}

// find takes an entry of the directory up.
func (s *Spool) find(e fs.DirEntry) error {
	path := filepath.Join(s.cfg.Dir, e.Name())
	f, ok := parseName(e.Name())
	switch {
	case strings.HasSuffix(e.Name(), ".tmp"):
		return os.Remove(path) // was never finished
	case strings.HasPrefix(e.Name(), gapsName):
		return nil
	case !ok:
		s.cfg.Logger.Warn("a file in the spool is not ringfence's: it is left alone; remove it", "file", path)
		return nil
	}
	s.next = max(s.next, f.number+1)
	if slices.Contains(s.gaps.Removing, f.number) {
		return os.Remove(path) // it was given up, and that is noted
	}
	info, err := e.Info()
	if err != nil {
		return err
	}
	f.bytes = info.Size()
	s.add(f)
	return nil
}

// Put writes b. When it returns nil, b is on disk; when it fails, it is not.
func (s *Spool) Put(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer = Encode(s.buffer[:0], b)
	size := int64(statefile.Size(len(s.buffer)))
	if size > s.cfg.MaxBytes {
		return fmt.Errorf("spool batch: it has %d bytes, the spool may have %d", size, s.cfg.MaxBytes)
	}
	if err := s.makeRoom(size); err != nil {
		return fmt.Errorf("make room in spool: %w", err)
	}
	f := file{number: s.next, records: uint64(len(b.Rows)), start: b.Start, end: b.End, doubt: b.Doubt, bytes: size}
	if err := statefile.Write(s.path(f), s.buffer); err != nil {
		return fmt.Errorf("spool batch: %w", errors.Join(err, statefile.Remove(s.path(f))))
	}
	s.next++
	s.add(f)
	return nil
}

// Take returns the oldest batch, which is in doubt from now on, or false when
// there is none. Damaged ones before it are given up.
func (s *Spool) Take() (Batch, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) > 0 {
		f := &s.files[0]
		b, err := s.read(*f)
		if damaged, ok := errors.AsType[*statefile.DamagedError](err); ok {
			s.cfg.Logger.Error("a spooled batch is damaged: its records are lost", "records", f.records, "error", damaged)
			if err := s.giveUp([]file{*f}, &s.level.Damaged); err != nil {
				return Batch{}, false, err
			}
			continue
		}
		if err != nil {
			return Batch{}, false, fmt.Errorf("read spooled batch: %w", err)
		}
		b.Doubt = f.doubt
		if !f.doubt {
			sure := s.path(*f)
			f.doubt = true
			if err := os.Rename(sure, s.path(*f)); err != nil {
				f.doubt = false
				return Batch{}, false, fmt.Errorf("mark spooled batch: %w", err)
			}
		}
		s.taken = f.number
		return b, true, nil
	}
	return Batch{}, false, nil
}

// Done removes a batch that was taken and is stored.
func (s *Spool) Done(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.files, func(f file) bool { return f.number == b.number })
	if i < 0 {
		return nil
	}
	if err := statefile.Remove(s.path(s.files[i])); err != nil {
		return fmt.Errorf("remove spooled batch: %w", err)
	}
	s.drop(i)
	s.taken = 0
	return nil
}

// GiveUp removes a batch that was taken and that nobody will store. Its records
// are lost, and that is noted.
func (s *Spool) GiveUp(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.files, func(f file) bool { return f.number == b.number })
	if i < 0 {
		return nil
	}
	s.taken = 0
	return s.giveUp([]file{s.files[i]}, &s.level.Refused)
}

// Newest returns the token of the batch that was put last, "" when there is none
// or it is damaged.
func (s *Spool) Newest() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return "", nil
	}
	b, err := s.read(s.files[len(s.files)-1])
	if _, damaged := errors.AsType[*statefile.DamagedError](err); damaged {
		return "", nil
	}
	return b.Token, err
}

// Level returns how full the spool is.
func (s *Spool) Level() Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level
}

// makeRoom gives the oldest batches up until size bytes fit.
func (s *Spool) makeRoom(size int64) error {
	var victims []file
	left := s.level.Bytes
	// What is in doubt goes only when nothing else is left.
	for _, doubt := range []bool{false, true} {
		for _, f := range s.files {
			if left+size <= s.cfg.MaxBytes {
				break
			}
			if f.doubt == doubt && f.number != s.taken {
				victims = append(victims, f)
				left -= f.bytes
			}
		}
	}
	if left+size > s.cfg.MaxBytes {
		return errors.New("the only other batch is being sent")
	}
	if len(victims) == 0 {
		return nil
	}
	return s.giveUp(victims, &s.level.Full)
}

// giveUp notes what is lost with the files, counts it, and then removes them.
func (s *Spool) giveUp(victims []file, lost *uint64) error {
	next := s.gaps.with(victims)
	if err := s.writeGaps(next); err != nil {
		return err
	}
	for _, v := range victims {
		*lost += v.records
		s.drop(slices.IndexFunc(s.files, func(f file) bool { return f.number == v.number }))
		if err := statefile.Remove(s.path(v)); err != nil {
			return err // it is noted, and so removed when the spool is opened again
		}
	}
	return nil
}

func (s *Spool) read(f file) (Batch, error) {
	raw, err := statefile.Read(s.path(f))
	if errors.Is(err, fs.ErrNotExist) {
		err = &statefile.DamagedError{Path: s.path(f), Why: "it is gone"}
	}
	if err != nil {
		return Batch{}, err
	}
	b, err := Decode(raw)
	if err == nil && uint64(len(b.Rows)) != f.records {
		err = fmt.Errorf("it has %d records", len(b.Rows))
	}
	if err != nil {
		return Batch{}, &statefile.DamagedError{Path: s.path(f), Why: err.Error()}
	}
	b.Start, b.End, b.number = f.start, f.end, f.number
	return b, nil
}

func (s *Spool) path(f file) string { return filepath.Join(s.cfg.Dir, f.name()) }

func (s *Spool) add(f file) {
	s.files = append(s.files, f)
	s.level.Batches++
	s.level.Records += f.records
	s.level.Bytes += f.bytes
}

func (s *Spool) drop(i int) {
	f := s.files[i]
	s.files = slices.Delete(s.files, i, i+1)
	s.level.Batches--
	s.level.Records -= f.records
	s.level.Bytes -= f.bytes
}
