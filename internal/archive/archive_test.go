package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes an archive of two files and returns its path.
func write(t *testing.T) string {
	t.Helper()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "a")
	if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "deep", "file"), []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Add("first", []byte("zero")), w.AddDir(t.Context(), "dir", dir), w.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(ctx context.Context, path string) (string, error) {
	var out strings.Builder
	err := Read(ctx, path, func(name string, content io.Reader) error {
		b, err := io.ReadAll(content)
		out.WriteString(name + "=" + string(b) + ";")
		return err
	})
	return out.String(), err
}

func TestWriteRead(t *testing.T) {
	path := write(t)
	got, err := read(t.Context(), path)
	if want := "first=zero;dir/deep/file=one;"; got != want || err != nil {
		t.Errorf("read %q (%v), want %q", got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if _, err := Create(path); err == nil {
		t.Error("an archive was replaced")
	}
}

func TestDamageIsRefusedWhole(t *testing.T) {
	path := write(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read(t.Context(), path)
		var damaged *DamagedError
		if !errors.As(err, &damaged) || got != "" {
			t.Fatalf("%s: read %q (%v), want nothing and a DamagedError", name, got, err)
		}
	}
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		try("flipped", flipped)
		if i%16 == 0 || i+40 > len(whole) {
			try("cut", whole[:i])
		}
	}
	try("longer", append(bytes.Clone(whole), 0))
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Add("x", []byte("y")), w.Abort()); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); len(files) > 0 || err != nil {
		t.Errorf("left %v (%v)", files, err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, write(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(magic))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := read(t.Context(), path); err == nil {
			t.Errorf("read %q of %q", got, b) // nobody guesses a digest
		}
	})
}
