package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
)

// patience bounds everything that is waited for.
const patience = 30 * time.Second

// eventually waits for what nothing announces.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// runAs runs a copy of the binary in a namespace until it ends.
func runAs(t *testing.T, binary string, in *namespace, attr *syscall.SysProcAttr, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // cleanups run commands, too
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &stdout, &stderr, attr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	in.must(t, cmd.Start)
	err := cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("ringfence %s did not end; stdout %q, stderr %q", strings.Join(args, " "), stdout.String(), stderr.String())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("ringfence %s: %v", strings.Join(args, " "), exit)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// up is a running `ringfence up`.
type up struct {
	site     *site
	cmd      *exec.Cmd
	logs     *bytes.Buffer
	url      string
	password string
	ended    chan struct{}
	client   *api.ClientWithResponses
}

// start runs `ringfence up` on the site's node and waits until it is ready.
func (s *site) start(t *testing.T, more ...string) *up {
	t.Helper()
	args := append([]string{"up", "--inventory", s.inventory, "--node", "node-1", "--state-dir", s.stateDir,
		"--runtime-dir", s.runtimeDir, "--listen", "127.0.0.1:0", "--warm-up", "1s", "--min-window", "1s"}, more...)
	u := &up{site: s, logs: &bytes.Buffer{}, ended: make(chan struct{})}
	u.cmd = exec.Command(binary, args...)
	u.cmd.Stderr = &locked{to: u.logs}
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.node.must(t, u.cmd.Start)
	ready := make(chan struct{})
	go func() {
		defer close(u.ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			key, value, _ := strings.Cut(lines.Text(), " ")
			value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
			switch key {
			case "web":
				u.url = strings.TrimSpace(strings.TrimPrefix(lines.Text(), "web UI"))
			case "password":
				u.password = value
			case "store":
				close(ready)
			}
		}
		_ = u.cmd.Wait()
	}()
	t.Cleanup(func() {
		u.stop(t)
		_ = s.command(t, "down", "--runtime-dir", s.runtimeDir)
		s.wantNothing(t)
		if t.Failed() {
			t.Logf("log of up on %s:\n%s", s.name, u.logs)
		}
	})
	select {
	case <-ready:
	case <-u.ended:
		t.Fatalf("up ended: %s", u.logs)
	case <-time.After(patience):
		t.Fatalf("up was not ready in %s: %s", patience, u.logs)
	}
	u.client = u.api(t, u.token(t))
	return u
}

// locked is written by one process and read by others at the end.
type locked struct {
	mu sync.Mutex
	to *bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

// stop is Ctrl-C.
func (u *up) stop(t *testing.T) {
	t.Helper()
	_ = u.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-u.ended:
	case <-time.After(patience):
		t.Errorf("up did not end in %s after an interrupt", patience)
		_ = u.cmd.Process.Kill()
	}
}

func (s *site) config() string { return filepath.Join(s.stateDir, "client.json") }

// command runs a command on the node.
func (s *site) command(t *testing.T, args ...string) result {
	t.Helper()
	return runAs(t, binary, s.node, nil, args...)
}

// noFlow is what flows says, beside its result, when there is none.
const noFlow = "no flow matches; a longer --since or fewer conditions may find some\n"

// says runs a command that must succeed and print every text.
func (s *site) says(t *testing.T, args []string, texts ...string) string {
	t.Helper()
	r := s.command(t, args...)
	if r.code != 0 || r.stderr != "" && r.stderr != noFlow {
		t.Fatalf("ringfence %s: exit code %d, stderr %q", strings.Join(args, " "), r.code, r.stderr)
	}
	if len(r.stdout) < 2000 {
		t.Logf("$ ringfence %s\n%s", strings.Join(args, " "), r.stdout)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout, text) {
			t.Errorf("ringfence %s: %q is missing in\n%s", strings.Join(args, " "), text, r.stdout)
		}
	}
	return r.stdout
}

