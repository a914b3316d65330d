package inventory

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// maxInterfaceName is the kernel's IFNAMSIZ without the terminator.
const maxInterfaceName = 15

// Validate returns an *Error with every problem, or nil.
func (inv *Inventory) Validate() error {
	c := checker{
		nodes:      map[string]string{},
		workloads:  map[flow.Workload]string{},
		addresses:  map[netip.Addr]string{},
		interfaces: map[[2]string]string{},
	}
	c.checkNodes(inv.Nodes)
	if len(inv.Workloads) == 0 {
		c.add("workloads", "there are none: list at least one")
	}
	for i := range inv.Workloads {
		c.checkWorkload(fmt.Sprintf("workloads[%d]", i), &inv.Workloads[i])
	}
	c.checkGuardrails(inv.Guardrails)
	c.checkNamespaces(inv.Namespaces)
	c.checkDNSNames(inv.Names)
	c.checkServices(inv.Services)
	c.checkDenied(inv)
	return c.error()
}

func (c *checker) error() error {
	if len(c.problems) == 0 {
		return nil
	}
	return &Error{Problems: c.problems}
}

// checker remembers who was first to use what must be used once.
type checker struct {
	problems   []Problem
	nodes      map[string]string        // name → path
	workloads  map[flow.Workload]string // → path
	addresses  map[netip.Addr]string    // → owner in words
	interfaces map[[2]string]string     // node, interface → owner in words
}

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) checkNodes(nodes []Node) {
	if len(nodes) == 0 {
		c.add("nodes", "there are none: list at least the machine that the agent runs on")
	}
	for i := range nodes {
		n, path := &nodes[i], fmt.Sprintf("nodes[%d]", i)
		c.checkInterfaces(path, n.Interfaces)
		if !c.checkName(path+".name", n.Name) {
			continue
		}
		if first, ok := c.nodes[n.Name]; ok {
			c.add(path+".name", "node %q is already %s: give each node its own name", n.Name, first)
			continue
		}
		c.nodes[n.Name] = path
		c.checkAddresses(path, n.Addresses, "node "+n.Name)
		c.checkDenyLists(path, n.DenyLists)
	}
}

// Of a node, as the kernel counts them.
const (
	maxDenyLists    = 32
	maxDenyListName = 63
)

func (c *checker) checkDenyLists(path string, lists []DenyList) {
	if len(lists) > maxDenyLists {
		c.add(path+".denyLists", "there are %d: a node may have %d, merge some", len(lists), maxDenyLists)
	}
	names := map[string]int{}
	for i, l := range lists {
		at := fmt.Sprintf("%s.denyLists[%d]", path, i)
		first, taken := names[l.Name]
		switch {
		case !c.checkName(at+".name", l.Name):
		case len(l.Name) > maxDenyListName:
			c.add(at+".name", "%d bytes: want at most %d", len(l.Name), maxDenyListName)
		case taken:
			c.add(at+".name", "list %q is already %s.denyLists[%d]: names are unique on a node", l.Name, path, first)
		default:
			names[l.Name] = i
		}
		if !filepath.IsAbs(l.File) {
			c.add(at+".file", "%q: want an absolute path on the node", l.File)
		}
		if l.Mode != "" && l.Mode != ModeAudit && l.Mode != ModeEnforce {
			c.add(at+".mode", "%q: want %s or %s", l.Mode, ModeAudit, ModeEnforce)
		}
	}
}

// checkDenied looks for deny lists that no interface would obey.
func (c *checker) checkDenied(inv *Inventory) {
	filtered := map[string]bool{}
	for i := range inv.Workloads {
		for _, e := range inv.Workloads[i].Endpoints {
			filtered[e.Node] = filtered[e.Node] || e.Host && e.Interface != ""
		}
	}
	for i, n := range inv.Nodes {
		if len(n.DenyLists) > 0 && !filtered[n.Name] {
			c.add(fmt.Sprintf("nodes[%d].denyLists", i), "no endpoint of node %s has host: true and an interface: deny lists hold on those", n.Name)
		}
	}
}

