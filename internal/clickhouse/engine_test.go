package clickhouse_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/store"
)

// started returns a running engine of the test's own.
func started(t *testing.T, cfg clickhouse.Config) *clickhouse.Engine {
	t.Helper()
	e, err := clickhouse.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, e) })
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func stop(t *testing.T, e *clickhouse.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := e.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, e *clickhouse.Engine) *store.Store {
	t.Helper()
	c := e.Credentials()
	s, err := store.Open(t.Context(), store.Config{Addrs: []string{c.Addr}, User: c.User, Password: c.Password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func rows() []flow.Labelled {
	at := time.Now().UTC()
	return []flow.Labelled{{
		Record:   flow.Record{Direction: flow.Egress, Time: at, FirstSeen: at, Connections: 1},
		Observer: flow.Nobody, Dest: flow.Nobody,
		Source: &flow.Party{Workload: flow.Workload{Namespace: "a", Kind: "b", Name: "c"}},
	}}
}

func connections(t *testing.T, s *store.Store) (n uint64) {
	t.Helper()
	edges, err := s.Edges(t.Context(), store.EdgeFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edges {
		n += e.Connections
	}
	return n
}

// wantError checks that err is one line that contains every part.
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

// alive reports whether a process runs, zombies left out.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// until waits for a condition that another process makes true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 15 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStartAndStop(t *testing.T) {
	e := started(t, clickhousetest.Config(t, filepath.Join(t.TempDir(), "deep", "engine")))
	s := open(t, e)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertFlows(t.Context(), "a", rows()); err != nil {
		t.Fatal(err)
	}
	if n := connections(t, s); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	if err := e.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	pid, done := e.PID(), e.Done()
	group, err := syscall.Getpgid(pid)
	if err != nil || group != pid {
		t.Errorf("process group %d (%v), want its own: a Ctrl-C would reach it first", group, err)
	}
	begin := time.Now()
	stop(t, e) // with a client connected
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if alive(pid) || e.PID() != 0 {
		t.Errorf("process %d is still there", pid)
	}
	if err, open := <-done; err != nil || open {
		t.Errorf("done gave %v, want closed: it was asked to leave", err)
	}
	stop(t, e) // again, without harm

	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := connections(t, open(t, e)); n != 1 {
		t.Errorf("%d connections after a restart, want 1", n)
	}
}

func TestLeavesInOrder(t *testing.T) {
	dir := t.TempDir()
	e := started(t, clickhousetest.Config(t, dir))
	// The engine's own lock file goes when it leaves in order, and stays when
	// it is cut off.
	status := filepath.Join(dir, "data", "status")
	if _, err := os.Stat(status); err != nil {
		t.Fatal(err)
	}
	stop(t, e)
	if _, err := os.Stat(status); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v): the engine was cut off", status, err)
	}
}

func TestPasswords(t *testing.T) {
	e := started(t, clickhousetest.Config(t, t.TempDir()))
	good, pid := e.Credentials(), e.PID()
	for _, tt := range []struct {
		name string
		c    clickhouse.Credentials
		want string
	}{
		{"wrong password", clickhouse.Credentials{User: good.User, Password: "wrong"}, "code 516"},
		{"no password", clickhouse.Credentials{User: good.User}, "code 516"},
		{"the library's own user", clickhouse.Credentials{User: "default"}, "code 700"},
		{"nobody", clickhouse.Credentials{User: "nobody"}, "code 516"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Addr = good.Addr
			for range 3 {
				wantError(t, clickhouse.Handshake(t.Context(), tt.c), tt.want)
			}
		})
	}
	if err := clickhouse.Handshake(t.Context(), good); err != nil {
		t.Error(err)
	}
	if e.PID() != pid {
		t.Error("the engine did not survive wrong passwords")
	}
}

func TestSurvivesClients(t *testing.T) {
	e := started(t, clickhousetest.Config(t, t.TempDir()))
	c, pid := e.Credentials(), e.PID()
	junk := make([]byte, 4096)
	if _, err := rand.Read(junk); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"http":          []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":           {0x16, 0x03, 0x01, 0x02, 0x00},
		"zeros":         make([]byte, 512),
		"ones":          bytes.Repeat([]byte{0xff}, 512),
		"random":        junk,
		"half a hello":  {0, 9, 'r', 'i', 'n'},
		"huge string":   {0, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"hello, query?": append([]byte{0, 1, 'x', 1, 0, 0xaa, 0xa6, 0x03, 0, 9}, []byte("ringfence\x00\x01\xff\xff\xff")...),
	} {
		t.Run(name, func(t *testing.T) {
			for _, reset := range []bool{false, true} {
				conn, err := net.Dial("tcp", c.Addr)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = conn.Write(b)
				if reset {
					_ = conn.(*net.TCPConn).SetLinger(0)
				}
				_ = conn.Close()
			}
		})
	}
	// Clients that go away in the middle of a query or an insert.
	s := open(t, e)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	many := make([]flow.Labelled, 20_000)
	for i := range many {
		many[i] = rows()[0]
	}
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*3*time.Millisecond)
		_ = s.InsertFlows(ctx, strconv.Itoa(i), many) // cut off somewhere
		_, _ = s.Flows(ctx, query.Filter{}, query.Cursor{}, 0)
		cancel()
	}
	if err := clickhouse.Handshake(t.Context(), c); err != nil {
		t.Error(err)
	}
	if e.PID() != pid {
		t.Error("the engine did not survive its clients")
	}
}

