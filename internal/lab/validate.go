package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Limits of a scenario: it shares the machine with what it is a lab for.
const (
	MaxNodes       = 8
	MaxHosts       = 64
	MaxCalls       = 256
	MaxAttacks     = 64 // counting every target
	MaxRequestRate = 400
	MaxPayload     = 1 << 20
	MinInterval    = 50 * time.Millisecond
)

// maxProblems bounds how many problems an error message spells out.
const maxProblems = 10

// ScenarioError holds every problem of a scenario. Its message is one line.
type ScenarioError struct {
	File     string // empty when the scenario is not from a file
	Problems []inventory.Problem
}

func (e *ScenarioError) Error() string {
	shown := make([]string, 0, maxProblems+1)
	for i, p := range e.Problems {
		if i == maxProblems {
			shown = append(shown, fmt.Sprintf("and %d more", len(e.Problems)-maxProblems))
			break
		}
		shown = append(shown, p.String())
	}
	what := "scenario"
	if e.File != "" {
		what += " " + e.File
	}
	return what + ": " + strings.Join(shown, "; ")
}

// Validate returns a *ScenarioError with every problem, or nil.
func (s *Scenario) Validate() error {
	c := scenarioChecker{s: s}
	// What an inventory checks, with the same paths.
	inv := s.Inventory()
	if e, ok := errors.AsType[*inventory.Error](inv.Validate()); ok {
		c.problems = append(c.problems, e.Problems...)
	}
	c.checkNames()
	c.checkAddresses(&inv)
	c.checkListeners()
	c.checkSize()
	c.checkCalls()
	c.checkAttacks()
	if len(c.problems) == 0 {
		return nil
	}
	return &ScenarioError{Problems: c.problems}
}

type scenarioChecker struct {
	s        *Scenario
	problems []inventory.Problem
}

