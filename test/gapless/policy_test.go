package gapless

import (
	"testing"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// Ports of the server.
const (
	open      = 80   // allowed
	shut      = 81   // forbidden by the client's egress
	shutThere = 82   // allowed by the client's egress, forbidden by the server's ingress
	flipping  = 90   // allowed by every other revision
	service   = 8080 // where real programs talk
	decoy     = 1000 // what tells revisions apart
)

const (
	clientIdentity flow.Identity = 301
	serverIdentity flow.Identity = 302
)

func allow(peer flow.Identity, p flow.Protocol, port uint16) bpf.Entry {
	return bpf.Entry{Peer: peer, Protocol: p, First: port, Last: port}
}

// revision makes the n-th policy. All allow and forbid the same, but for the
// flipping port and for what nobody sends.
func revision(n uint64) []bpf.Table {
	egress := []bpf.Entry{
		allow(serverIdentity, flow.UDP, open), allow(serverIdentity, flow.TCP, open),
		allow(serverIdentity, flow.UDP, shutThere), allow(serverIdentity, flow.TCP, service),
	}
	ingress := []bpf.Entry{
		allow(clientIdentity, flow.UDP, open), allow(clientIdentity, flow.TCP, open),
		allow(clientIdentity, flow.UDP, flipping), allow(clientIdentity, flow.TCP, service),
	}
	var other []bpf.Entry
	if n%2 == 0 {
		egress = append(egress, allow(serverIdentity, flow.UDP, flipping))
	} else {
		ingress = append(ingress, allow(clientIdentity, flow.UDP, decoy))
		other = append(other, allow(serverIdentity, flow.UDP, decoy))
	}
	table := func(identity flow.Identity, slot flow.Slot, d flow.Direction, entries []bpf.Entry) bpf.Table {
		return bpf.Table{
			TableKey: bpf.TableKey{Identity: identity, Slot: slot, Direction: d},
			Revision: uint32(n + 1), Entries: entries,
		}
	}
	return []bpf.Table{
		table(clientIdentity, flow.SlotLive, flow.Egress, egress),
		table(clientIdentity, flow.SlotLive, flow.Ingress, other),
		table(clientIdentity, flow.SlotStaged, flow.Egress, other),
		table(serverIdentity, flow.SlotLive, flow.Ingress, ingress),
		table(serverIdentity, flow.SlotLive, flow.Egress, nil),
	}
}

// apply puts the tables of a revision in force in one slot.
func apply(t testing.TB, d *bpf.Datapath, slot flow.Slot, tables []bpf.Table) {
	t.Helper()
	var list []bpf.Table
	for _, table := range tables {
		if table.Slot == flow.SlotLive {
			table.Slot = slot
			list = append(list, table)
		}
	}
	_, err := d.Apply(list)
	must(t, err)
}
