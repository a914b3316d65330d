package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/statefile"
)

// runLab starts a process of its own that runs the built-in scenario.
func runLab(t *testing.T, stateDir string, command ...string) (cmd *exec.Cmd, up <-chan struct{}) {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd = exec.Command(exe, append([]string{"lab-run", stateDir}, command...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	ready := make(chan struct{})
	go func() {
		if line, err := bufio.NewReader(out).ReadString('\n'); err == nil && line == "up\n" {
			close(ready)
		}
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error: it was killed and waited for already
	return cmd, ready
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	err := cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v", err)
	}
}

func awaitUp(t *testing.T, up <-chan struct{}) {
	t.Helper()
	select {
	case <-up:
	case <-time.After(30 * time.Second):
		t.Fatal("the lab does not come up")
	}
}

func TestCleanupAfterKill(t *testing.T) {
	before := snapshotMachine(t)
	dir := t.TempDir()
	cmd, up := runLab(t, dir)
	awaitUp(t, up)
	pids := hostPIDs(t)
	if len(pids) != 18 {
		t.Errorf("%d host processes, want 18", len(pids))
	}
	kill(t, cmd)
	if exists, err := namespaceExists("rf-frontend-1"); err != nil || !exists {
		t.Fatalf("the test shows nothing: the namespaces went with the process (%v)", err)
	}
	await(t, 5*time.Second, "hosts to end with their lab", func() bool {
		for _, pid := range pids {
			if _, alive, err := startTime(pid); err != nil || alive {
				return false
			}
		}
		return true
	})
	removed, err := Cleanup(t.Context(), dir, testConfig(dir).Logger)
	if err != nil || removed != 18 {
		t.Errorf("removed %d, %v", removed, err)
	}
	mustLeaveNothing(t, dir, pids...)
	before.mustBeUnchanged(t)
	if removed, err := Cleanup(t.Context(), dir, testConfig(dir).Logger); err != nil || removed != 0 {
		t.Errorf("a second time: removed %d, %v", removed, err)
	}
}

func TestCleanupAfterKillWhileBuilding(t *testing.T) {
	before := snapshotMachine(t)
	made := func() (n int) {
		for _, name := range Default().Namespaces() {
			if exists, err := namespaceExists(name); err == nil && exists {
				n++
			}
		}
		return n
	}
	cases := map[string]func(dir string) bool{
		"recorded":        func(dir string) bool { _, err := os.Stat(recordPath(dir)); return err == nil },
		"a namespace":     func(string) bool { return made() >= 1 },
		"some namespaces": func(string) bool { return made() >= 9 },
		"all namespaces":  func(string) bool { return made() >= 18 },
		"a host":          func(string) bool { return len(hostPIDs(t)) >= 1 },
		"some hosts":      func(string) bool { return len(hostPIDs(t)) >= 9 },
	}
	partial := 0
	for name, reached := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd, _ := runLab(t, dir)
			for limit := time.Now().Add(10 * time.Second); !reached(dir); time.Sleep(50 * time.Microsecond) {
				if time.Now().After(limit) {
					t.Fatal("the lab does not get there")
				}
			}
			kill(t, cmd)
			n := made()
			if n < 18 {
				partial++
			}
			removed, err := Cleanup(t.Context(), dir, testConfig(dir).Logger)
			if err != nil || removed != n {
				t.Errorf("removed %d of %d, %v", removed, n, err)
			}
			mustLeaveNothing(t, dir)
			await(t, 5*time.Second, "hosts to end", func() bool { return len(hostPIDs(t)) == 0 })
		})
	}
	if partial == 0 {
		t.Error("the test shows less than it should: it never killed a lab before it had all namespaces")
	}
	before.mustBeUnchanged(t)
}

// A host that reads nothing does not see its input end; the kernel ends it.
func TestMuteHostsEndWithTheirLab(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := runLab(t, dir, "/bin/sh", "-c", "exec sleep 60")
	var r *record
	await(t, 10*time.Second, "the hosts to be on record", func() (ready bool) {
		var err error
		r, err = readRecord(dir)
		return err == nil && r != nil && len(r.Processes) == 18
	})
	kill(t, cmd)
	await(t, 5*time.Second, "the hosts to end", func() bool {
		for _, p := range r.Processes {
			if start, alive, err := startTime(p.PID); err != nil || alive && start == p.Start {
				return false
			}
		}
		return true
	})
	_, err := Cleanup(t.Context(), dir, testConfig(dir).Logger)
	must(t, err)
	mustLeaveNothing(t, dir)
}

func TestStartCleansUpWhatAnEarlierLabLeft(t *testing.T) {
	cmd, up := runLab(t, t.TempDir())
	awaitUp(t, up)
	kill(t, cmd)
	// Another state directory: the lock file says where the killed lab kept its own.
	l, err := New(testConfig(t.TempDir()))
	must(t, err)
	must(t, l.Start(t.Context()))
	must(t, l.Stop(t.Context()))
	mustLeaveNothing(t, l.cfg.StateDir)
	if len(hostPIDs(t)) != 0 {
		t.Error("processes are still there")
	}
}