// flows are the stored ones of the last minutes that the flags pick.
func (s *site) flows(t *testing.T, flags ...string) (list []api.Flow, err error) {
	t.Helper()
	r := s.command(t, append([]string{"flows", "--config", s.config(), "--since", "5m", "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, r.stderr)
	}
	return list, nil
}

// policy runs a policy command on the running server.
func (s *site) policy(t *testing.T, args []string, texts ...string) string {
	t.Helper()
	return s.says(t, append([]string{"policy", "--config", s.config()}, args...), texts...)
}

// refused demands that a command ends with exit code 1 and one line on standard
// error with every text.
func (r result) refused(t *testing.T, what string, texts ...string) {
	t.Helper()
	if r.code != 1 {
		t.Errorf("%s: exit code %d, want 1", what, r.code)
	}
	if r.stdout != "" {
		t.Errorf("%s: printed %q to standard output", what, r.stdout)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "ringfence: ") {
		t.Errorf("%s: want one line that begins with \"ringfence: \", got\n%s", what, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("%s: %q is missing in\n%s", what, text, r.stderr)
		}
	}
	t.Logf("%s: %s", what, strings.TrimSpace(r.stderr))
}

func (u *up) token(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile(u.site.config())
	if err != nil {
		t.Fatal(err)
	}
	_, doc, _ = bytes.Cut(doc, []byte("\n")) // the digest
	var c struct{ Token string }
	if err := json.Unmarshal(doc, &c); err != nil {
		t.Fatal(err)
	}
	return c.Token
}

// http speaks from within the node's namespace.
func (s *site) http() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, to string) (net.Conn, error) { return s.node.dial(ctx, to, patience) },
	}}
}

func (u *up) api(t *testing.T, token string) *api.ClientWithResponses {
	t.Helper()
	c, err := api.NewClientWithResponses(u.url, api.WithHTTPClient(u.site.http()),
		api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// process is one line of /proc.
type process struct {
	pid, parent int
	args        string
}

func processes(t *testing.T) []process {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []process
	for _, dir := range dirs {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(args) == 0 {
			continue // it ended, or has (a zombie)
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		p := process{args: strings.ReplaceAll(string(args), "\x00", " ")}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		p.parent, _ = strconv.Atoi(fields[1])
		out = append(out, p)
	}
	return out
}

// child returns the process number of up's child of that name.
func (u *up) child(t *testing.T, name string) int {
	t.Helper()
	for _, p := range processes(t) {
		if p.parent == u.cmd.Process.Pid && strings.Contains(p.args, " "+name+" ") {
			return p.pid
		}
	}
	return 0
}

// engine returns the process number of the server's embedded ClickHouse.
func (u *up) engine(t *testing.T) int {
	t.Helper()
	server := u.child(t, "server")
	for _, p := range processes(t) {
		if p.parent == server && server != 0 {
			return p.pid
		}
	}
	return 0
}

// kill ends a child with SIGKILL and returns when it is gone.
func (u *up) kill(t *testing.T, name string) int {
	t.Helper()
	pid := u.child(t, name)
	if pid == 0 {
		t.Fatalf("up has no child %s", name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// back waits until a killed child runs again.
func (u *up) back(t *testing.T, name string, old int) {
	t.Helper()
	eventually(t, name+" comes back", func() error {
		if pid := u.child(t, name); pid == 0 || pid == old {
			return fmt.Errorf("its process is %d", pid)
		}
		return nil
	})
}

// running returns an error that names a process of the installation.
func (s *site) running(t *testing.T) error {
	t.Helper()
	for _, p := range processes(t) {
		if p.pid != os.Getpid() && strings.Contains(p.args, filepath.Dir(s.stateDir)+"/") {
			return fmt.Errorf("process %d runs: %s", p.pid, p.args)
		}
	}
	return nil
}

// wantNothing demands that no process, mount or file of the installation is
// left but its state.
func (s *site) wantNothing(t *testing.T) {
	t.Helper()
	eventually(t, "every process ends", func() error { return s.running(t) })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.runtimeDir) {
		t.Errorf("a bpffs is left mounted below %s", s.runtimeDir)
	}
	if _, err := os.Lstat(s.runtimeDir); err == nil {
		t.Errorf("%s is left", s.runtimeDir)
	}
}
