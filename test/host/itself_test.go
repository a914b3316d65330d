package host

import (
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// TestUpGovernsTheHostItself enforces on the node's own network interface.
func TestUpGovernsTheHostItself(t *testing.T) {
	t.Parallel()
	s := newSite(t, "b")
	s.write(t, s.itself())
	const allowed, forbidden = 8080, 8081
	s.node.echo(t, allowed)
	s.node.echo(t, forbidden)
	s.far.echo(t, allowed)
	s.far.echo(t, forbidden)
	u := s.start(t)
	server := shop("server")
	check := func(when string, open bool) {
		t.Helper()
		reaches(t, when, s.far, s.nodeIs, allowed, true)
		reaches(t, when, s.far, s.nodeIs, forbidden, open)
		reaches(t, when, s.node, s.farIs, allowed, true)
		reaches(t, when, s.node, s.farIs, forbidden, open)
	}
	check("in observe", true)

	p := onlyFrom(server, "far", allowed)
	p.IsolateEgress = true
	p.Egress = []policy.Rule{{
		Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.PrefixFrom(s.farIs[0], 24).Masked()}},
			{CIDR: &policy.CIDR{Prefix: netip.PrefixFrom(s.farIs[1], 64).Masked()}}},
		Ports: []policy.Port{{Protocol: flow.TCP, Port: allowed}},
	}}
	u.create(t, p, 0)
	s.policy(t, []string{"stage", server.String(), "--revision", "1"}, "ingress audit, egress audit")
	check("in audit", true)
	u.enforce(t, server, "1")
	check("enforced", false)
	u.stop(t)
	check("after Ctrl-C", false)
	s.says(t, []string{"down", "--runtime-dir", s.runtimeDir})
	check("after down", true)

	// As after a reboot: nothing is in the kernel, and the state says enforce.
	s.start(t)
	check("enforced from the state", false)
}
