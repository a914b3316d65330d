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
	// Identity is the number of the workload's label set or of the reserved
	// peer, as it was when the record was made. Edges leave it zero.
	Identity Identity `json:"identity,omitempty"`
	// Labels are the workload's as JoinLabels writes them. Edges leave them empty.
	Labels string `json:"labels,omitempty"`
	// Address is set in edges and denials, and only when the party is no
	// workload. A labelled record has its addresses in its key.
	Address netip.Addr `json:"address,omitzero"`
	// Prefix is set in place of Address where an edge adds up the addresses of a
	// crowd. How many there were is in the edge, as its endpoints.
	Prefix netip.Prefix `json:"prefix,omitzero"`
}

// IsWorkload reports whether p is a workload.
func (p Party) IsWorkload() bool { return !p.Workload.IsZero() }

// Where returns the address, or the prefix, or "".
func (p Party) Where() string {
	switch {
	case p.Prefix.IsValid():
		return p.Prefix.String()
	case p.Address.IsValid():
		return p.Address.String()
	}
	return ""
}

// String returns the workload, or the reserved name and the address.
func (p Party) String() string {
	switch where := p.Where(); {
	case p.IsWorkload():
		return p.Workload.String()
	case where == "":
		return p.Reserved
	case p.Reserved == "":
		return where
	default:
		return p.Reserved + "/" + where
	}
}

// Nobody is the party of an address that nobody is known to own.
var Nobody = &Party{}

// Labelled is a record with both of its ends attributed. Many records share a
// party, so a party is never changed; none of the three is nil, and what is
// nobody's is Nobody.
type Labelled struct {
	Record
	// Node is the node whose agent made the record.
	Node string
	// Observer is the endpoint the record was made at; Record.Endpoint is its
	// number.
	Observer *Party
	// Source is the initiator and hides the key's address of that name, which
	// is Key.Source.
	Source *Party
	Dest   *Party
}
