package bpf

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Endpoint is one pod or host whose interface the programs watch.
type Endpoint struct {
	Interface string
	ID        uint32 // from the inventory, never 0
	// Identity is IdentityUnknown while nobody knows it: Datapath.SetPending
	// says what the answer to the endpoint's flows is then.
	Identity flow.Identity
	// Host says that Interface is the node's own: what it receives goes to the
	// endpoint. Otherwise it is the node's side of a veth, and what it receives
	// comes from the endpoint.
	Host bool
	// Tunnels are those whose inner flows are recorded and judged in place of
	// the tunnel's own.
	Tunnels Tunnels
}

// Tunnels is a set of kinds of tunnel.
type Tunnels uint32

// The kinds of tunnel that the programs can look into, one level deep.
const (
	TunnelVXLAN  Tunnels = 1 << iota // UDP to port 4789 or 8472
	TunnelGENEVE                     // UDP to port 6081
	TunnelGRE                        // version 0, with IP or Ethernet inside
	TunnelIPIP                       // IPv4 or IPv6 in either

	allTunnels = TunnelVXLAN | TunnelGENEVE | TunnelGRE | TunnelIPIP
)

// Attached is an endpoint as the kernel holds it.
type Attached struct {
	Endpoint
	Index int // of the interface
	// ObservedSince is when the programs were first attached to the interface;
	// it survives restarts of the agent.
	ObservedSince time.Time
}

// AddressOwner says whose address Addr is. Endpoint is 0 for an address of a
// node (identity host or remote-node). The identity of an address that somebody
// has, and nobody knows yet who, is IdentityUnknown.
type AddressOwner struct {
	Addr     netip.Addr
	Identity flow.Identity
	Endpoint uint32
}

// CIDRIdentity gives the addresses of Prefix an identity that policy entries
// can name, beside the one of the exact address. The longest prefix counts.
type CIDRIdentity struct {
	Prefix   netip.Prefix
	Identity flow.Identity
}

// Failsafe is a destination that endpoints of the node may always open
// connections to: the agent's own way to the server and the store.
type Failsafe struct {
	Protocol flow.Protocol
	Addr     netip.AddrPort
}

// ServiceIdentity gives a port of a service's address an identity that policy
// entries can name. Endpoints send there, and the node hands it on to somebody
// behind the service: in an egress table entries of this identity match it, and
// one of PeerAny and every protocol, but none of the address, its prefixes, or
// ports of PeerAny. An address that has an owner is no service's.
type ServiceIdentity struct {
	Protocol flow.Protocol
	Addr     netip.AddrPort
	Identity flow.Identity
}

// Changes counts what an update of a table did.
type Changes struct {
	Added   int
	Changed int
	Deleted int
}

// Any reports whether anything changed.
func (c Changes) Any() bool { return c != Changes{} }

// PeerAny is the peer of an entry that matches every address.
const PeerAny flow.Identity = 0xfffffffe

// TableKey names one direction of one slot of one workload.
type TableKey struct {
	Identity  flow.Identity
	Slot      flow.Slot      // or SlotGuardrail
	Direction flow.Direction // Ingress or Egress
}

// Table is the compiled allowlist of one direction, or what its guardrails
// deny. A key without a table is an empty slot: nothing is judged there.
type Table struct {
	TableKey
	Revision uint32
	// Open says that the direction is not isolated at this revision: everything
	// is allowed with reason no-policy, and there are no entries.
	Open bool
	// UsesCIDRs makes the kernel look the peer's address up in the prefixes
	// too. It must be set when an entry's peer is a CIDR identity.
	UsesCIDRs bool
	Entries   []Entry
	// Delete empties the slot; the other fields are ignored.
	Delete bool
}

// Entry matches one peer on the ports from First to Last. For ICMP and ICMPv6 a
// port is type<<8|code. Protocol 0 is every one, and has no ports.
type Entry struct {
	Peer        flow.Identity
	Protocol    flow.Protocol
	First, Last uint16
}

// Limits are the capacities that a compiler must stay within.
type Limits struct {
	Endpoints       int
	Addresses       int
	CIDRs           int
	Failsafe        int
	Services        int
	Workloads       int
	PolicyTables    int // of different content
	PolicyEntries   int // of all tables together, as Table.Size counts them
	Flows           int // of either of IPv4 and IPv6
	FlowsOfEndpoint int
	Fragments       int
}

// SweepStats counts what one sweep of the flow table did.
type SweepStats struct {
	Flows    uint64 // entries visited
	Reported uint64 // records written
	Ended    uint64 // flows that got their end record
	Deleted  uint64
	RingFull uint64 // records that found no room; they are tried again
}

// Levels say how full the kernel's tables are.
type Levels struct {
	FlowsIPv4 uint64 // as of the last sweep, as the next two
	FlowsIPv6 uint64
	Fragments uint64 // first ones that are remembered
	RingBytes uint64 // not yet committed by the reader
	RingSize  uint64
	Addresses int
	CIDRs     int
	Failsafe  int
	Services  int
	Workloads int // with an endpoint or a policy
	Tables    int // policy tables in force, equal ones counted once
	Entries   int // of those tables
	// RetiredEntries are of tables that are in force no longer and wait until
	// no program looks at them; they take up room still.
	RetiredEntries int
	Endpoints      int
}

// Batch is a run of ring-buffer records, [Start, End) in ring positions. Its
// Records are valid until the next call of Next or Replay.
type Batch struct {
	Start, End uint64
	Records    []flow.Record
	// Truncated counts records of a wrong length, which were skipped.
	Truncated int
	// Sum is that of the records' hashes, as the programs wrote them. It is the
	// same however a range is read: in one batch, or in several that are added up.
	Sum uint64
}
