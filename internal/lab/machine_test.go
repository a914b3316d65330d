package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// machine is what a lab must leave alone: the links, addresses, routes, rules
// and network settings of the namespace that the test runs in.
type machine struct {
	Links, Addresses, Routes, Rules []string
	Settings                        map[string]string
}

func snapshotMachine(t *testing.T) machine {
	t.Helper()
	m := machine{Settings: map[string]string{}}
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	links, err := netlink.LinkList()
	fail(err)
	for _, l := range links {
		a := l.Attrs()
		m.Links = append(m.Links, fmt.Sprintf("%d %s %s mtu %d %s %v", a.Index, a.Name, l.Type(), a.MTU, a.HardwareAddr, a.Flags))
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		fail(err)
		for _, addr := range addrs {
			m.Addresses = append(m.Addresses, fmt.Sprintf("%s %s", a.Name, addr.IPNet))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	fail(err)
	for _, r := range routes {
		m.Routes = append(m.Routes, fmt.Sprintf("%d %s via %s dev %d", r.Table, r.Dst, r.Gw, r.LinkIndex))
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	fail(err)
	for _, r := range rules {
		m.Rules = append(m.Rules, r.String())
	}
	slices.Sort(m.Routes)
	fail(filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		// What the kernel itself changes is no setting.
		if strings.Contains(path, "/netfilter/") || strings.HasSuffix(path, "_count") {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil { // some can only be written
			m.Settings[path] = string(b)
		}
		return nil
	}))
	return m
}

func (m machine) mustBeUnchanged(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(m, snapshotMachine(t)); diff != "" {
		t.Errorf("the machine has changed (-before +after):\n%s", diff)
	}
}

// mustLeaveNothing fails if a namespace of a lab, or a process started with the
// given state directory's hosts, is still there.
func mustLeaveNothing(t *testing.T, stateDir string, pids ...int) {
	t.Helper()
	for _, name := range Default().Namespaces() {
		if exists, err := namespaceExists(name); err != nil || exists {
			t.Errorf("namespace %s is still there (%v)", name, err)
		}
	}
	for _, pid := range pids {
		if _, alive, err := startTime(pid); err != nil || alive {
			t.Errorf("process %d is still there (%v)", pid, err)
		}
	}
	for _, path := range []string{recordPath(stateDir), lockPath} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// hostPIDs returns the processes that run a test's hosts, by their arguments.
func hostPIDs(t *testing.T) []int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(b), exe+"\x00lab-host\x00rf-") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
			t.Fatal(err)
		}
		out = append(out, pid)
	}
	return out
}
