package enforcer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
)

// slots are the policies that a node should hold for one workload.
type slots struct {
	Live   *rollout.Revision `json:"live,omitempty"`
	Staged *rollout.Revision `json:"staged,omitempty"`
}

func (s slots) each(visit func(flow.Slot, *rollout.Revision)) {
	if s.Live != nil {
		visit(flow.SlotLive, s.Live)
	}
	if s.Staged != nil {
		visit(flow.SlotStaged, s.Staged)
	}
}

// mentioned returns the prefixes of all policies and of what guards them.
func mentioned(in scope, all map[flow.Workload]slots) map[netip.Prefix]bool {
	set := map[netip.Prefix]bool{}
	for ref, s := range all {
		s.each(func(_ flow.Slot, r *rollout.Revision) { mention(set, in, &r.Policy) })
		for _, g := range in.index.Guardrails(ref) {
			mentionPeers(set, g.Peers)
		}
	}
	return set
}

// compiler turns policies into tables. It holds what all of them share.
type compiler struct {
	scope
	numbers  numbers
	regions  regions
	limits   bpf.Limits
	selected map[string][]flow.Identity   // by selector
	longest  map[netip.Addr]flow.Identity // see region
	opened   []door                       // see doors
}

func newCompiler(in scope, n numbers, limits bpf.Limits) *compiler {
	return &compiler{
		scope: in, numbers: n, regions: newRegions(n.prefixes), limits: limits,
		selected: map[string][]flow.Identity{}, longest: map[netip.Addr]flow.Identity{},
	}
}

// table is a compiled table with the digest of what it says, and how many of the
// kernel's entries it takes.
type table struct {
	bpf.Table
	digest digest
	size   int
	// partly is a service's port of which the policy admits only some backends.
	partly *inventory.Destination
}

// refusedError says why one workload's policy cannot be enforced.
type refusedError struct {
	workload flow.Workload
	revision uint32
	why      string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("policy %s revision %d %s", e.workload, e.revision, e.why)
}

func newTable(t bpf.Table, partly *inventory.Destination) table {
	return table{Table: t, digest: digestOf(t), size: t.Size(), partly: partly}
}

// slot returns the table of one direction of one slot.
func (c *compiler) slot(key bpf.TableKey, r *rollout.Revision) (table, error) {
	t := bpf.Table{TableKey: key, Revision: r.Number}
	if !r.Policy.Isolates(key.Direction) {
		t.Open = true
		return newTable(t, nil), nil
	}
	partly, why := c.rules(&t, r.Policy.Rules(key.Direction))
	if why != "" {
		return table{}, &refusedError{workload: r.Policy.Workload, revision: r.Number, why: why}
	}
	return newTable(t, partly), nil
}

// guardrails returns the table of what list denies in one direction; ok is false
// where it denies nothing.
func (c *compiler) guardrails(key bpf.TableKey, list []policy.Guardrail, ref flow.Workload, revision uint32) (t table, ok bool, err error) {
	var rules []policy.Rule
	for i := range list {
		if list[i].Guards(key.Direction) {
			rules = append(rules, policy.Rule{Peers: list[i].Peers, Ports: list[i].Ports})
		}
	}
	if len(rules) == 0 {
		return table{}, false, nil
	}
	out := bpf.Table{TableKey: key}
	if _, why := c.rules(&out, rules); why != "" {
		return table{}, false, &refusedError{workload: ref, revision: revision, why: "with its guardrails " + why}
	}
	return newTable(out, nil), true, nil
}

// maxCompiled bounds the memory that a policy can take while it is only counted.
const maxCompiled = 1 << 22

// rules fills t, or says why it cannot.
func (c *compiler) rules(t *bpf.Table, rules []policy.Rule) (partly *inventory.Destination, why string) {
	entries := map[bpf.Entry]bool{}
	for i := range rules {
		for _, admitted := range c.rule(t.TableKey, &rules[i]) {
			for _, peer := range admitted.peers {
				t.UsesCIDRs = t.UsesCIDRs || peer >= flow.FirstCIDRIdentity && peer != bpf.PeerAny
				for _, m := range admitted.ports {
					entries[m.entry(peer)] = true
				}
				if len(entries) > maxCompiled {
					return nil, fmt.Sprintf("needs more than %s entries for %s, the table holds %s: allow fewer peers or ports",
						thousands(maxCompiled), t.Direction, thousands(c.limits.PolicyEntries))
				}
			}
		}
	}
	t.Entries = bpf.Normalize(slices.Collect(maps.Keys(entries)))
	partly = c.forward(t)
	if n := t.Size(); n > c.limits.PolicyEntries {
		return nil, fmt.Sprintf("needs %s entries for %s, the table holds %s: allow fewer peers or ports",
			thousands(n), t.Direction, thousands(c.limits.PolicyEntries))
	}
	return partly, ""
}

