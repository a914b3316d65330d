package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/disk"
)

func open(t *testing.T, dir string) *Spool {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openFor opens a spool that holds n batches of 1000 rows, which differ a little
// in size.
func openFor(t *testing.T, dir string, n int64) *Spool {
	t.Helper()
	one := open(t, t.TempDir())
	put(t, one, batch(0, 1000))
	s := open(t, dir)
	s.cfg.MaxBytes = n*one.level.Bytes + one.level.Bytes/2
	return s
}

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// batch returns one of n rows, of minute i.
func batch(i, n int) Batch {
	b := random(uint64(i), n)
	b.Token = fmt.Sprint("token-", i)
	b.Start, b.End = t0.Add(time.Duration(i)*time.Minute), t0.Add(time.Duration(i)*time.Minute+time.Second)
	return b
}

func put(t *testing.T, s *Spool, b Batch) {
	t.Helper()
	if err := s.Put(b); err != nil {
		t.Fatal(err)
	}
}

// drain takes everything out and returns the tokens.
func drain(t *testing.T, s *Spool) (tokens []string) {
	t.Helper()
	for {
		b, ok, err := s.Take()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return tokens
		}
		tokens = append(tokens, b.Token)
		if err := s.Done(b); err != nil {
			t.Fatal(err)
		}
	}
}

