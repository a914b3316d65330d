package bpf

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// cover notes what a frame was.
func (w *twin) cover(s shot, code uint32) {
	tunnels := Tunnels(0)
	if s.point >= 0 {
		tunnels = w.points[s.point].tunnels
	}
	p, parsed := refFrame(s.frame, s.gsoSize > 0, tunnels)
	w.coverage["frames"]++
	w.coverage["origin "+s.origin]++
	if parsed != refWhole {
		return
	}
	w.coverage["whole frames"]++
	w.coverage[className(p.v6, p.protocol, code)]++
	note := func(is bool, what string) {
		if is {
			w.coverage[what]++
		}
	}
	note(p.first, "first fragments")
	note(p.later, "later fragments")
	if tunnels != 0 {
		outer, _ := refFrame(s.frame, s.gsoSize > 0, 0)
		note(outer.src != p.src || outer.protocol != p.protocol, fmt.Sprintf("inside protocol %d", outer.protocol))
	}
	note(p.report, "ICMP errors")
	note(s.gsoSegs > 1, "segments of several")
}

// className names a protocol, its family and what became of the packet.
func className(v6 bool, protocol uint8, code uint32) string {
	name := "other"
	switch protocol {
	case 1, 6, 17, 58, 132:
		name = flow.Protocol(protocol).String()
	}
	if v6 {
		return "IPv6 " + name + " " + verdictName(code)
	}
	return "IPv4 " + name + " " + verdictName(code)
}

// mustCover lists every class that a run has to have met.
func mustCover() []string {
	list := []string{
		"inside protocol 17", "inside protocol 47", "inside protocol 4", "inside protocol 41",
		"first fragments", "later fragments", "ICMP errors", "segments of several", "swept away", "sweeps, ring full", "flows of the gone",
	}
	for i := range kernelRfCounterRF_COUNT_LIVE_DENY {
		if name := counterName(i); name != unmodelled {
			list = append(list, "counter "+name)
		}
	}
	for _, r := range []flow.Reason{flow.ReasonDefault, flow.ReasonSpoofed, flow.ReasonMidstream, flow.ReasonMalformed, flow.ReasonGuardrail, flow.ReasonPending} {
		list = append(list, "counter "+LiveDeny(r), "counter "+StagedDeny(r))
	}
	for r := flow.ReasonNoPolicy; r <= flow.ReasonPending; r++ {
		if r != flow.ReasonRelated && r != flow.ReasonMalformed {
			list = append(list, "live reason "+r.String(), "staged reason "+r.String())
		}
	}
	for _, verdict := range []string{verdictName(pass), verdictName(drop)} {
		for _, name := range []string{"TCP", "UDP", "SCTP", "other"} {
			list = append(list, "IPv4 "+name+" "+verdict, "IPv6 "+name+" "+verdict)
		}
		list = append(list, "IPv4 ICMP "+verdict, "IPv6 ICMPv6 "+verdict)
	}
	for e := flow.EventNew; e <= flow.EventSweep; e++ {
		list = append(list, "event "+e.String())
	}
	for d := flow.DirectionUnknown; d <= flow.Egress; d++ {
		list = append(list, "direction "+d.String())
	}
	for state := stateSYN; state <= stateMidstream; state++ {
		list = append(list, fmt.Sprintf("state %d", state))
	}
	for _, origin := range []string{"talk", "report", "service", "tunnel", "strange", "capture", "flood"} {
		list = append(list, "origin "+origin)
	}
	return list
}

// checkCoverage prints what was met. With enough sessions it fails for what was
// not, or if too much was rubbish to reach the deep paths.
func checkCoverage(t *testing.T, total map[string]int, enough bool) {
	t.Helper()
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(total)) {
		fmt.Fprintf(&b, "%10d  %s\n", total[what], what)
	}
	t.Logf("coverage:\n%s", b.String())
	if !enough {
		return
	}
	for _, what := range mustCover() {
		if total[what] == 0 {
			t.Errorf("no frame reached: %s", what)
		}
	}
	if whole := total["whole frames"]; whole*2 < total["frames"] {
		t.Errorf("only %d of %d frames are whole", whole, total["frames"])
	}
}
