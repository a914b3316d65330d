package inventory

import (
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Inventory is everything known of who owns which address.
type Inventory struct {
	Nodes     []Node     `json:"nodes" yaml:"nodes"`
	Workloads []Workload `json:"workloads" yaml:"workloads"`
	// Guardrails deny what no policy shall allow.
	Guardrails []policy.Guardrail `json:"guardrails,omitempty" yaml:"guardrails"`
	// Namespaces are those with labels of their own, for selectors that pick
	// namespaces by label.
	Namespaces []Namespace `json:"namespaces,omitempty" yaml:"namespaces"`
	// Names are DNS names with the addresses that they were seen to have.
	Names []Name `json:"names,omitempty" yaml:"names"`
	// Services are addresses that stand for workloads behind them.
	Services []Service `json:"services,omitempty" yaml:"services"`
}

// Namespace is a namespace with its labels. policy.NamespaceName is every
// namespace's and need not be given.
type Namespace struct {
	Name   string            `json:"name" yaml:"name"`
	Labels map[string]string `json:"labels,omitempty" yaml:"labels"`
}

// Name is a DNS name, in lower case and without a last dot.
type Name struct {
	Name      string       `json:"name" yaml:"name"`
	Addresses []netip.Addr `json:"addresses" yaml:"addresses"`
}

// Node is a machine that an agent runs on. Its addresses are never a workload's.
type Node struct {
	Name      string       `json:"name" yaml:"name"`
	Addresses []netip.Addr `json:"addresses" yaml:"addresses"`
	// DenyLists hold on the interfaces of the node's Host endpoints, for what
	// comes in. The first one that has a source counts it, enforced ones first.
	DenyLists []DenyList `json:"denyLists,omitempty" yaml:"denyLists"`
	// Interfaces pick interfaces of the node that are watched although no
	// endpoint names them. The first rule that matches counts.
	Interfaces []InterfaceRule `json:"interfaces,omitempty" yaml:"interfaces"`
	// Pending is what happens on the node to an endpoint, or where policies are
	// enforced to a peer, that nobody knows yet: VerdictAllow, also when it is not
	// given, or VerdictDeny.
	Pending flow.Verdict `json:"pending,omitempty" yaml:"pending,omitempty"`
}

// Modes of a deny list. Empty is audit.
const (
	ModeAudit   = "audit"   // counted
	ModeEnforce = "enforce" // counted and dropped
)

// DenyList is a file of sources on the node that it is for.
type DenyList struct {
	// Name is unique on the node, and appears in metrics.
	Name string `json:"name" yaml:"name"`
	File string `json:"file" yaml:"file"` // absolute path on the node
	Mode string `json:"mode,omitempty" yaml:"mode"`
	// AllowEmpty takes a file without an entry too, instead of keeping the list
	// as it was.
	AllowEmpty bool `json:"allowEmpty,omitempty" yaml:"allowEmpty"`
}

// Workload is a set of endpoints governed together.
type Workload struct {
	Namespace string            `json:"namespace" yaml:"namespace"`
	Kind      string            `json:"kind" yaml:"kind"` // Host unless given
	Name      string            `json:"name" yaml:"name"`
	Labels    map[string]string `json:"labels" yaml:"labels"` // at least one
	Endpoints []Endpoint        `json:"endpoints" yaml:"endpoints"`

	// Identity is assigned by the server and kept for the workload's life; the
	// file must not give it.
	Identity flow.Identity `json:"identity" yaml:"-"`
}

// Endpoint is one pod or host: an interface on a node, and its addresses.
type Endpoint struct {
	// Name is unique within the workload.
	Name string `json:"name" yaml:"name"`
	Node string `json:"node" yaml:"node"`
	// Interface is the host's side of the pod's veth, or, when Host is set, a
	// network interface of the node itself. Empty: an endpoint that is known
	// but has no agent, so nothing is observed or enforced there.
	Interface string `json:"interface,omitempty" yaml:"interface"`
	Host      bool   `json:"host,omitempty" yaml:"host"`
	// Tunnels are those whose inner flows are recorded and judged in place of
	// the tunnel's own: for an interface whose node, or pod, ends them.
	Tunnels   []Tunnel     `json:"tunnels,omitempty" yaml:"tunnels"`
	Addresses []netip.Addr `json:"addresses" yaml:"addresses"`
	// Ports are those that policies may call by name.
	Ports []policy.NamedPort `json:"ports,omitempty" yaml:"ports"`

	// ID is assigned by the server: unique over all endpoints, never 0, kept
	// while (workload, name) stays.
	ID uint32 `json:"id" yaml:"-"`
}

// Tunnel is a kind of tunnel that can be looked into.
type Tunnel string

// The kinds of tunnel.
const (
	TunnelVXLAN  Tunnel = "vxlan"
	TunnelGENEVE Tunnel = "geneve"
	TunnelGRE    Tunnel = "gre"
	TunnelIPIP   Tunnel = "ipip" // IPv4 or IPv6 in either
)

// Ref returns the workload's name.
func (w *Workload) Ref() flow.Workload {
	return flow.Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}

// NamedPorts returns the named ports of w's endpoints, each once: for flows of
// which only the workload is known.
func (w *Workload) NamedPorts() []policy.NamedPort {
	var out []policy.NamedPort
	for i := range w.Endpoints {
		for _, p := range w.Endpoints[i].Ports {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}
