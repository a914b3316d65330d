package host

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// site is a host (the node) with three machines behind it, web, db and evil,
// and one out in the network, far.
type site struct {
	name                            string
	node, web, db, evil, far        *namespace
	webIs, dbIs, evilIs, farIs      [2]netip.Addr
	nodeIs                          [2]netip.Addr
	stateDir, runtimeDir, inventory string
}

const dbPort = 5432

func newSite(t *testing.T, name string) *site {
	t.Helper()
	s := &site{name: "rf-up-" + name}
	s.node = newNamespace(t, s.name+"-node-1")
	for i, m := range []struct {
		role string
		at   **namespace
		is   *[2]netip.Addr
	}{{"web", &s.web, &s.webIs}, {"db", &s.db, &s.dbIs}, {"evil", &s.evil, &s.evilIs}, {"far", &s.far, &s.farIs}} {
		*m.at = newNamespace(t, s.name+"-"+m.role)
		cable(t, s.node, m.role+"0", *m.at, "eth0", 10+i)
		*m.is = pair(10+i, 2)
	}
	s.nodeIs = pair(13, 1) // the node's own interface into the network is far0
	// Short: the paths of unix sockets are.
	dir, err := os.MkdirTemp("/tmp", "rf-up-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.stateDir, s.runtimeDir = filepath.Join(dir, "state"), filepath.Join(dir, "run")
	s.inventory = filepath.Join(dir, "inventory.yaml")
	return s
}

func list(addrs ...netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, fmt.Sprintf("%q", a))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// behind is the inventory of the machines behind the node.
func (s *site) behind() string {
	inv := fmt.Sprintf("nodes:\n  - name: node-1\n    addresses: %s\nworkloads:\n", list(s.nodeIs[:]...))
	for _, w := range []struct {
		name string
		is   [2]netip.Addr
	}{{"web", s.webIs}, {"db", s.dbIs}, {"evil", s.evilIs}} {
		inv += fmt.Sprintf("  - namespace: shop\n    name: %s\n    labels: {app: %s}\n    endpoints:\n"+
			"      - {name: %s-1, node: node-1, interface: %s0, addresses: %s}\n", w.name, w.name, w.name, w.name, list(w.is[:]...))
	}
	return inv
}

// itself is the inventory of the node as a host that is governed itself.
func (s *site) itself() string {
	return fmt.Sprintf(`nodes:
  - name: node-1
    addresses: []
workloads:
  - namespace: shop
    name: server
    labels: {app: server}
    endpoints:
      - {name: server-1, node: node-1, interface: far0, host: true, addresses: %s}
  - namespace: shop
    name: far
    labels: {app: far}
    endpoints:
      - {name: far-1, node: node-1, addresses: %s}
`, list(s.nodeIs[:]...), list(s.farIs[:]...))
}

func (s *site) write(t *testing.T, inventory string) {
	t.Helper()
	if err := os.WriteFile(s.inventory, []byte(inventory), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reaches demands that a machine reaches another, or does not, by IPv4 and IPv6.
func reaches(t *testing.T, when string, from *namespace, to [2]netip.Addr, port uint16, want bool) {
	t.Helper()
	var both sync.WaitGroup
	for _, a := range to {
		both.Go(func() {
			if err := from.ask(a, port, awaits(want)); (err == nil) != want {
				t.Errorf("%s: %s to %s port %d: reached %v (%v), want %v", when, from.name, a, port, err == nil, err, want)
			}
		})
	}
	both.Wait()
}
