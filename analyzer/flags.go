package analyzer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// adminPorts are TCP ports whose owner owns the machine or its data.
var adminPorts = map[uint16]string{
	22:    "SSH",
	23:    "Telnet",
	135:   "Windows RPC",
	445:   "SMB",
	2375:  "the Docker API",
	2376:  "the Docker API",
	2379:  "etcd",
	2380:  "etcd",
	3389:  "remote desktop",
	5900:  "VNC",
	5901:  "VNC",
	5985:  "WinRM",
	5986:  "WinRM",
	10250: "the kubelet",
}

// flags says what speaks against accepting an edge without a look.
func (v *view) flags(ctx context.Context, w flow.Workload, s *sighting) ([]Flag, error) {
	var flags []Flag
	add := func(code, format string, args ...any) {
		flags = append(flags, Flag{Code: code, Reason: fmt.Sprintf(format, args...)})
	}
	e := s.edge
	v.timeFlags(s, add)
	if name, ok := adminPorts[e.Port]; ok && e.Protocol == flow.TCP {
		add(FlagAdminPort, "TCP %d is %s", e.Port, name)
	}
	if client := v.workloads[e.Source.Workload]; client != nil && e.SourceEndpoints == 1 && len(client.Endpoints) > 1 {
		add(FlagSingleReplica, "only 1 of the %d endpoints of %s did it", len(client.Endpoints), e.Source.Workload)
	}
	if e.DeniedLive+e.DeniedStaged > 0 {
		add(FlagDenied, "a policy that was reviewed denies it: %d by the live one, %d by the staged one", e.DeniedLive, e.DeniedStaged)
	}
	if s.direction == flow.Ingress && e.Source.Reserved == flow.IdentityRemoteNode.ReservedName() {
		add(FlagNode, "it came from another node, whose address all of its processes and its host-network pods share")
	}
	if node := v.lossy(w, s); node != "" {
		add(FlagLosses, "all of it was seen while %s lost records; its numbers are too small and others are missing", node)
	}
	if v.oneSided(w, s) {
		add(FlagOneSided, "only one end saw it although both are watched; its source may be forged")
	}
	for _, key := range v.cfg.EnvironmentLabels {
		if a, b := v.label(w, key), v.label(s.peer().Workload, key); a != "" && b != "" && a != b {
			add(FlagEnvironment, "it crosses from %s=%s to %s=%s", key, v.label(e.Source.Workload, key), key, v.label(e.Destination.Workload, key))
		}
	}
	if seen := s.crowd(); seen > 0 {
		add(FlagBroad, "%d of its addresses were seen, too many of them and of others to name each", seen)
	}
	targets, err := v.fanOut(ctx, w, s)
	if err != nil {
		return nil, err
	}
	if targets > 0 {
		add(FlagScan, "its source tried %d services within %s and kept to none of them", targets, span(v.cfg.ScanInterval))
	}
	return flags, nil
}

// timeFlags looks at how often and when an edge was seen.
func (v *view) timeFlags(s *sighting, add func(code, format string, args ...any)) {
	e := s.edge
	observed := v.observed(s)
	lasted := e.LastSeen.Sub(e.FirstSeen)
	switch n := count(e); {
	case n == 1:
		add(FlagSeenOnce, "seen once in the whole window")
	case lasted < v.cfg.Burst && observed >= 4*v.cfg.Burst:
		add(FlagBurst, "all %d connections came within %s", n, span(lasted))
	}
	if observed >= v.cfg.RareAfter && e.Hours <= 1 {
		add(FlagRare, "seen in 1 of %d hours", int(observed/time.Hour))
	}
	share, code := v.cfg.LateShare, FlagLate
	if p := s.peer(); !p.IsWorkload() && (p.Reserved == "" || p.Reserved == flow.IdentityWorld.ReservedName()) {
		share, code = v.cfg.ExternalLateShare, FlagExternalFirstSeen
	}
	if before := observed - v.window.Until.Sub(e.FirstSeen); before > time.Duration(share*float64(observed)) {
		add(code, "first seen after %d%% of the observed %s", int(100*before/observed), span(observed))
	}
}

// observed is how much of the window the workload that s belongs to was watched,
// from its nodes' first heartbeat on.
func (v *view) observed(s *sighting) time.Duration {
	w := end(s.edge, s.direction).Workload
	from := time.Time{}
	for _, node := range v.watchedNodes(w) {
		if c, ok := v.coverage[node]; ok && (from.IsZero() || c.First.Before(from)) {
			from = c.First
		}
	}
	if from.Before(v.window.Since) {
		from = v.window.Since
	}
	return max(v.window.Until.Sub(from), 0)
}