// A service manager sends its signal to every process of the service; the
// engine waits for its parent's word.
func TestLeavesOnlyForItsParent(t *testing.T) {
	e := started(t, clickhousetest.Config(t, t.TempDir()))
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		if err := syscall.Kill(e.PID(), signal); err != nil {
			t.Fatal(err)
		}
		if err := clickhouse.Handshake(t.Context(), e.Credentials()); err != nil {
			t.Errorf("after %s: %v", signal, err)
		}
	}
	select {
	case err := <-e.Done():
		t.Errorf("it left: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
}

func TestLoopbackOnly(t *testing.T) {
	e := started(t, clickhousetest.Config(t, t.TempDir()))
	host, port, err := net.SplitHostPort(e.Credentials().Addr)
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("address %s (%v), want 127.0.0.1", e.Credentials().Addr, err)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, a := range addrs {
		prefix, ok := a.(*net.IPNet)
		if !ok || prefix.IP.IsLinkLocalUnicast() || prefix.IP.Equal(net.ParseIP("127.0.0.1")) {
			continue
		}
		tried++
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(prefix.IP.String(), port), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want refused", prefix.IP, err)
		}
	}
	if tried == 0 {
		t.Error("the machine has no other address, so nothing was tried")
	}
	listening, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", e.PID()))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	if want := fmt.Sprintf("0100007F:%04X 00000000:0000 0A", n); !strings.Contains(string(listening), want) {
		t.Errorf("the engine does not listen on the loopback address alone")
	}
}

func TestSurvivesKill(t *testing.T) {
	var log bytes.Buffer
	cfg := clickhousetest.Config(t, t.TempDir())
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	e := started(t, cfg)
	s := open(t, e)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	batch := rows()
	if err := s.InsertFlows(t.Context(), "a", batch); err != nil {
		t.Fatal(err)
	}
	before := e.Credentials()
	if err := syscall.Kill(e.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-e.Done():
		wantError(t, err, "the engine ended", "killed")
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed that the engine is dead")
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.Credentials() != before {
		t.Error("the address or the password changed, so clients would not find it again")
	}
	// The client that was connected goes on, and a batch sent again is still known.
	until(t, "the store is back", func() bool { return s.Ping(t.Context()) == nil })
	if err := s.InsertFlows(t.Context(), "a", batch); err != nil {
		t.Fatal(err)
	}
	if n := connections(t, s); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestSecondEngineRefused(t *testing.T) {
	dir := t.TempDir()
	started(t, clickhousetest.Config(t, dir))
	second, err := clickhouse.New(clickhousetest.Config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	wantError(t, second.Start(t.Context()), dir, "in use by process "+strconv.Itoa(os.Getpid()), "another directory")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("refusing took %s", took)
	}
}

// holderCommand makes the test binary a parent of an engine that waits to be
// killed.
const holderCommand = "ringfence-test-holder"

func hold() {
	cfg := clickhouse.Config{
		DataDir: os.Args[2], Library: os.Args[3],
		Command: []string{clickhousetest.EngineCommand}, Database: clickhousetest.Prefix,
	}
	e, err := clickhouse.New(cfg)
	if err == nil {
		err = e.Start(context.Background())
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(e.PID())
	select {}
}

func TestParentKilled(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // once could be luck
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			holder := exec.Command(self, holderCommand, dir, clickhousetest.Library(t))
			out, err := holder.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := holder.Start(); err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Fscan(out, &pid); err != nil {
				t.Fatal(err)
			}
			second, err := clickhouse.New(clickhousetest.Config(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, second.Start(t.Context()), "in use by process "+strconv.Itoa(holder.Process.Pid))
			if err := holder.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = holder.Wait() // says that it was killed
			if err := second.Start(t.Context()); err != nil {
				t.Fatalf("the directory is not free after its ringfence died: %v", err)
			}
			if alive(pid) {
				t.Error("the engine outlived its parent")
			}
			stop(t, second)
		})
	}
}

func TestPortTaken(t *testing.T) {
	e := started(t, clickhousetest.Config(t, t.TempDir()))
	before := e.Credentials()
	stop(t, e)
	l, err := net.Listen("tcp", before.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := e.Credentials()
	if after.Addr == before.Addr || after.Password == before.Password {
		t.Error("the taken port or its password is used again")
	}
	if err := clickhouse.Handshake(t.Context(), after); err != nil {
		t.Error(err)
	}
}

func TestStartCancelled(t *testing.T) {
	cfg := clickhousetest.Config(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	probed := 0
	cfg.Probe = func(context.Context, clickhouse.Credentials) error {
		if probed++; probed == 3 {
			cancel()
		}
		return errors.New("not yet")
	}
	e, err := clickhouse.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that the context was cancelled", err)
	}
	cfg.Probe, cfg.StartTimeout = func(context.Context, clickhouse.Credentials) error { return errors.New("deaf") }, time.Second
	deaf, err := clickhouse.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, deaf.Start(t.Context()), "no answer", "within 1s", "deaf", "engine.log")
	cfg.Probe, cfg.StartTimeout = nil, 0
	started(t, cfg) // nothing is left that holds the directory
}

func TestPrivateFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e := started(t, clickhousetest.Config(t, dir))
	if err := open(t, e).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	password := e.Credentials().Password
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if !info.Mode().IsRegular() || info.Size() > 1<<20 {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(password)) {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PID()))
	if err != nil || bytes.Contains(cmdline, []byte(password)) {
		t.Errorf("the command line shows the password (%v)", err)
	}
}
