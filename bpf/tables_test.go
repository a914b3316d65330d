package bpf

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

func (l *lab) tables() []Table {
	l.t.Helper()
	tables, err := l.d.Tables()
	if err != nil {
		l.t.Fatal(err)
	}
	return tables
}

// TestApply checks that what is applied is what can be read back, that tables
// not named stay, and that deleting empties the slot.
func TestApply(t *testing.T) {
	l := newLab(t)
	egress := live(flow.Egress, 3,
		Entry{Peer: dbIdent, Protocol: flow.TCP, First: 80, Last: 80},
		Entry{Peer: dbIdent, Protocol: flow.TCP, First: 8064, Last: 8127},
		Entry{Peer: cidrIdent, Protocol: flow.UDP, Last: 65535},
		Entry{Peer: PeerAny},
	)
	egress.UsesCIDRs = true
	open := staged(flow.Ingress, 4)
	open.Open = true
	before := time.Now()
	at, err := l.d.Apply([]Table{open, egress})
	if err != nil || at.Before(before) || at.After(time.Now()) {
		t.Fatalf("switched at %s, error %v", at, err)
	}
	if diff := cmp.Diff([]Table{egress, open}, l.tables()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	ingress := live(flow.Ingress, 5, allow(dbIdent, flow.TCP, 1))
	l.apply(ingress, Table{TableKey: open.TableKey, Delete: true}, Table{TableKey: staged(flow.Egress, 0).TableKey, Delete: true})
	if diff := cmp.Diff([]Table{ingress, egress}, l.tables()); diff != "" {
		t.Errorf("tables after the second change (-want +got):\n%s", diff)
	}
	levels, err := l.d.Levels()
	if err != nil || levels.Tables != 2 || levels.Addresses != len(everyone()) || levels.Endpoints != 1 {
		t.Errorf("levels %+v, error %v", levels, err)
	}
}

// TestApplyRefuses checks that what does not fit or make sense changes nothing.
func TestApplyRefuses(t *testing.T) {
	l := newLab(t)
	kept := live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))
	l.apply(kept)
	var many []Table
	for i := range flow.Identity(17) {
		many = append(many, Table{TableKey: TableKey{1000 + i, flow.SlotLive, flow.Egress}, Revision: 100 + uint32(i)})
	}
	var long []Entry
	for i := range uint16(65) {
		long = append(long, allow(dbIdent, flow.TCP, 64*i))
	}
	openWithEntries := live(flow.Ingress, 2, allow(dbIdent, flow.TCP, 80))
	openWithEntries.Open = true
	for _, c := range []struct {
		name   string
		tables []Table
		want   string
	}{
		{"too many tables", many, "18 new policy tables beside the 1 in force: the kernel holds 16"},
		{"too many entries", []Table{live(flow.Egress, 8, long...)}, "65 new policy entries beside the 1 in force: the kernel holds 64"},
		{"the same twice", []Table{live(flow.Ingress, 2), live(flow.Ingress, 3)}, "given twice"},
		{"no direction", []Table{live(flow.DirectionUnknown, 2)}, "no such slot"},
		{"no identity", []Table{{TableKey: TableKey{0, flow.SlotLive, flow.Egress}}}, "no such slot"},
		{"no slot", []Table{{TableKey: TableKey{webIdent, 3, flow.Egress}}}, "no such slot"},
		{"no ports", []Table{live(flow.Ingress, 2, Entry{Peer: dbIdent, Protocol: 6, First: 81, Last: 80})}, "ports from 81 to 80: none"},
		{"port of no protocol", []Table{live(flow.Ingress, 2, Entry{Peer: dbIdent, First: 80, Last: 80})}, "without a protocol"},
		{"no peer", []Table{live(flow.Ingress, 2, Entry{Protocol: 6})}, "peer 0"},
		{"guardrails that are open", []Table{{TableKey: guardrail(flow.Egress).TableKey, Open: true}}, "guardrails cannot be open"},
		{"open with entries", []Table{openWithEntries}, "open, and yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := l.d.Apply(append([]Table{staged(flow.Egress, 7)}, c.tables...)) // the first one is fine
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if diff := cmp.Diff([]Table{kept}, l.tables()); diff != "" {
				t.Errorf("tables (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSetAddresses checks differences, order and refusals.
func TestSetAddresses(t *testing.T) {
	l := newLab(t)
	list := everyone()
	set := func(owners []AddressOwner, want Changes) {
		t.Helper()
		if got, err := l.d.SetAddresses(owners); err != nil || got != want {
			t.Errorf("changes %+v, error %v; want %+v", got, err, want)
		}
	}
	epoch := l.d.settings.value.Epoch
	set(list, Changes{})
	if l.d.settings.value.Epoch != epoch {
		t.Error("the epoch moved without a change")
	}
	set(list[1:], Changes{Deleted: 1})
	list[1].Identity++
	set(list, Changes{Added: 1, Changed: 1})
	if l.d.settings.value.Epoch != epoch+2 {
		t.Error("the epoch did not move with the changes")
	}
	// 64 fit: 64 others take the place of these.
	var others []AddressOwner
	for i := range 64 {
		others = append(others, AddressOwner{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), dbIdent, dbID})
	}
	set(others, Changes{Added: 64, Deleted: len(list)})

	for name, owners := range map[string][]AddressOwner{
		"64 addresses":      append(others, list[0]),
		"given to endpoint": {{web.v4, webIdent, webID}, {web.v4, dbIdent, dbID}},
		"not a plain":       {{}},
	} {
		if changes, err := l.d.SetAddresses(owners); err == nil || changes.Any() ||
			!strings.Contains(err.Error(), strings.Replace(name, "64 addresses", "65 addresses: the kernel's table holds 64", 1)) {
			t.Errorf("%s: changes %+v, error %v", name, changes, err)
		}
	}
	have, err := readMap[kernelRfAddress, kernelRfOwner](l.d.maps.Addresses)
	if err != nil || len(have) != 64 {
		t.Errorf("%d addresses after the refusals, error %v", len(have), err)
	}
}

// TestSetServices likewise.
func TestSetServices(t *testing.T) {
	l := newLab(t)
	a := ServiceIdentity{flow.TCP, netip.MustParseAddrPort("10.96.0.10:80"), serviceIdent}
	b := ServiceIdentity{flow.UDP, netip.MustParseAddrPort("[fd00:96::10]:53"), serviceIdent + 1}
	if got, err := l.d.SetServices([]ServiceIdentity{a, b}); err != nil || got != (Changes{Added: 2}) {
		t.Errorf("changes %+v, error %v", got, err)
	}
	if levels, err := l.d.Levels(); err != nil || levels.Services != 2 {
		t.Errorf("levels %+v, error %v", levels, err)
	}
	a.Identity++
	if got, err := l.d.SetServices([]ServiceIdentity{a}); err != nil || got != (Changes{Changed: 1, Deleted: 1}) {
		t.Errorf("changes %+v, error %v", got, err)
	}
	for _, list := range [][]ServiceIdentity{
		{{}}, {{flow.TCP, a.Addr, 0}}, {{flow.ICMP, a.Addr, 1}}, {{flow.TCP, netip.AddrPortFrom(a.Addr.Addr(), 0), 1}},
		{a, {flow.TCP, a.Addr, serviceIdent}},
	} {
		if got, err := l.d.SetServices(list); err == nil || got.Any() {
			t.Errorf("%v: changes %+v, error %v", list, got, err)
		}
	}
}

// TestSetCIDRs likewise.
func TestSetCIDRs(t *testing.T) {
	l := newLab(t)
	a := CIDRIdentity{netip.MustParsePrefix("198.51.100.7/24"), cidrIdent}
	b := CIDRIdentity{netip.MustParsePrefix("2001:db8::/32"), cidrIdent}
	if got, err := l.d.SetCIDRs([]CIDRIdentity{a, b}); err != nil || got != (Changes{Added: 2}) {
		t.Errorf("changes %+v, error %v", got, err)
	}
	a.Prefix = a.Prefix.Masked()
	if got, err := l.d.SetCIDRs([]CIDRIdentity{a}); err != nil || got != (Changes{Deleted: 1}) {
		t.Errorf("changes %+v, error %v", got, err)
	}
	for _, list := range [][]CIDRIdentity{
		{{}}, {{a.Prefix, 0}}, {a, {a.Prefix, cidrIdent + 1}}, {{netip.MustParsePrefix("::ffff:1.2.3.0/120"), cidrIdent}},
	} {
		if got, err := l.d.SetCIDRs(list); err == nil || got.Any() {
			t.Errorf("%v: changes %+v, error %v", list, got, err)
		}
	}
	if _, err := l.d.SetFailsafe([]Failsafe{{Addr: netip.AddrPortFrom(db.v4, 1)}}); err == nil {
		t.Error("failsafe destination without a protocol: no error")
	}
}
