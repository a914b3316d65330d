package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// formerLayout is the programs of layoutPrefixes, as they were last compiled
// before layout 2.
func formerLayout() (*ebpf.CollectionSpec, error) {
	return ebpf.LoadCollectionSpec("testdata/former_bpfel.o")
}

// prefixRule is a rule of layoutPrefixes, as its maps hold it.
type prefixRule struct {
	Table, Peer uint32
	Protocol    flow.Protocol
	PortBits    uint8
	Port        uint16
}

func (r prefixRule) key() []byte {
	k := binary.NativeEndian.AppendUint32(nil, r.Table)
	k = binary.NativeEndian.AppendUint32(k, r.Peer)
	return binary.BigEndian.AppendUint16(append(k, byte(r.Protocol), r.PortBits), r.Port)
}

// former pins a generation of layoutPrefixes in which web's live egress is table
// 3, and its guardrails table 5.
func former(t *testing.T, cfg Config, rules ...prefixRule) {
	t.Helper()
	cfg = cfg.WithDefaults()
	d := &Datapath{cfg: cfg, netns: netNS(cfg.NetNS)}
	if err := d.lockPins(); err != nil {
		t.Fatal(err)
	}
	spec, err := formerLayout()
	if err != nil {
		t.Fatal(err)
	}
	size(spec, cfg)
	spec.Maps["flows"].MaxEntries = cfg.FlowEntries
	shape, err := schemaOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.renew(spec, shape); err != nil {
		t.Fatal(err)
	}
	g := d.gen
	*g.settings.word32("layout") = layoutPrefixes
	put := func(name string, key, value any) {
		t.Helper()
		if err := g.maps[name].Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range rules {
		put(kernelMapRules, r.key(), uint32(i))
	}
	put(kernelMapWorkloads, uint32(2), kernelRfWorkload{Identity: uint32(webIdent), Egress: 3 | 5<<(2*tableBits)})
	// Revision, lengths, flags, rules.
	put(kernelMapTables, uint32(3), [4]uint32{7, 1<<16 | 1<<10 | 1<<15 | 1, tableCIDRs | tableAnyPeer, 5})
	put(kernelMapTables, uint32(5), [4]uint32{0, 1 << 16, 0, 1})
	put(kernelMapQuotas, uint32(webID), kernelRfQuota{Flows: uint64(len(formerFlows()))})
	now, err := coarse()
	if err != nil {
		t.Fatal(err)
	}
	for k, f := range formerFlows() {
		f.FirstSeen, f.LastSeen, f.ReportedAt = now, now, now
		put("flows", k, f)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// formerFlows are in the one table that both families had.
func formerFlows() map[kernelRfFlowKey]kernelRfFlow {
	flows := make(map[kernelRfFlowKey]kernelRfFlow)
	for _, family := range []int{4, 6} {
		k := kernelRfFlowKey{
			Local: web.in(family).As16(), Remote: db.in(family).As16(), LocalPort: htons(40000), RemotePort: htons(80),
			Endpoint: webID, Protocol: uint64(flow.TCP),
		}
		flows[k] = kernelRfFlow{State: stateEstablished, Direction: uint8(flow.Egress), Isn: uint32(family)}
	}
	return flows
}

var prefixRules = []prefixRule{
	{3, uint32(dbIdent), flow.TCP, 16, 80},
	{3, uint32(dbIdent), flow.TCP, 15, 82},
	{3, uint32(dbIdent), flow.TCP, 10, 8064},
	{3, uint32(cidrIdent), flow.UDP, 0, 0},
	{3, uint32(PeerAny), flow.TCP, 16, 443},
	{5, uint32(dbIdent), flow.TCP, 16, 8100},
	{9, uint32(evilIdent), flow.TCP, 0, 0},  // that no word names
	{99, uint32(evilIdent), flow.TCP, 0, 0}, // nor could any
}

// TestUpgradeFromPrefixes upgrades from rules that are a port prefix each: the
// same packets pass as before, and the tables read back are the same.
func TestUpgradeFromPrefixes(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		cfg := labConfig()
		former(t, cfg, prefixRules...)
		l := &lab{t: t, d: openAt(t, cfg), ns: cfg.NetNS}
		carried := l.table()
		for k, f := range formerFlows() {
			if got := carried[k]; got.State != f.State || got.Direction != f.Direction || got.Isn != f.Isn {
				t.Errorf("flow %+v was carried as %+v", k, got)
			}
		}
		if len(carried) != len(formerFlows()) {
			t.Errorf("%d flows were carried, want %d", len(carried), len(formerFlows()))
		}
		want := []Table{live(flow.Egress, 7,
			Entry{dbIdent, flow.TCP, 80, 80}, Entry{dbIdent, flow.TCP, 82, 83}, Entry{dbIdent, flow.TCP, 8064, 8127},
			Entry{cidrIdent, flow.UDP, 0, 65535}, Entry{PeerAny, flow.TCP, 443, 443},
		), guardrail(flow.Egress, allow(dbIdent, flow.TCP, 8100))}
		want[0].UsesCIDRs = true
		if diff := cmp.Diff(want, l.tables()); diff != "" {
			t.Errorf("tables (-want +got):\n%s", diff)
		}
		_, err := l.d.SetAddresses(everyone())
		_, err2 := l.d.SetCIDRs(worldPrefix(family))
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
		l.openReader()
		w, sport := web.in(family), uint16(1000)
		send := func(code uint32, p packet) {
			t.Helper()
			sport++
			p.sport = sport
			l.want(code, p, "after the upgrade")
		}
		for _, port := range []uint16{80, 82, 83, 8064, 8127, 443} {
			send(pass, tcp(w, db.in(family), 0, port, "S"))
		}
		for _, port := range []uint16{79, 81, 84, 8063, 8128, 8100, 442} {
			send(drop, tcp(w, db.in(family), 0, port, "S"))
		}
		send(pass, tcp(w, evil.in(family), 0, 443, "S"))
		send(drop, tcp(w, evil.in(family), 0, 80, "S"))
		send(pass, udp(w, world.in(family), 0, 1))
		send(drop, udp(w, db.in(family), 0, 1))
		// What is the same is not written again, and what nobody names goes.
		before := l.ruleMap()
		l.apply(want...)
		l.reclaim()
		if n := len(l.ruleMap()); len(before) != 6 || n != 5 {
			t.Errorf("%d rules, then %d, want 6 and 5", len(before), n)
		}
	})
}

// TestUpgradeFromPrefixesRefused checks that what cannot be carried stays as it
// is.
func TestUpgradeFromPrefixesRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		rule   prefixRule
		want   string
	}{
		{"no room", func(c *Config) { c.PolicyEntries = 5 }, prefixRules[0], "carry map rules: it holds 6 entries and the new one has room for 5"},
		{"no such peer", func(*Config) {}, prefixRule{Table: 3, Protocol: flow.TCP}, "carry map rules: entry for peer 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			former(t, cfg, append(prefixRules[:len(prefixRules):len(prefixRules)], c.rule)...)
			smaller := cfg
			c.change(&smaller)
			if _, err := Open(smaller); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "stay as they are") {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			left, err := filepath.Glob(filepath.Join(cfg.PinDir, "*"))
			if err != nil || len(left) != 2 {
				t.Errorf("pins %v, error %v", left, err)
			}
			for _, g := range left {
				if filepath.Base(g) != linksName && filepath.Base(g) != numbered(dirMaps, 1) {
					t.Errorf("pin %s", g)
				}
			}
			if err := os.RemoveAll(cfg.PinDir); err != nil {
				t.Error(err)
			}
		})
	}
}