// owed returns the gaps, which are told of.
func owed(t *testing.T, s *Spool) (out []Gap) {
	t.Helper()
	for {
		g, ok, err := s.Gap()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, g)
		if err := s.Told(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFirstInFirstOut(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var want []string
	for i := range 12 {
		put(t, s, batch(i, i))
		want = append(want, fmt.Sprint("token-", i))
	}
	if l := s.Level(); l.Batches != 12 || l.Records != 66 || l.Bytes == 0 {
		t.Errorf("level %+v", l)
	}
	if newest, err := s.Newest(); err != nil || newest != "token-11" {
		t.Errorf("newest %q, %v", newest, err)
	}
	// What is not done is there again, for this process and the next.
	for range 2 {
		if b, _, err := s.Take(); err != nil || b.Token != "token-0" {
			t.Fatalf("took %q, %v", b.Token, err)
		}
	}
	s = open(t, dir)
	if b, _, err := s.Take(); err != nil || !b.Doubt || !b.Start.Equal(t0) || !b.End.Equal(t0.Add(time.Second)) {
		t.Errorf("took %+v, %v", b, err)
	}
	if got := drain(t, s); !slices.Equal(got, want) {
		t.Errorf("came out: %q", got)
	}
	if l := s.Level(); l != (Level{}) {
		t.Errorf("level %+v", l)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestOldestGoFirst(t *testing.T) {
	dir := t.TempDir()
	s := openFor(t, dir, 4)
	put(t, s, batch(0, 1000))
	if b, _, err := s.Take(); err != nil || b.Token != "token-0" {
		t.Fatal(b.Token, err)
	}
	for i := 1; i < 8; i++ {
		put(t, s, batch(i, 1000))
	}
	// The one being sent stays, and the newest.
	if l := s.Level(); l.Full != 4*1000 || l.Bytes > s.cfg.MaxBytes || l.Damaged != 0 {
		t.Errorf("level %+v", l)
	}
	s = open(t, dir)
	want := []Gap{{Start: t0.Add(time.Minute), End: t0.Add(4*time.Minute + time.Second), Records: 4 * 1000, Told: true}}
	if got := owed(t, s); !slices.Equal(got, want) {
		t.Errorf("gaps %+v", got)
	}
	if got := drain(t, s); !slices.Equal(got, []string{"token-0", "token-5", "token-6", "token-7"}) {
		t.Errorf("came out: %q", got)
	}
	if got := owed(t, open(t, dir)); len(got) != 0 {
		t.Errorf("gaps %+v", got)
	}
}

// What may be stored already goes last.
func TestDoubtGoesLast(t *testing.T) {
	s := openFor(t, t.TempDir(), 3)
	for i := range 5 {
		b := batch(i, 1000)
		b.Doubt = i == 1 || i == 3 || i == 4
		put(t, s, b)
	}
	if got := drain(t, s); !slices.Equal(got, []string{"token-1", "token-3", "token-4"}) {
		t.Errorf("came out: %q", got)
	}
}

// A gap that somebody may know of never changes; a new one is another.
func TestGapsThatWereTold(t *testing.T) {
	dir := t.TempDir()
	s := openFor(t, dir, 2)
	for i := range 3 {
		put(t, s, batch(i, 1000))
	}
	first, _, err := s.Gap()
	if err != nil || first.Records != 1000 {
		t.Fatal(first, err)
	}
	put(t, s, batch(3, 1000))
	s = openFor(t, dir, 2)
	put(t, s, batch(4, 1000))
	if again, _, _ := s.Gap(); again != first {
		t.Errorf("%+v became %+v", first, again)
	}
	if got := owed(t, s); len(got) != 2 || got[1].Records != 2000 || !got[1].Start.Equal(t0.Add(time.Minute)) {
		t.Errorf("gaps %+v", got)
	}
}

// A process that died between noting a gap and removing its files does not send
// what it gave up, and counts it once.
func TestGivenUpStaysGivenUp(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 4 {
		put(t, s, batch(i, 10))
	}
	if err := s.writeGaps(s.gaps.with(s.files[:2])); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, dir)
		if l := s.Level(); l.Records != 20 {
			t.Errorf("level %+v", l)
		}
	}
	if got := drain(t, s); !slices.Equal(got, []string{"token-2", "token-3"}) {
		t.Errorf("came out: %q", got)
	}
	// A new file never takes the number of one that was given up.
	s = open(t, dir)
	put(t, s, batch(7, 1))
	s = open(t, dir)
	if got := owed(t, s); len(got) != 1 || got[0].Records != 20 {
		t.Errorf("gaps %+v", got)
	}
	if got := drain(t, s); !slices.Equal(got, []string{"token-7"}) {
		t.Errorf("came out: %q", got)
	}
}

// A file that is cut or flipped at any byte is refused whole and counted, and
// the others are kept.
func TestDamage(t *testing.T) {
	dir := disk.New(t, "10m") // thousands of synced writes would take their time elsewhere
	s := open(t, dir)
	for i := range 3 {
		put(t, s, batch(i, 2))
	}
	path := s.path(s.files[1])
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	others := map[string][]byte{}
	for _, i := range []int{0, 2} {
		if others[s.path(s.files[i])], err = os.ReadFile(s.path(s.files[i])); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, damaged []byte) {
		t.Helper()
		for p, raw := range others {
			write(t, p, raw)
		}
		write(t, path, damaged)
		s := open(t, dir)
		if got := drain(t, s); !slices.Equal(got, []string{"token-0", "token-2"}) {
			t.Fatalf("%s: came out: %q", what, got)
		}
		if l := s.Level(); l.Damaged != 2 || l.Batches != 0 || l.Bytes != 0 {
			t.Fatalf("%s: level %+v", what, l)
		}
		if got := owed(t, s); len(got) != 1 || got[0].Records != 2 || !got[0].Start.Equal(t0.Add(time.Minute)) {
			t.Fatalf("%s: gaps %+v", what, got)
		}
		// Numbers of what was given up are not given again; here they must be.
		if err := os.Remove(filepath.Join(dir, gapsName)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range whole {
		check(fmt.Sprint("cut at ", n), whole[:n])
		flipped := slices.Clone(whole)
		flipped[n] ^= 1 << (n % 8)
		check(fmt.Sprint("flipped at ", n), flipped)
	}
	check("longer", append(slices.Clone(whole), 0))
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A batch under another's name has not as many records as the name says.
func TestNameAndContents(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, batch(0, 3))
	old := s.path(s.files[0])
	f := s.files[0]
	f.records = 4
	if err := os.Rename(old, s.path(f)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got := drain(t, s); len(got) != 0 || s.Level().Damaged != 4 {
		t.Errorf("came out: %q, level %+v", got, s.Level())
	}
}

func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1-5-0-0.batch.tmp"), []byte("half"))
	write(t, filepath.Join(dir, "core"), []byte("?"))
	write(t, filepath.Join(dir, "1-5-99999999999999999999-0.batch"), []byte("?"))
	s := open(t, dir)
	if l := s.Level(); l != (Level{}) {
		t.Errorf("level %+v", l)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestDamagedNote(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, batch(0, 3))
	put(t, s, batch(5, 4))
	if err := s.giveUp(s.files[:1], &s.level.Full); err != nil {
		t.Fatal(err)
	}
	if err := s.giveUp(s.files[:1], &s.level.Full); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, gapsName), []byte("garbage"))
	if got := owed(t, open(t, dir)); len(got) != 1 || got[0].Records != 3 {
		t.Errorf("gaps %+v", got)
	}
}

// Without room on the disk a batch is refused and nothing of it stays.
func TestDiskFull(t *testing.T) {
	dir := disk.New(t, "1m")
	s := open(t, filepath.Join(dir, "spool"))
	put(t, s, batch(0, 1000))
	err := s.Put(batch(1, 20_000))
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	put(t, s, batch(2, 1000))
	s = open(t, filepath.Join(dir, "spool"))
	if got := drain(t, s); !slices.Equal(got, []string{"token-0", "token-2"}) || s.Level() != (Level{}) {
		t.Errorf("came out: %q, level %+v", got, s.Level())
	}
}

func TestTooLarge(t *testing.T) {
	s := open(t, t.TempDir())
	s.cfg.MaxBytes = 1000
	if err := s.Put(batch(0, 20)); err == nil || !strings.Contains(err.Error(), "the spool may have 1000") {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := Open(Config{MaxBytes: 1}); err == nil || !strings.Contains(err.Error(), "directory: missing") || !strings.Contains(err.Error(), "want at least 16777216") {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := Open(Config{Dir: file}); err == nil {
		t.Error("a file is taken for a directory")
	}
}