// sleeper starts a process that is nobody's business but the record's.
func sleeper(t *testing.T) (*exec.Cmd, processRecord) {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed
		_ = cmd.Wait()
	})
	start, alive, err := startTime(cmd.Process.Pid)
	if err != nil || !alive {
		t.Fatal(alive, err)
	}
	return cmd, processRecord{PID: cmd.Process.Pid, Start: start, Name: "rf-x-1"}
}

func TestCleanKillsOnlyWhatIsOnRecord(t *testing.T) {
	boot, err := bootID()
	must(t, err)
	cases := []struct {
		name   string
		change func(*record)
		killed bool
	}{
		{"the process on record", func(*record) {}, true},
		{"another that has its number", func(r *record) { r.Processes[0].Start-- }, false},
		{"of another boot", func(r *record) { r.Boot = "another" }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cmd, p := sleeper(t)
			const name = "rf-cleaned-1"
			ns, err := createNamespace(name, nil)
			must(t, err)
			must(t, ns.Close())
			t.Cleanup(func() { must(t, deleteNamespace(name)) })
			r := record{Boot: boot, Namespaces: []string{name, "rf-never-made-1"}, Processes: []processRecord{p}}
			c.change(&r)
			dir := t.TempDir()
			must(t, r.write(dir))
			if _, err := Cleanup(t.Context(), dir, testConfig(dir).Logger); err != nil {
				t.Fatal(err)
			}
			if _, alive, err := startTime(cmd.Process.Pid); err != nil || alive == c.killed {
				t.Errorf("alive %t, %v", alive, err)
			}
			exists, err := namespaceExists(name)
			if sameBoot := r.Boot == boot; err != nil || exists == sameBoot {
				t.Errorf("namespace exists %t, %v", exists, err)
			}
			if _, err := os.Stat(recordPath(dir)); err == nil {
				t.Error("the record is still there")
			}
		})
	}
}

func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	boot, err := bootID()
	must(t, err)
	must(t, (&record{Boot: boot, Namespaces: []string{"rf-a-1"}}).write(dir))
	must(t, (&record{Boot: boot, Namespaces: []string{"rf-a-1"}, Processes: []processRecord{{PID: 1}}}).write(dir))
	must(t, os.WriteFile(recordPath(dir), []byte("half of a"), 0o600))
	r, err := readRecord(dir)
	if err != nil || len(r.Namespaces) != 1 || len(r.Processes) != 0 {
		t.Errorf("the record before it: %+v, %v", r, err)
	}
	must(t, os.WriteFile(recordPath(dir)+".prev", []byte("half of a"), 0o600))
	_, err = Cleanup(t.Context(), dir, testConfig(dir).Logger)
	if _, ok := errors.AsType[*statefile.DamagedError](err); !ok {
		t.Errorf("got %v", err)
	}
	must(t, statefile.Write(recordPath(dir), []byte("[]")))
	if _, err := readRecord(dir); err == nil || !strings.Contains(err.Error(), "of another version") {
		t.Errorf("got %v", err)
	}
	must(t, statefile.Remove(recordPath(dir)))
	if _, err := Cleanup(t.Context(), dir, testConfig(dir).Logger); err != nil {
		t.Errorf("without a record: %v", err)
	}
	if _, err := os.Stat(lockPath); err == nil {
		t.Error("the lock file is still there")
	}
}

func TestLockOutlivesNobody(t *testing.T) {
	l, leftBy, err := takeLock("/a")
	if err != nil || leftBy != "" {
		t.Fatal(leftBy, err)
	}
	if _, _, err := takeLock("/b"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("taken twice: %v", err)
	}
	must(t, l.abandon())
	l, leftBy, err = takeLock("/b")
	if err != nil || leftBy != "/a" {
		t.Fatal(leftBy, err)
	}
	must(t, l.abandon())
	l, leftBy, err = takeLock("/c")
	if err != nil || leftBy != "/a" {
		t.Fatalf("leftovers of %q are forgotten before they are removed: %v", leftBy, err)
	}
	must(t, l.claim("/c"))
	must(t, l.release())
	if l, leftBy, err = takeLock("/d"); err != nil || leftBy != "" {
		t.Fatal(leftBy, err)
	}
	must(t, l.release())
}

func TestStartTime(t *testing.T) {
	if _, alive, err := startTime(1 << 30); err != nil || alive {
		t.Errorf("a process that cannot be: %t, %v", alive, err)
	}
	// A name that looks like the end of the name.
	path := filepath.Join(t.TempDir(), "a) Z 1 (b")
	b, err := os.ReadFile("/bin/sleep")
	must(t, err)
	must(t, os.WriteFile(path, b, 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "60")
	must(t, cmd.Start())
	if ticks, alive, err := startTime(cmd.Process.Pid); err != nil || !alive || ticks == 0 {
		t.Errorf("%d, %t, %v", ticks, alive, err)
	}
	cancel()
	// A zombie until it is waited for.
	await(t, 5*time.Second, "its end", func() bool {
		_, alive, err := startTime(cmd.Process.Pid)
		return err == nil && !alive
	})
	_ = cmd.Wait() // killed
}
