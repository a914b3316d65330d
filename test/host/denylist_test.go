package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// errNotYet is what a change that takes a while is waited for with.
var errNotYet = errors.New("not yet")

// TestUpDenyList has a file of sources dropped at the node's own interface,
// changes it, and spoils it.
func TestUpDenyList(t *testing.T) {
	t.Parallel()
	s := newSite(t, "x")
	file := filepath.Join(filepath.Dir(s.inventory), "drop.txt")
	write := func(lines ...string) {
		t.Helper()
		// Beside it and renamed, so that nobody reads a half.
		if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	inventory := strings.Replace(s.itself(), "    addresses: []\n",
		"    addresses: []\n    denyLists:\n      - {name: drop, file: "+file+", mode: enforce}\n", 1)
	s.write(t, inventory)
	const port = 8080
	s.node.echo(t, port)
	far := []string{"# far", s.farIs[0].String(), s.farIs[1].String() + " ; IPv6"}
	write(far...)
	u := s.start(t)
	check := func(when string, open bool) {
		t.Helper()
		reaches(t, when, s.far, s.nodeIs, port, open)
		reaches(t, when, s.evil, s.nodeIs, port, true) // not on the list, and not through that interface
	}
	turns := func(what string, open bool) {
		t.Helper()
		eventually(t, what, func() error {
			if err := s.far.ask(s.nodeIs[0], port, silence); open != (err == nil) {
				return fmt.Errorf("answered: %t (%w)", err == nil, errors.Join(errNotYet, err))
			}
			return nil
		})
		check(what, open)
	}
	turns("dropped", false)

	write("192.0.2.0/24", "10.0.0.1/8")
	s.command(t, "denylist", "check", file).refused(t, "a file with a bad line", file, "2", "10.0.0.0/8")
	check("with a bad file", false)
	write("192.0.2.0/24", "2001:db8::/32")
	turns("others on the list", true)
	write(far...)
	turns("on the list again", false)

	pins := filepath.Join(s.runtimeDir, "bpf")
	s.says(t, []string{"panic", "--bpf-dir", pins}, "node-1: in audit")
	check("in panic", true)
	s.says(t, []string{"panic", "--bpf-dir", pins, "--clear"}, "node-1: enforcing again")
	check("panic cleared", false)
	u.stop(t)
	check("after Ctrl-C", false)
	s.says(t, []string{"down", "--runtime-dir", s.runtimeDir})
	check("after down", true)
}
