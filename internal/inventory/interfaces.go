package inventory

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode"
)

// FirstPendingEndpoint is where the numbers begin that a node itself gives to
// interfaces picked by a rule: this plus the interface's index, which is below
// it. They are unique on the node only; the server assigns lower ones.
const FirstPendingEndpoint uint32 = 1 << 31

// Interface is a network interface as a node has it.
type Interface struct {
	Index     int
	Name      string
	Kind      string // of InterfaceKinds, or another that the kernel names
	Ethernet  bool   // others cannot be watched
	Addresses []netip.Addr
}

// InterfaceRule picks interfaces of a node that are watched although no endpoint
// names them. All fields given must match; Host is none of them.
type InterfaceRule struct {
	// Name is a glob, as in veth*.
	Name string `json:"name,omitempty" yaml:"name"`
	// Kind is one of InterfaceKinds.
	Kind string `json:"kind,omitempty" yaml:"kind"`
	// Address is a prefix that holds an address of the interface itself.
	Address netip.Prefix `json:"address,omitzero" yaml:"address"`
	// Host says, as Endpoint's does, that the interface is the node's own.
	Host bool `json:"host,omitempty" yaml:"host"`
}

// InterfaceKinds are those that a rule can name: device is a network card, the
// others are what the kernel calls them.
var InterfaceKinds = []string{
	"bond", "bridge", "device", "dummy", "geneve", "gretap", "ifb", "ip6gretap", "ipvlan", "macsec", "macvlan",
	"macvtap", "netkit", "openvswitch", "team", "tun", "veth", "vlan", "vrf", "vxlan",
}

// Matches reports whether r picks the interface.
func (r *InterfaceRule) Matches(i *Interface) bool {
	if r.Name != "" {
		if ok, err := path.Match(r.Name, i.Name); err != nil || !ok {
			return false
		}
	}
	if r.Kind != "" && r.Kind != i.Kind {
		return false
	}
	return !r.Address.IsValid() || slices.ContainsFunc(i.Addresses, r.Address.Contains)
}

func (c *checker) checkInterfaces(at string, rules []InterfaceRule) {
	for i := range rules {
		r, path := &rules[i], fmt.Sprintf("%s.interfaces[%d]", at, i)
		if r.Name == "" && r.Kind == "" && !r.Address.IsValid() {
			c.add(path, "picks nothing: give at least one of name, kind and address")
		}
		if why := badGlob(r.Name); why != "" {
			c.add(path+".name", "%q %s", r.Name, why)
		}
		if r.Kind != "" && !slices.Contains(InterfaceKinds, r.Kind) {
			c.add(path+".kind", "%q is no kind of interface that can be watched: choose of %s", r.Kind, strings.Join(InterfaceKinds, ", "))
		}
		if why := badPrefix(r.Address); why != "" {
			c.add(path+".address", "%s %s", r.Address, why)
		}
	}
}

func badGlob(name string) string {
	switch _, err := path.Match(name, ""); {
	case name == "":
		return ""
	case err != nil:
		return "is no pattern: write it as in veth*, with * for any characters, ? for one and [a-z] for one of several"
	case !strings.ContainsAny(name, `*?[\`):
		return badInterface(name)
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return "has what no interface name has: a slash, a space or a control character"
	}
	return ""
}

func badPrefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "" // not given, or reported while reading
	case p.Addr().Is4In6():
		return "is an IPv4-mapped prefix: write it as 10.0.0.0/8"
	case p != p.Masked():
		return fmt.Sprintf("has bits beyond its length: write it as %s", p.Masked())
	}
	return ""
}