func (c *checker) checkWorkload(path string, w *Workload) {
	named := c.checkName(path+".namespace", w.Namespace)
	named = c.checkName(path+".kind", w.Kind) && named
	named = c.checkName(path+".name", w.Name) && named
	if named {
		if first, ok := c.workloads[w.Ref()]; ok {
			c.add(path, "workload %s is already %s: merge the two or rename one", w.Ref(), first)
		} else {
			c.workloads[w.Ref()] = path
		}
	}
	c.checkLabels(path+".labels", w)
	if len(w.Endpoints) == 0 {
		c.add(path+".endpoints", "workload %s has none: list at least one or remove the workload", w.Ref())
	}
	names := map[string]int{}
	for i := range w.Endpoints {
		e, at := &w.Endpoints[i], fmt.Sprintf("%s.endpoints[%d]", path, i)
		if c.checkName(at+".name", e.Name) {
			if first, ok := names[e.Name]; ok {
				c.add(at+".name", "endpoint %q is already %s.endpoints[%d]: names are unique within a workload", e.Name, path, first)
			} else {
				names[e.Name] = i
			}
		}
		c.checkEndpoint(at, w, e)
	}
}

func (c *checker) checkGuardrails(list []policy.Guardrail) {
	joined, ok := policy.ValidateGuardrails(list).(interface{ Unwrap() []error })
	if !ok {
		return
	}
	for _, err := range joined.Unwrap() {
		if p, ok := errors.AsType[*policy.Problem](err); ok {
			c.add(p.Path, "%s", p.Text)
		}
	}
}

func (c *checker) checkEndpoint(path string, w *Workload, e *Endpoint) {
	owner := fmt.Sprintf("endpoint %s of %s", e.Name, w.Ref())
	if e.Node == "" {
		c.add(path+".node", "missing: name the node that the endpoint runs on")
	} else if _, ok := c.nodes[e.Node]; !ok {
		c.add(path+".node", "there is no node %q: add it to nodes or correct the name", e.Node)
	}
	if e.Interface != "" {
		if why := badInterface(e.Interface); why != "" {
			c.add(path+".interface", "%q %s", e.Interface, why)
		} else if first, ok := c.interfaces[[2]string{e.Node, e.Interface}]; ok {
			c.add(path+".interface", "%s on node %s is used by %s and by %s: one interface belongs to one endpoint", e.Interface, e.Node, first, owner)
		} else {
			c.interfaces[[2]string{e.Node, e.Interface}] = owner
		}
	}
	c.checkTunnels(path, e)
	c.checkPorts(path, e)
	if len(e.Addresses) == 0 {
		c.add(path+".addresses", "%s has none: list its addresses", owner)
	}
	c.checkAddresses(path, e.Addresses, owner)
}

func (c *checker) checkTunnels(path string, e *Endpoint) {
	for i, t := range e.Tunnels {
		at := fmt.Sprintf("%s.tunnels[%d]", path, i)
		switch t {
		case TunnelVXLAN, TunnelGENEVE, TunnelGRE, TunnelIPIP:
			if slices.Contains(e.Tunnels[:i], t) {
				c.add(at, "%s is listed twice: remove one", t)
			}
		default:
			c.add(at, "%q is no tunnel that can be looked into: choose of vxlan, geneve, gre and ipip", string(t))
		}
	}
	if len(e.Tunnels) > 0 && e.Interface == "" {
		c.add(path+".tunnels", "there is no interface to look into tunnels on: name it or remove the tunnels")
	}
}

func (c *checker) checkPorts(path string, e *Endpoint) {
	for i, p := range e.Ports {
		at := fmt.Sprintf("%s.ports[%d]", path, i)
		for _, why := range validation.IsValidPortName(p.Name) {
			c.add(at+".name", "%q: %s", p.Name, why)
		}
		if !p.Protocol.HasPorts() {
			c.add(at+".protocol", "%s has no ports: want TCP, UDP or SCTP", p.Protocol)
		}
		if p.Port == 0 {
			c.add(at+".port", "missing: want a number from 1 to 65535")
		}
		for _, q := range e.Ports[:i] {
			if p.Name == q.Name && p.Protocol == q.Protocol && p.Name != "" {
				c.add(at+".name", "%s port %q is listed twice: a name stands for one number", p.Protocol, p.Name)
			}
		}
	}
}

