package clickhouse

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestPrepareDir(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, dir string)
		want []string // parts of the error
	}{
		{"missing", func(*testing.T, string) {}, nil},
		{"there already", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)) }, nil},
		{"a file", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, []string{"not a directory", "give another one"}},
		{"below a file", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Dir(dir)+"/file", nil, 0o600), os.Symlink("file", dir))
		}, []string{"give another one"}},
		{"somebody else's", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700), os.Chown(dir, 65534, 65534))
		}, []string{"belongs to user 65534", "chown"}},
		{"damaged", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, dataSubdir), nil, 0o600))
		}, []string{"move it away"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "engine")
			tt.make(t, dir)
			err := prepareDir(dir)
			if tt.want != nil {
				wantError(t, err, append(tt.want, dir)...)
				return
			}
			must(t, err)
			info, err := os.Stat(dir)
			must(t, err)
			if info.Mode().Perm() != 0o700 {
				t.Errorf("mode %s, want that only the owner gets in", info.Mode())
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// held makes dir look as if a process with the given owner line held its lock.
func held(t *testing.T, dir, owner string) *os.File {
	t.Helper()
	path := filepath.Join(dir, lockFile)
	must(t, os.WriteFile(path, []byte(owner), 0o600))
	f, err := os.Open(path)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestLockDir(t *testing.T) {
	self := process{pid: os.Getpid()}
	self.started, _ = startTime(self.pid)
	t.Run("free", func(t *testing.T) {
		f, err := lockDir(t.TempDir(), 0)
		must(t, err)
		must(t, f.Close())
	})
	t.Run("owner alive", func(t *testing.T) {
		dir := t.TempDir()
		held(t, dir, self.String())
		begin := time.Now()
		_, err := lockDir(dir, time.Minute)
		wantError(t, err, dir, "in use by process "+strconv.Itoa(self.pid))
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("waited %s for a process that will not leave", took)
		}
	})
	for name, owner := range map[string]string{
		"owner dead":                  "4194304999 1\n",
		"owner's number used again":   strconv.Itoa(self.pid) + " 1\n",
		"owner unknown":               "",
		"owner unreadable":            "x y z\n",
		"owner's number not a number": "x 1\n",
	} {
		t.Run(name+", engine leaving", func(t *testing.T) {
			dir := t.TempDir()
			f := held(t, dir, owner)
			released := make(chan struct{})
			time.AfterFunc(300*time.Millisecond, func() {
				_ = f.Close()
				close(released)
			})
			lock, err := lockDir(dir, time.Minute)
			must(t, err)
			defer func() { _ = lock.Close() }()
			select {
			case <-released:
			default:
				t.Error("locked while the other had it")
			}
			if got := readOwner(filepath.Join(dir, lockFile)); got != self {
				t.Errorf("owner %v, want %v", got, self)
			}
		})
		t.Run(name+", engine stuck", func(t *testing.T) {
			dir := t.TempDir()
			held(t, dir, owner)
			_, err := lockDir(dir, 50*time.Millisecond)
			wantError(t, err, dir, "whose ringfence is gone", "fuser")
		})
	}
}

func TestCheckVersion(t *testing.T) {
	tests := []struct {
		wrote, runs string
		want        []string
		recorded    string
	}{
		{"", "26.7.3", nil, "26.7.3"},
		{"26.7.3", "26.7.3", nil, "26.7.3"},
		{"26.7.3-stable.1", "26.7.3", nil, "26.7.3-stable.1"},
		{"26.7.3", "26.10.0", nil, "26.10.0"},
		{"26.10.0", "26.9.9", []string{"engine 26.10.0", "older 26.9.9", "newer engine library"}, "26.10.0"},
		{"27", "26.9.9", []string{"engine 27"}, "27"},
		{"rubbish", "26.9.9", []string{"damaged", "move the directory away"}, "rubbish"},
	}
	for _, tt := range tests {
		t.Run(tt.wrote+" then "+tt.runs, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, versionFile)
			if tt.wrote != "" {
				must(t, os.WriteFile(path, []byte(tt.wrote+"\n"), 0o600))
			}
			err := checkVersion(dir, tt.runs)
			if tt.want == nil {
				must(t, err)
			} else {
				wantError(t, err, append(tt.want, dir)...)
			}
			b, err := os.ReadFile(path)
			must(t, err)
			if got := strings.TrimSpace(string(b)); got != tt.recorded {
				t.Errorf("recorded %q, want %q", got, tt.recorded)
			}
		})
	}
}

func TestFindLibrary(t *testing.T) {
	dir := t.TempDir()
	beside, installed := filepath.Join(dir, "bin"), filepath.Join(dir, "opt", "bin")
	for _, d := range []string{beside, installed, filepath.Join(dir, "opt", "lib", "ringfence")} {
		must(t, os.MkdirAll(d, 0o700))
	}
	file := func(parts ...string) string {
		path := filepath.Join(append([]string{dir}, parts...)...)
		must(t, os.WriteFile(path, nil, 0o600))
		return path
	}
	given := file("given.so")
	besideLib := file("bin", libraryName)
	installedLib := file("opt", "lib", "ringfence", libraryName)
	tests := []struct {
		name, flag, env, executable string
		want                        string
		err                         []string
	}{
		{"flag", given, installedLib, filepath.Join(beside, "ringfence"), given, nil},
		{"environment", "", given, filepath.Join(beside, "ringfence"), given, nil},
		{"beside the executable", "", "", filepath.Join(beside, "ringfence"), besideLib, nil},
		{"installed", "", "", filepath.Join(installed, "ringfence"), installedLib, nil},
		{"nowhere", "", "", filepath.Join(dir, "ringfence"), "", []string{"make build", "--engine-library", "--clickhouse"}},
		{"flag to nothing", dir + "/no.so", "", filepath.Join(beside, "ringfence"), "", []string{"no.so", "--engine-library", "no such file", "make build"}},
		{"environment to a directory", "", dir, filepath.Join(beside, "ringfence"), "", []string{LibraryEnv, "not a regular file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(LibraryEnv, tt.env)
			got, err := FindLibrary(tt.flag, tt.executable)
			if tt.err != nil {
				wantError(t, err, tt.err...)
				return
			}
			must(t, err)
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	good := func() Config { return Config{DataDir: "/d", Command: []string{"x"}} }
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":           {func(*Config) {}, ""},
		"no directory":   {func(c *Config) { c.DataDir = "" }, "data directory"},
		"no command":     {func(c *Config) { c.Command = nil }, "command"},
		"bad database":   {func(c *Config) { c.Database = "a.*; --" }, "database"},
		"little memory":  {func(c *Config) { c.MemoryLimit = 1 << 20 }, "memory limit"},
		"negative grace": {func(c *Config) { c.StopGrace = -1 }, "timeouts"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			tt.change(&c)
			_, err := New(c)
			if tt.want == "" {
				must(t, err)
				return
			}
			wantError(t, err, tt.want)
		})
	}
}