// admission is peers on ports, every combination of them.
type admission struct {
	peers []flow.Identity
	ports []match
}

// rule returns what r admits, its names replaced by what they mean here.
func (c *compiler) rule(key bpf.TableKey, r *policy.Rule) []admission {
	all := admission{peers: c.peers(r.Peers), ports: everything}
	if len(r.Ports) == 0 {
		return []admission{all}
	}
	all.ports = nil
	var named []admission
	for _, p := range r.Ports {
		switch {
		case p.Name == "":
			all.ports = append(all.ports, matchOf(p))
		case key.Direction == flow.Ingress:
			for _, q := range c.ingress(c.index.Identity(key.Identity), p) {
				all.ports = append(all.ports, matchOf(q))
			}
		default:
			for _, t := range c.egress(r.Peers, p) {
				a := admission{ports: []match{matchOf(t.port)}}
				if len(t.peers) > 0 {
					a.peers = c.peers(t.peers)
				}
				for _, w := range t.whole {
					a.peers = append(a.peers, w.Identity)
				}
				named = append(named, a)
			}
		}
	}
	return append(named, all)
}

// peers returns the identities that any of list admits.
func (c *compiler) peers(list []policy.Peer) []flow.Identity {
	if len(list) == 0 {
		return []flow.Identity{bpf.PeerAny}
	}
	var out []flow.Identity
	for i := range list {
		switch p := &list[i]; {
		case p.Selector != nil:
			out = append(out, c.selector(p.Selector)...)
		case p.CIDR != nil:
			out = append(out, c.regions.admitted(p.CIDR)...)
		case p.FQDN != "":
			for _, a := range c.index.Resolve(p.FQDN) {
				out = append(out, c.regions.admitted(&policy.CIDR{Prefix: single(a)})...)
			}
		default:
			// A valid policy names only identities that there are.
			if id, err := flow.ReservedIdentity(p.Reserved); err == nil {
				out = append(out, id)
			}
		}
	}
	return out
}

// selector returns the identities of the workloads that s selects. The same
// selectors come again and again.
func (c *compiler) selector(s *policy.Selector) []flow.Identity {
	key := fmt.Sprintf("%q %q %q %t", s.Namespace, s.MatchLabels, s.MatchExpressions, s.All) // maps print in order
	if n := s.Namespaces; n != nil {
		key += fmt.Sprintf(" %q %q %t", n.MatchLabels, n.MatchExpressions, n.All)
	}
	out, ok := c.selected[key]
	if !ok {
		for _, w := range c.index.Select(s) {
			out = append(out, w.Identity)
		}
		c.selected[key] = out
	}
	return out
}

// addresses returns the kernel's table of exact addresses as node sees it.
func addresses(inv *inventory.Inventory, node string) []bpf.AddressOwner {
	var out []bpf.AddressOwner
	for _, n := range inv.Nodes {
		id := flow.IdentityRemoteNode
		if n.Name == node {
			id = flow.IdentityHost
		}
		for _, a := range n.Addresses {
			out = append(out, bpf.AddressOwner{Addr: a, Identity: id})
		}
	}
	for _, w := range inv.Workloads {
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				out = append(out, bpf.AddressOwner{Addr: a, Identity: w.Identity, Endpoint: e.ID})
			}
		}
	}
	return out
}

// digest tells tables with different contents apart. Entries are normalized.
type digest [sha256.Size]byte

func digestOf(t bpf.Table) digest {
	h := sha256.New()
	put := func(v ...uint32) {
		for _, n := range v {
			h.Write(binary.LittleEndian.AppendUint32(nil, n))
		}
	}
	put(t.Revision, flag(t.Open), flag(t.UsesCIDRs))
	for _, e := range t.Entries {
		put(uint32(e.Peer), uint32(e.Protocol), uint32(e.First), uint32(e.Last))
	}
	return digest(h.Sum(nil))
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// thousands writes n as people read it: 70,214.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