func (c *checker) checkNamespaces(list []Namespace) {
	names := map[string]int{}
	for i, n := range list {
		path := fmt.Sprintf("namespaces[%d]", i)
		if c.checkName(path+".name", n.Name) {
			if first, ok := names[n.Name]; ok {
				c.add(path+".name", "namespace %q is already namespaces[%d]: merge the two", n.Name, first)
			} else {
				names[n.Name] = i
			}
		}
		c.checkLabelText(path+".labels", n.Labels)
		if have, ok := n.Labels[policy.NamespaceName]; ok && have != n.Name {
			c.add(path+".labels", "label %s is %q: it is always the namespace's name", policy.NamespaceName, have)
		}
	}
}

func (c *checker) checkDNSNames(list []Name) {
	names := map[string]int{}
	for i, n := range list {
		path := fmt.Sprintf("names[%d]", i)
		for _, why := range validation.IsDNS1123Subdomain(n.Name) {
			c.add(path+".name", "%q: %s", n.Name, why)
		}
		if first, ok := names[n.Name]; ok {
			c.add(path+".name", "name %q is already names[%d]: merge the two", n.Name, first)
		} else {
			names[n.Name] = i
		}
		for j, a := range n.Addresses {
			if why := badAddress(a); a.IsValid() && why != "" {
				c.add(fmt.Sprintf("%s.addresses[%d]", path, j), "%s %s", a, why)
			}
		}
	}
}

func (c *checker) checkAddresses(path string, addrs []netip.Addr, owner string) {
	for i, a := range addrs {
		at := fmt.Sprintf("%s.addresses[%d]", path, i)
		if !a.IsValid() {
			continue // reported while reading
		}
		if why := badAddress(a); why != "" {
			c.add(at, "%s %s", a, why)
			continue
		}
		first, taken := c.addresses[a]
		switch {
		case !taken:
			c.addresses[a] = owner
		case first == owner:
			c.add(at, "%s is listed twice for %s: remove one", a, owner)
		case strings.HasPrefix(first, "node ") && !strings.HasPrefix(owner, "node "):
			c.add(at, "%s belongs to %s and to %s: a node's address is never a workload's; for a host's own interface, leave it out of the node's addresses", a, first, owner)
		default:
			c.add(at, "%s belongs to %s and to %s: an address has one owner", a, first, owner)
		}
	}
}

var (
	labelKey   = regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

// maxLabelKey is a DNS name, a slash and a name.
const maxLabelKey = 253 + 1 + 63

func (c *checker) checkLabels(path string, w *Workload) {
	if len(w.Labels) == 0 {
		c.add(path, "workload %s has none: give at least one, for rules select peers by label", w.Ref())
	}
	c.checkLabelText(path, w.Labels)
}

func (c *checker) checkLabelText(path string, labels map[string]string) {
	for _, k := range sortedKeys(labels) {
		if len(k) > maxLabelKey || !labelKey.MatchString(k) {
			c.add(path, "label key %q: want letters, digits, '-', '_' and '.', as in app.kubernetes.io/name", k)
		}
		if v := labels[k]; !labelValue.MatchString(v) {
			c.add(path, "label %s has value %q: want at most 63 letters, digits, '-', '_' and '.'", k, v)
		}
	}
}

func (c *checker) checkName(path, name string) bool {
	switch {
	case name == "":
		c.add(path, "missing")
	case len(name) > 253:
		c.add(path, "%d characters: want at most 253", len(name))
	case name == "." || name == "..":
		c.add(path, "%q is a directory's name: choose another", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		c.add(path, "%q has a slash, a space or a control character: choose a name without", name)
	default:
		return true
	}
	return false
}

func badInterface(name string) string {
	switch {
	case len(name) > maxInterfaceName:
		return fmt.Sprintf("has %d characters: interface names have at most %d", len(name), maxInterfaceName)
	case name == "." || name == "..", strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}):
		return "is no interface name"
	}
	return ""
}

func badAddress(a netip.Addr) string {
	switch {
	case a.Is4In6():
		return "is an IPv4-mapped address: write it as " + a.Unmap().String()
	case a.Zone() != "":
		return "has a zone: only addresses that are unique in the network can be attributed"
	case a.IsUnspecified():
		return "is the unspecified address: give the real one"
	case a.IsLoopback():
		return "is a loopback address, which every machine has: give the one that others see"
	case a.IsMulticast():
		return "is a multicast address, which nobody owns: remove it"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address, which nobody owns: remove it"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "is link-local and not unique in the network: give a global or unique-local one"
	}
	return ""
}
