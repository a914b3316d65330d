package statefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path, contents string) {
	t.Helper()
	if err := Write(path, []byte(contents)); err != nil {
		t.Fatal(err)
	}
}

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	for _, contents := range []string{"one", "", strings.Repeat("x", 1<<20)} {
		write(t, path, contents)
		got, err := Read(path)
		if err != nil || string(got) != contents {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(contents))
		}
	}
	if prev, err := ReadPrevious(path); err != nil || len(prev) != 0 {
		t.Errorf("previous is %q, %v; want the version before the last", prev, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(path + "*" + scratchSuffix)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// Every way to cut the file and every flipped byte is refused, and says so.
func TestDamageIsRefusedWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	write(t, path, "older")
	write(t, path, "the newest contents")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var bad [][]byte
	for i := range good {
		bad = append(bad, good[:i])
		for _, mask := range []byte{0x01, 0x20, 0x80} {
			flipped := bytes.Clone(good)
			flipped[i] ^= mask
			bad = append(bad, flipped)
		}
	}
	bad = append(bad, append(bytes.Clone(good), 'x'), append(bytes.Clone(good), good...))
	for i, raw := range bad {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if _, damaged := errors.AsType[*DamagedError](err); !damaged || got != nil {
			t.Fatalf("case %d: %q: got %q, %v", i, raw, got, err)
		}
		if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("message %q", err)
		}
	}
	if prev, err := ReadPrevious(path); err != nil || string(prev) != "older" {
		t.Errorf("previous is %q, %v", prev, err)
	}
}

func TestDamagedNeverReplacesPrevious(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	write(t, path, "one")
	write(t, path, "two")
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path, "three")
	if prev, err := ReadPrevious(path); err != nil || string(prev) != "one" {
		t.Errorf("previous is %q, %v; want the last good one", prev, err)
	}
}

func TestFailedWriteKeepsOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	write(t, path, "old")
	// A directory where the scratch file should go makes the write fail.
	if err := os.Mkdir(path+scratchSuffix, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new")); err == nil {
		t.Fatal("no error")
	}
	if got, err := Read(path); err != nil || string(got) != "old" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestLeftoverScratchIsHarmless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	write(t, path, "old")
	for _, p := range []string{path + scratchSuffix, path + previousSuffix + scratchSuffix} {
		if err := os.WriteFile(p, []byte(strings.Repeat("half a file", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Read(path); err != nil || string(got) != "old" {
		t.Fatalf("got %q, %v", got, err)
	}
	write(t, path, "new")
	if got, err := Read(path); err != nil || string(got) != "new" {
		t.Errorf("got %q, %v", got, err)
	}
	if prev, err := ReadPrevious(path); err != nil || string(prev) != "old" {
		t.Errorf("previous %q, %v", prev, err)
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	write(t, path, "one")
	write(t, path, "two")
	for range 2 {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	if _, err := ReadPrevious(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("previous after remove: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode([]byte("contents")))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		contents, why := decode(raw)
		if why == "" && !bytes.Equal(encode(contents), raw) {
			t.Errorf("%q decodes to %q", raw, contents)
		}
	})
}
