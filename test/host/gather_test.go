package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpGathering has the agent hand its records to the server. It neither needs
// nor uses a way to the store, and nothing is stored twice or lost over the kill
// of either.
func TestUpGathering(t *testing.T) {
	t.Parallel()
	s := newSite(t, "h")
	s.write(t, s.behind())
	s.db.echo(t, dbPort)
	u := s.start(t, "--gather")
	asked := int64(0)
	ask := func(when string) {
		t.Helper()
		reaches(t, when, s.web, s.dbIs, dbPort, true)
		asked++
	}
	stored := func(when string) {
		t.Helper()
		eventually(t, when+": each connection is stored once", func() error { return s.connections(t, asked) })
	}
	ask("at first")
	if err := os.Remove(filepath.Join(s.runtimeDir, "agents", "store.json")); err != nil {
		t.Fatal(err)
	}
	killed := u.kill(t, "agent")
	ask("with the agent killed")
	u.back(t, "agent", killed)
	ask("without the store's file")
	stored("without the store's file")
	for _, at := range tcpSockets(t, u.child(t, "agent")) {
		t.Errorf("the agent has a TCP socket: %s", at)
	}
	killed = u.kill(t, "server")
	ask("with the server killed")
	u.back(t, "server", killed)
	ask("after the server was killed")
	stored("after the server was killed")

	// What the server has on disk is stored, however it is started next.
	ask("at the end")
	u.stop(t)
	u = s.start(t)
	stored("without --gather")
	if _, text := u.metrics(t, u.token(t)); !strings.Contains(text, "\nringfence_gather_") {
		t.Error("what was left on the server's disk is looked after by nobody")
	}
}

// connections returns an error unless db was asked n times by each of web's
// addresses.
func (s *site) connections(t *testing.T, n int64) error {
	t.Helper()
	flows, err := s.flows(t, "--port", fmt.Sprint(dbPort), "--direction", "ingress")
	if err != nil {
		return err
	}
	stored := map[string]int64{}
	for _, f := range flows {
		stored[f.SourceAddress] += f.Connections
	}
	for _, a := range s.webIs {
		if stored[a.String()] != n {
			return fmt.Errorf("%d connections from %s are stored, want %d", stored[a.String()], a, n)
		}
	}
	return nil
}

// tcpSockets are those that a process has open, of its own network namespace.
func tcpSockets(t *testing.T, pid int) (open []string) {
	t.Helper()
	own := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	for _, l := range links {
		to, _ := os.Readlink(l) // it may be closed by now
		own[to] = true
	}
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, family))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 9 && own["socket:["+f[9]+"]"] {
				open = append(open, family+" "+f[1]+" "+f[2])
			}
		}
	}
	return open
}
