package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKilledAgentKnowsFormerOwners gives addresses to somebody else while what
// they sent before is read and not stored yet, and kills the agent: the next one
// reads it again, and its inventory never had the former owners.
func TestKilledAgentKnowsFormerOwners(t *testing.T) {
	t.Parallel()
	s := newSite(t, "o")
	s.write(t, s.behind())
	const before, after = dbPort, dbPort + 1
	s.db.echo(t, before)
	s.db.echo(t, after)
	u := s.start(t)
	owners := func() string {
		raw, err := os.ReadFile(filepath.Join(s.stateDir, "nodes", "node-1", "owners.state"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	known := owners()
	reaches(t, "before", s.web, s.dbIs, before, true) // a batch so small waits for 10 s
	s.write(t, strings.NewReplacer(
		"interface: web0, addresses: "+list(s.webIs[:]...), "interface: evil0, addresses: "+list(s.evilIs[:]...),
		"interface: evil0, addresses: "+list(s.evilIs[:]...), "interface: web0, addresses: "+list(s.webIs[:]...),
	).Replace(s.behind()))
	u.kill(t, "server")
	eventually(t, "the agent knows of it", func() error {
		if owners() == known {
			return errors.New("owners.state is as before")
		}
		return nil
	})
	u.back(t, "agent", u.kill(t, "agent"))
	eventually(t, "what was sent before", func() error { return s.attributed(t, before, "web") })
	// Not earlier: the former agent may have been killed before the kernel knew whose
	// the interfaces are now, and flows of that moment are nobody's.
	reaches(t, "after", s.web, s.dbIs, after, true)
	eventually(t, "what was sent after", func() error { return s.attributed(t, after, "evil") })
}

// attributed returns an error unless every connection from web's addresses to
// db's port, of both families, was stored as the workload's.
func (s *site) attributed(t *testing.T, port int, to string) error {
	t.Helper()
	flows, err := s.flows(t, "--port", fmt.Sprint(port))
	if err != nil {
		return err
	}
	connections := map[string]int64{}
	for _, f := range flows {
		name := "nobody"
		if f.Source.Workload != nil {
			name = f.Source.Workload.Name
		}
		if name != to {
			return fmt.Errorf("a flow from %s to port %d is %s's, want %s's", f.SourceAddress, port, name, to)
		}
		if f.Direction == "ingress" {
			connections[f.SourceAddress] += f.Connections
		}
	}
	for _, a := range s.webIs {
		if connections[a.String()] == 0 {
			return fmt.Errorf("no connection from %s to port %d", a, port)
		}
	}
	return nil
}
