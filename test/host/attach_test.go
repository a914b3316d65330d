package host

import (
	"os/exec"
	"strings"
	"testing"
)

// TestUpByClsact enforces by clsact, goes over to TCX and back, and leaves no
// filter behind.
func TestUpByClsact(t *testing.T) {
	t.Parallel()
	s := newSite(t, "k")
	s.write(t, s.itself())
	const allowed, forbidden = 8080, 8081
	s.node.echo(t, allowed)
	s.node.echo(t, forbidden)
	u := s.start(t, "--attach", "clsact")
	check := func(when string, open bool) {
		t.Helper()
		reaches(t, when, s.far, s.nodeIs, allowed, true)
		reaches(t, when, s.far, s.nodeIs, forbidden, open)
	}
	filters := func() (n int) {
		t.Helper()
		for _, hook := range []string{"ingress", "egress"} {
			var out []byte
			s.node.must(t, func() (err error) {
				out, err = exec.CommandContext(t.Context(), "tc", "filter", "show", "dev", "far0", hook).CombinedOutput()
				return err
			})
			n += strings.Count(string(out), "ringfence")
		}
		return n
	}
	check("in observe", true)
	server := shop("server")
	u.create(t, onlyFrom(server, "far", allowed), 0)
	s.policy(t, []string{"stage", server.String(), "--revision", "1"}, "ingress audit")
	check("in audit", true)
	u.enforce(t, server, "1")
	check("enforced", false)
	for _, step := range []struct {
		attach string
		want   int
	}{{"tcx", 0}, {"clsact", 2}, {"auto", 0}, {"clsact", 2}} {
		u.stop(t)
		check("stopped before "+step.attach, false)
		u = s.start(t, "--attach", step.attach)
		check(step.attach, false)
		if n := filters(); n != step.want {
			t.Errorf("with %s: %d filters, want %d", step.attach, n, step.want)
		}
	}
	u.stop(t)
	s.says(t, []string{"down", "--runtime-dir", s.runtimeDir})
	check("after down", true)
	if n := filters(); n != 0 {
		t.Errorf("%d filters are left", n)
	}
}
