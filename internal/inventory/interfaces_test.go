package inventory

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestInterfaceRule(t *testing.T) {
	veth := Interface{Index: 7, Name: "veth12", Kind: "veth", Ethernet: true, Addresses: []netip.Addr{
		netip.MustParseAddr("10.1.0.254"), netip.MustParseAddr("fd00:1::fe"),
	}}
	for _, c := range []struct {
		rule string
		want bool
	}{
		{"{name: veth12}", true},
		{"{name: veth1}", false},
		{"{name: \"veth*\"}", true},
		{"{name: \"veth?\"}", false},
		{"{name: \"*[0-9]\"}", true},
		{"{kind: veth}", true},
		{"{kind: device}", false},
		{"{address: 10.0.0.0/8}", true},
		{"{address: \"fd00:1::/64\"}", true},
		{"{address: 10.2.0.0/16}", false},
		{"{address: \"::/0\"}", true},
		{"{name: \"veth*\", kind: veth, address: 10.0.0.0/8, host: true}", true},
		{"{name: \"eth*\", kind: veth, address: 10.0.0.0/8}", false},
		{"{name: \"veth*\", kind: device, address: 10.0.0.0/8}", false},
		{"{name: \"veth*\", kind: veth, address: 11.0.0.0/8}", false},
	} {
		inv, err := Parse([]byte(strings.Replace(good, "  - name: node-1\n", "  - name: node-1\n    interfaces: ["+c.rule+"]\n", 1)))
		if err != nil {
			t.Errorf("%s: %v", c.rule, err)
			continue
		}
		if got := inv.Nodes[0].Interfaces[0].Matches(&veth); got != c.want {
			t.Errorf("%s matches %v, want %v", c.rule, got, c.want)
		}
		var back Inventory
		if err := json.Unmarshal(inv.Canonical(), &back); err != nil || !reflect.DeepEqual(back.Nodes, inv.Sorted().Nodes) {
			t.Errorf("%s: sent as %+v, read as %+v, error %v", c.rule, inv.Nodes, back.Nodes, err)
		}
	}
}
