package flow

import "net/netip"

// Party is one end of a flow or of an edge: a workload, a reserved peer, or
// neither of them, which is an address that nobody is known to own.
type Party struct {
	// Workload is zero when the address is no workload's.
	Workload Workload `json:"workload,omitzero"`
	// Reserved is the name of a reserved identity ("host", "world",
	// "remote-node"), empty for a workload.
	Reserved string `json:"reserved,omitempty"`
	// Endpoint names one endpoint of the workload. Edges add endpoints up and
	// leave it empty.
	Endpoint string `json:"endpoint,omitempty"`
	// Address is set in edges and denials, and only when the party is no
	// workload. A labelled record has its addresses in its key.
	Address netip.Addr `json:"address,omitzero"`
}

// IsWorkload reports whether p is a workload.
func (p Party) IsWorkload() bool { return !p.Workload.IsZero() }

// String returns the workload, or the reserved name and the address.
func (p Party) String() string {
	switch {
	case p.IsWorkload():
		return p.Workload.String()
	case !p.Address.IsValid():
		return p.Reserved
	case p.Reserved == "":
		return p.Address.String()
	}
	return p.Reserved + "/" + p.Address.String()
}

// Labelled is a record with both of its ends attributed. Source is the
// initiator and hides the key's address of that name, which is Key.Source.
type Labelled struct {
	Record
	// Node is the node whose agent made the record.
	Node string
	// Observer and ObserverEndpoint are the endpoint the record was made at;
	// Record.Endpoint is its number.
	Observer         Workload
	ObserverEndpoint string
	Source           Party
	Dest             Party
}
