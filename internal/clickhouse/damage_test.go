package clickhouse_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

func TestDamagedData(t *testing.T) {
	overwrite := func(suffix, content string) func(t *testing.T, data string) {
		return func(t *testing.T, data string) {
			t.Helper()
			n := 0
			err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, suffix) {
					n++
					err = os.WriteFile(path, []byte(content), 0o600)
				}
				return err
			})
			if err != nil || n == 0 {
				t.Fatalf("damaged %d files: %v", n, err)
			}
		}
	}
	replace := func(name string, content []byte) func(t *testing.T, data string) {
		return func(t *testing.T, data string) {
			t.Helper()
			path := filepath.Join(data, name)
			err := os.RemoveAll(path)
			if err == nil && content != nil {
				err = os.WriteFile(path, content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, data string)
		want   string
	}{
		{"definitions overwritten", overwrite(".sql", "gar\x00bage"), "Syntax error"},
		{"definitions empty", overwrite(".sql", ""), ".sql"},
		{"parts cut", overwrite("data.bin", "x"), "broken parts in table ringfence."},
		{"parts' columns overwritten", overwrite("columns.txt", "x"), "broken parts in table ringfence."},
		{"definitions gone", replace("metadata", nil), "definitions in metadata are gone"},
		{"definitions a file", replace("metadata", []byte("x")), "metadata is not a directory"},
		{"tables a file", replace("store", []byte("x")), "store is not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			e := started(t, clickhousetest.Config(t, dir))
			s := open(t, e)
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.InsertFlows(t.Context(), "a", rows()); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			stop(t, e)
			tt.damage(t, filepath.Join(dir, "data"))
			for range 2 { // it does not heal by being tried
				wantError(t, e.Start(t.Context()), dir, "damaged", tt.want, "move the directory away")
			}
			if e.PID() != 0 {
				t.Error("a process is left behind")
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	text := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*clickhouse.Config)
		want   []string
	}{
		{"no library", func(c *clickhouse.Config) { c.Library = "/nowhere/libchdb.so" }, []string{"/nowhere/libchdb.so", "no such file", "make build", "--engine-library"}},
		{"not a library", func(c *clickhouse.Config) { c.Library = text }, []string{text, "make build"}},
		{"another library", func(c *clickhouse.Config) { c.Library = otherLibrary(t) }, []string{"not an engine this ringfence knows", "make build"}},
		{"newer data", func(c *clickhouse.Config) {
			if err := os.WriteFile(filepath.Join(c.DataDir, "engine-version"), []byte("99.1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"written by engine 99.1", "newer engine library"}},
		{"a directory that is a file", func(c *clickhouse.Config) { c.DataDir = text }, []string{text, "give another one"}},
		{"no executable", func(c *clickhouse.Config) { c.Executable = "/nowhere/ringfence" }, []string{"/nowhere/ringfence"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := clickhousetest.Config(t, t.TempDir())
			tt.change(&cfg)
			e, err := clickhouse.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, e.Start(t.Context()), tt.want...)
			if e.PID() != 0 {
				t.Error("a process is left behind")
			}
		})
	}
}

// otherLibrary returns a shared library that is no engine: the C library that
// this process has loaded.
func otherLibrary(t *testing.T) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, "/"); i >= 0 && strings.Contains(line, "libc.so") {
			return strings.TrimSpace(line[i:])
		}
	}
	t.Fatal("this process has no C library loaded")
	return ""
}