func (c *scenarioChecker) add(path, format string, args ...any) {
	c.problems = append(c.problems, inventory.Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// hostName is what is safe in a file name, in an interface name and in a DNS name.
var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

var nodeName = regexp.MustCompile(`^node-[0-9]{1,3}$`)

func (c *scenarioChecker) checkNames() {
	check := func(path, name string) {
		if !hostName.MatchString(name) {
			c.add(path, "%q: want lower-case letters, digits and '-', at most 63", name)
		}
	}
	check("name", c.s.Name)
	owners := map[string]string{}
	claim := func(path, namespace string) {
		if first, taken := owners[namespace]; taken {
			c.add(path, "its network namespace would be %s, which is that of %s: rename one", namespace, first)
			return
		}
		owners[namespace] = path
	}
	for i := range c.s.Nodes {
		path := fmt.Sprintf("nodes[%d].name", i)
		if n := &c.s.Nodes[i]; !nodeName.MatchString(n.Name) {
			c.add(path, "%q: name nodes node-1, node-2 and so on", n.Name)
		} else {
			claim(path, n.Namespace())
		}
	}
	if len(c.s.External.Peers) > 0 {
		claim("external", externalNamespace)
	}
	for i := range c.s.Workloads {
		w, path := &c.s.Workloads[i], fmt.Sprintf("workloads[%d]", i)
		check(path+".namespace", w.Namespace)
		check(path+".name", w.Name)
		for j := range w.Endpoints {
			claim(fmt.Sprintf("%s.endpoints[%d]", path, j), namespacePrefix+endpointName(w, j))
		}
	}
	peers := map[string]bool{}
	for i, p := range c.s.External.Peers {
		path := fmt.Sprintf("external.peers[%d].name", i)
		check(path, p.Name)
		if peers[p.Name] {
			c.add(path, "there are two peers %q: give each its own name", p.Name)
		}
		peers[p.Name] = true
	}
}

// checkAddresses checks what an inventory leaves open: that everything has one
// address of each family, and that no peer outside has somebody else's.
func (c *scenarioChecker) checkAddresses(inv *inventory.Inventory) {
	both := func(path string, addrs []netip.Addr) {
		if len(addrs) != len(families) || slices.ContainsFunc(families[:], func(f Family) bool { return !address(addrs, f).IsValid() }) {
			c.add(path+".addresses", "want one IPv4 and one IPv6 address")
		}
	}
	for i, n := range inv.Nodes {
		both(fmt.Sprintf("nodes[%d]", i), n.Addresses)
	}
	for i, w := range inv.Workloads {
		for j, e := range w.Endpoints {
			both(fmt.Sprintf("workloads[%d].endpoints[%d]", i, j), e.Addresses)
		}
	}
	x := &c.s.External
	if len(x.Peers) > 0 && !slices.ContainsFunc(c.s.Nodes, func(n Node) bool { return n.Name == x.Node }) {
		c.add("external.node", "there is no node %q: add it to nodes or correct the name", x.Node)
	}
	// A workload made of the peers' addresses is checked like any other.
	with := *inv
	outside := inventory.Workload{Namespace: "x", Kind: "x", Name: "x", Labels: map[string]string{"x": "x"}}
	for i, p := range x.Peers {
		both(fmt.Sprintf("external.peers[%d]", i), p.Addresses)
		outside.Endpoints = append(outside.Endpoints, inventory.Endpoint{Name: p.Name, Node: x.Node, Addresses: p.Addresses})
	}
	with.Workloads = append(slices.Clone(inv.Workloads), outside)
	prefix := fmt.Sprintf("workloads[%d].endpoints", len(inv.Workloads))
	e, _ := errors.AsType[*inventory.Error](with.Validate())
	if e == nil {
		return
	}
	for _, p := range e.Problems {
		rest, ours := strings.CutPrefix(p.Path, prefix)
		if ours && strings.Contains(rest, ".addresses[") {
			c.add("external.peers"+rest, "%s", strings.ReplaceAll(p.Message, " of x/x/x", ""))
		}
	}
}

func (c *scenarioChecker) checkListeners() {
	list := func(path string, own, inherited []Listener) {
		for i, l := range own {
			at := fmt.Sprintf("%s[%d]", path, i)
			c.checkListener(at, l)
			clash := func(o Listener) bool { return o.Protocol == l.Protocol && o.Port == l.Port }
			if slices.ContainsFunc(own[:i], clash) || slices.ContainsFunc(inherited, clash) {
				c.add(at, "%s port %d is served already: one listener a port", l.Protocol, l.Port)
			}
		}
	}
	list("everywhere", c.s.Everywhere, nil)
	for i := range c.s.Workloads {
		w, path := &c.s.Workloads[i], fmt.Sprintf("workloads[%d]", i)
		list(path+".serves", w.Serves, c.s.Everywhere)
		if w.Probe == nil {
			continue
		}
		if !slices.ContainsFunc(w.Serves, func(l Listener) bool { return l.Protocol == flow.TCP && l.Port == w.Probe.Port }) {
			c.add(path+".probe", "%s/%s does not serve TCP port %d: probe a port under serves", w.Namespace, w.Name, w.Probe.Port)
		}
		c.checkInterval(path+".probe.every", w.Probe.Every)
	}
	for i := range c.s.External.Peers {
		list(fmt.Sprintf("external.peers[%d].serves", i), c.s.External.Peers[i].Serves, nil)
	}
}

func (c *scenarioChecker) checkListener(path string, l Listener) {
	if l.Port == 0 {
		c.add(path+".port", "missing: want 1 to 65535")
	}
	switch {
	case l.Protocol == flow.TCP && (l.Speaks == SpeaksRequest || l.Speaks == SpeaksSSH):
	case l.Protocol == flow.UDP && l.Speaks == SpeaksDNS:
	default:
		c.add(path, "%s does not speak %q: want request or ssh over TCP, dns over UDP", l.Protocol, string(l.Speaks))
	}
}

func (c *scenarioChecker) checkInterval(path string, d time.Duration) {
	if d < MinInterval {
		c.add(path, "%s is too often: want at least %s", d, MinInterval)
	}
}

func (c *scenarioChecker) checkSize() {
	over := func(path string, n, limit int, what string) {
		if n > limit {
			c.add(path, "%d %s: a lab has at most %d", n, what, limit)
		}
	}
	over("nodes", len(c.s.Nodes), MaxNodes, "nodes")
	over("workloads", len(c.s.seats()), MaxHosts, "hosts")
	over("calls", len(c.s.Calls), MaxCalls, "calls")
	targets := 0
	for _, a := range c.s.Attacks {
		targets += len(a.Targets)
	}
	over("attacks", targets, MaxAttacks, "targets of attacks")
}

func (c *scenarioChecker) checkCalls() {
	type edge struct {
		from, to string
		protocol flow.Protocol
		port     uint16
	}
	seen := map[edge]int{}
	var rate float64
	for i, call := range c.s.Calls {
		path := fmt.Sprintf("calls[%d]", i)
		from, err := c.s.party(call.From)
		if err != nil {
			c.add(path+".from", "%s", err)
		}
		to, ok := c.checkServer(path, call.To, call.Protocol, call.Port, SpeaksRequest, SpeaksDNS)
		if first, twice := seen[edge{call.From, call.To, call.Protocol, call.Port}]; twice {
			c.add(path, "the same call as calls[%d]: remove one", first)
		}
		seen[edge{call.From, call.To, call.Protocol, call.Port}] = i
		c.checkCall(path, &call)
		if err != nil || !ok || call.Every < MinInterval {
			continue
		}
		targets := float64(len(to.seats) * len(families))
		perClient := 1 / call.Every.Seconds()
		if call.Rare {
			perClient *= targets
		}
		if call.Persistent >= MinInterval {
			perClient += targets / call.Persistent.Seconds()
		}
		rate += perClient * float64(len(from.seats))
	}
	if rate > MaxRequestRate {
		c.add("calls", "%.0f requests a second: a lab makes at most %d; raise `every`", rate, MaxRequestRate)
	}
}

func (c *scenarioChecker) checkCall(path string, call *Call) {
	c.checkInterval(path+".every", call.Every)
	if call.From == call.To {
		c.add(path+".to", "%s calls itself: traffic to itself never leaves a host", call.To)
	}
	if call.First < 0 {
		c.add(path+".first", "%s is in the past: want 0s or more", call.First)
	}
	if call.Persistent != 0 {
		c.checkInterval(path+".persistent", call.Persistent)
	}
	if call.Protocol == flow.UDP && (call.Persistent != 0 || call.Idle) {
		c.add(path, "persistent and idle need a connection: use TCP")
	}
	for field, n := range map[string]int{".send": call.Send, ".receive": call.Receive} {
		if n < 0 || n > MaxPayload {
			c.add(path+field, "%d bytes: want 0 to %d", n, MaxPayload)
		}
	}
}

// checkServer resolves the server of a call or an attack and checks that it
// answers there, in one of the ways given.
func (c *scenarioChecker) checkServer(path, ref string, proto flow.Protocol, port uint16, speaks ...Speech) (party, bool) {
	to, err := c.s.party(ref)
	if err != nil {
		c.add(path+".to", "%s", err)
		return to, false
	}
	l, ok := to.listener(proto, port)
	if !ok {
		c.add(path+".port", "%s does not serve %s port %d: add it to what it serves", ref, proto, port)
		return to, false
	}
	if !slices.Contains(speaks, l.Speaks) {
		c.add(path+".port", "%s port %d of %s speaks %s, which calls cannot", proto, port, ref, l.Speaks)
	}
	return to, true
}

func (c *scenarioChecker) checkAttacks() {
	names := map[string]bool{}
	for i, a := range c.s.Attacks {
		path := fmt.Sprintf("attacks[%d]", i)
		if !hostName.MatchString(a.Name) || names[a.Name] {
			c.add(path+".name", "%q: want a name of lower-case letters, digits and '-' that no other attack has", a.Name)
		}
		names[a.Name] = true
		if a.Send < 0 || a.Send > MaxPayload {
			c.add(path+".send", "%d bytes: want 0 to %d", a.Send, MaxPayload)
		}
		if _, err := c.s.party(a.From); err != nil {
			c.add(path+".from", "%s", err)
		}
		if len(a.Targets) == 0 {
			c.add(path+".targets", "there are none: list at least one")
		}
		for j, t := range a.Targets {
			at := fmt.Sprintf("%s.targets[%d]", path, j)
			c.checkServer(at, t.To, t.Protocol, t.Port, SpeaksRequest, SpeaksSSH, SpeaksDNS)
			if slices.ContainsFunc(c.s.Calls, func(k Call) bool {
				return k.From == a.From && k.To == t.To && k.Protocol == t.Protocol && k.Port == t.Port
			}) {
				c.add(at, "%s calls %s on %s port %d, so that is no attack: remove the target or the call", a.From, t.To, t.Protocol, t.Port)
			}
		}
	}
}