// lossy returns the node of w that lost records during all of the time that the
// workload's own agents saw s in; "" when they saw it at other times too. A
// source that does not say when records were lost lost them all the time.
func (v *view) lossy(w flow.Workload, s *sighting) string {
	if !s.here {
		return ""
	}
	e := s.sides[sideHere]
	for _, node := range v.watchedNodes(w) {
		c := v.coverage[node]
		if c.Lost+c.Dropped == 0 {
			continue
		}
		if len(c.Losses) == 0 {
			return node
		}
		at := e.FirstSeen
		for _, l := range c.Losses { // by their start
			if !l.Start.After(at) && l.End.After(at) {
				at = l.End
			}
		}
		if at.After(e.LastSeen) {
			return node
		}
	}
	return ""
}

func (v *view) label(w flow.Workload, key string) string {
	if known := v.workloads[w]; known != nil {
		return known.Labels[key]
	}
	return ""
}

// oneSided reports whether an edge between two workloads lacks the record that
// the other end's agent must have made.
func (v *view) oneSided(w flow.Workload, s *sighting) bool {
	peer := s.peer().Workload
	if s.here && s.atPeer || s.midstream || v.workloads[peer] == nil || v.window.Until.Sub(s.edge.FirstSeen) <= v.cfg.Settle {
		return false
	}
	for _, of := range []flow.Workload{w, peer} {
		for _, e := range v.workloads[of].Endpoints {
			c, ok := v.coverage[e.Node]
			if e.Interface == "" || !ok || c.GapCount > 0 || attachGaps(c, e.Name) > 0 || c.Lost+c.Dropped > 0 || c.First.After(s.edge.FirstSeen) || c.Last.Before(s.edge.LastSeen) {
				return false
			}
		}
	}
	return true
}

// fanOut returns how many services the source of s probed together with this
// one; 0 when that does not look like a scan.
func (v *view) fanOut(ctx context.Context, w flow.Workload, s *sighting) (int, error) {
	if !v.weak(s.edge) {
		return 0, nil
	}
	of := s.edge.Source.Workload
	if of.IsZero() {
		of = w
	}
	probes, err := v.probes.of(of, func() (map[flow.Party][]time.Time, error) { return v.probesIn(ctx, of) })
	return mostAround(probes[s.edge.Source], s.edge.FirstSeen, v.cfg.ScanInterval, v.cfg.ScanTargets), err
}

// probesIn returns when sources began with each service that they probed, in the
// edges of w, those that are other workloads left out.
func (v *view) probesIn(ctx context.Context, w flow.Workload) (map[flow.Party][]time.Time, error) {
	edges, err := v.edgesOf(ctx, w)
	began := map[flow.Party]map[service]time.Time{}
	for _, e := range edges {
		if e.Source.IsWorkload() && e.Source.Workload != w || e.Direction == flow.DirectionUnknown || !v.weak(e) {
			continue
		}
		of := began[e.Source]
		if of == nil {
			of = map[service]time.Time{}
			began[e.Source] = of
		}
		k := service{e.Destination, e.Protocol, e.Port}
		if t, ok := of[k]; !ok || e.FirstSeen.Before(t) {
			of[k] = e.FirstSeen
		}
	}
	out := make(map[flow.Party][]time.Time, len(began))
	for source, of := range began {
		out[source] = slices.SortedFunc(maps.Values(of), time.Time.Compare)
	}
	return out, err
}

// mostAround returns the largest number of times in an interval that holds at,
// or 0 when it is below least.
func mostAround(times []time.Time, at time.Time, interval time.Duration, least int) int {
	most := 0
	for i, from := range times {
		if from.After(at) || at.Sub(from) > interval {
			continue
		}
		n := 0
		for _, t := range times[i:] {
			if t.Sub(from) <= interval {
				n++
			}
		}
		most = max(most, n)
	}
	if most < least {
		return 0
	}
	return most
}

// weak reports whether an edge looks like a probe: it was not answered, or it
// came and went in a moment.
func (v *view) weak(e *flow.Edge) bool {
	return !answered(e) || count(e) <= 4 && e.LastSeen.Sub(e.FirstSeen) < v.cfg.Burst
}
