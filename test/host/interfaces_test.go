package host

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestUpWaitsForInterfaces starts with an endpoint whose interface does not exist
// yet, and an interface that is nobody's until it becomes that one.
func TestUpWaitsForInterfaces(t *testing.T) {
	t.Parallel()
	s := newSite(t, "i")
	s.write(t, strings.NewReplacer("interface: evil0", "interface: late0",
		"workloads:", "    interfaces: [{name: \"evil*\", kind: veth}]\nworkloads:").Replace(s.behind()))
	s.db.echo(t, dbPort)
	u := s.start(t)
	if want := `endpoint evil-1 of shop/Host/evil waits: interface "late0" does not exist on this host yet` + "\n"; !strings.Contains(u.logs.String(), want) {
		t.Errorf("up does not say %q", want)
	}
	gauges := func(waiting, pending int) {
		t.Helper()
		eventually(t, "gauges", func() error {
			_, text := u.metrics(t, u.token(t))
			for _, want := range []string{
				fmt.Sprintf("\nringfence_endpoints_waiting{node=\"node-1\"} %d\n", waiting),
				fmt.Sprintf("\nringfence_endpoints_pending{node=\"node-1\"} %d\n", pending),
			} {
				if !strings.Contains(text, want) {
					return fmt.Errorf("no line %q", want)
				}
			}
			return nil
		})
	}
	gauges(1, 1)
	// attributed says to whom the flows from evil's addresses are attributed.
	attributed := func() (to map[string]int) {
		flows, err := s.flows(t)
		if err != nil {
			t.Fatal(err)
		}
		to = map[string]int{}
		for _, f := range flows {
			for _, a := range s.evilIs {
				if f.SourceAddress == a.String() && f.Direction == "egress" && f.Protocol == "TCP" {
					name := ""
					if f.Source.Workload != nil {
						name = f.Source.Workload.Name
					}
					to[name]++
				}
			}
		}
		return to
	}
	reaches(t, "pending", s.evil, s.dbIs, dbPort, true)
	eventually(t, "flows of nobody", func() error {
		if to := attributed(); to[""] < 2 || len(to) > 1 {
			return fmt.Errorf("attributed to %v", to)
		}
		return nil
	})

	s.node.must(t, func() error {
		l, err := netlink.LinkByName("evil0")
		if err != nil {
			return err
		}
		return netlink.LinkSetName(l, "late0")
	})
	gauges(0, 0)
	reaches(t, "taken over", s.evil, s.dbIs, dbPort, true)
	eventually(t, "flows of evil", func() error {
		if to := attributed(); to["evil"] < 2 {
			return fmt.Errorf("attributed to %v", to)
		}
		return nil
	})
}
