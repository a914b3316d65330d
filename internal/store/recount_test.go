package store

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// randomFlows are n rows over some months, of few enough edges that each has many.
func randomFlows(r *rand.Rand, n int) []flow.Labelled {
	workloads := []flow.Workload{frontend, cart, redis, {}}
	out := make([]flow.Labelled, n)
	for i := range out {
		at := time.Now().UTC().Truncate(time.Hour).Add(-time.Duration(r.IntN(90*24*3600)) * time.Second)
		f := connection(workloads[r.IntN(3)], workloads[r.IntN(4)], uint16(r.IntN(1<<16)), at)
		f.FirstSeen = at.Add(-time.Duration(r.IntN(7200)) * time.Second)
		f.Direction = flow.Direction(r.IntN(3))
		f.Connections, f.Answered, f.LiveNew, f.StagedNew = uint32(r.IntN(2)), r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(3) == 0
		f.DestinationPort = [...]uint16{80, 443}[r.IntN(2)]
		f.Source = &flow.Party{Workload: f.Source.Workload, Endpoint: fmt.Sprint("e", r.IntN(3))}
		if f.Dest.Workload.IsZero() {
			f.Dest, f.Destination = &flow.Party{Reserved: "world"}, addr([...]string{"192.0.2.1", "2001:db8::9"}[r.IntN(2)])
		}
		f.Live = flow.Judgement{Verdict: flow.Verdict(r.IntN(3)), Revision: uint32(r.IntN(2))}
		f.Staged = flow.Judgement{Verdict: flow.Verdict(r.IntN(3)), Revision: uint32(r.IntN(2))}
		f.Forward, f.Reverse = flow.Counters{Packets: r.Uint64N(9), Bytes: r.Uint64N(9000)}, flow.Counters{Packets: r.Uint64N(2), Bytes: r.Uint64N(9000)}
		out[i] = f
	}
	return out
}

// recount adds rows up as the tables should: times are cut to what a window of
// whole hours takes in.
func recount(rows []flow.Labelled, since, until time.Time) map[string]flow.Edge {
	type sets struct{ from, to, hours, days map[string]bool }
	out, seen := map[string]flow.Edge{}, map[string]sets{}
	for i := range rows {
		r := &rows[i]
		if r.Time.Before(since) || !r.Time.Before(until) {
			continue
		}
		k := fmt.Sprint(r.Direction, r.Observer.Workload, r.Source.Workload, r.Dest.Workload, r.DestinationPort)
		if !r.Dest.IsWorkload() {
			k += r.Destination.String()
		}
		e, known := out[k]
		if !known {
			e.FirstSeen, e.LastSeen = r.FirstSeen, r.Time
			seen[k] = sets{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
		}
		e.Connections += uint64(r.Connections)
		e.Forward.Packets, e.Forward.Bytes = e.Forward.Packets+r.Forward.Packets, e.Forward.Bytes+r.Forward.Bytes
		e.Reverse.Packets, e.Reverse.Bytes = e.Reverse.Packets+r.Reverse.Packets, e.Reverse.Bytes+r.Reverse.Bytes
		e.Answered += uint64(bit(r.Answered))
		if r.Live.Verdict == flow.VerdictDeny {
			e.DeniedLive += uint64(bit(r.LiveNew))
		}
		if r.Staged.Verdict == flow.VerdictDeny {
			e.DeniedStaged += uint64(bit(r.StagedNew))
		}
		if r.FirstSeen.Before(e.FirstSeen) {
			e.FirstSeen = r.FirstSeen
		}
		if r.Time.After(e.LastSeen) {
			e.LastSeen = r.Time
		}
		seen[k].from[r.Source.Endpoint], seen[k].to[r.Dest.Endpoint], seen[k].hours[r.Time.Truncate(time.Hour).String()] = true, true, true
		e.SourceEndpoints, e.DestinationEndpoints, e.Hours = uint64(len(seen[k].from)), uint64(len(seen[k].to)), uint64(len(seen[k].hours))
		seen[k].days[r.Time.Truncate(day).String()] = true
		e.Days = uint64(len(seen[k].days))
		e.WeekHours.Set(flow.HourOfWeek(r.Time))
		out[k] = e
	}
	return out
}

// Edges equal a recount of the flows, whatever the batches, repeated ones
// included, and for windows that hours, days and months answer together.
func TestEdgesEqualARecount(t *testing.T) {
	for seed := range uint64(1) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := empty(t)
			s.cfg.Retention = Retention{Flows: 365 * day, Hours: 365 * day, Days: 365 * day, Months: 400 * day, Coverage: 400 * day}
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(seed, 1))
			rows := randomFlows(r, 3000)
			mustInsert(t, s, "all", rows[:1000]...)
			for i := 1000; i < len(rows); i += 1000 {
				if err := s.insertFlows(t.Context(), "flows", token(i), rows[i:i+1000], 200+r.IntN(800)); err != nil {
					t.Fatal(err)
				}
				mustInsert(t, s, "all", rows[:1000]...)
			}
			now := time.Now().UTC().Truncate(time.Hour)
			windows := [][2]time.Time{{{}, {}}, {now.AddDate(0, 0, -3), {}}, {now.AddDate(0, 0, -70), now.AddDate(0, 0, -2)}}
			for range 4 {
				since := now.Add(-time.Duration(r.IntN(90*24)) * time.Hour)
				windows = append(windows, [2]time.Time{since, since.Add(time.Duration(1+r.IntN(80*24)) * time.Hour)})
			}
			for i, w := range windows {
				if i == len(windows)/2 {
					for _, table := range []string{"edges", "edge_days", "edge_months"} {
						mustExec(t, s, "OPTIMIZE TABLE "+table+" FINAL")
					}
				}
				until := w[1]
				if until.IsZero() {
					until = latest
				}
				want := recount(rows, w[0], until)
				edges, err := s.Edges(t.Context(), EdgeFilter{Since: w[0], Until: w[1], Times: true})
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]flow.Edge{}
				for _, e := range edges {
					k := fmt.Sprint(e.Direction, e.Observer, e.Source.Workload, e.Destination.Workload, e.Port)
					if !e.Destination.IsWorkload() {
						k += e.Destination.Address.String()
					}
					e.Direction, e.Observer, e.Source, e.Destination, e.Protocol, e.Port = 0, flow.Workload{}, flow.Party{}, flow.Party{}, 0, 0
					got[k] = e
				}
				for k, e := range want { // see edgeQuery
					e.Answered = max(e.Answered, min(1, e.Reverse.Packets))
					if g := got[k]; e.DeniedLive == 0 && g.DeniedLive == 1 {
						e.DeniedLive = 1
					}
					if g := got[k]; e.DeniedStaged == 0 && g.DeniedStaged == 1 {
						e.DeniedStaged = 1
					}
					want[k] = e
				}
				if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
					t.Errorf("window %s to %s (-recounted +read):\n%.3000s", w[0], w[1], diff)
				}
			}
		})
	}
}
