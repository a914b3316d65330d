package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestCoverage(t *testing.T) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	beat := func(from, to int) flow.Coverage {
		return flow.Coverage{Node: "node-1", Start: at(from), End: at(to), Records: 10, Lost: 1, Delayed: 2, Endpoints: 4}
	}
	tests := []struct {
		name         string
		beats        []flow.Coverage
		since, until time.Time
		want         *flow.NodeCoverage // nil: none
	}{
		{name: "one", beats: []flow.Coverage{beat(0, 5)}, want: &flow.NodeCoverage{
			Covered: 5 * time.Second, First: at(0), Last: at(5), Records: 10, Lost: 1, Delayed: 2, Endpoints: 4,
		}},
		{name: "one after the other", beats: []flow.Coverage{beat(0, 5), beat(5, 10), beat(10, 15)}, want: &flow.NodeCoverage{
			Covered: 15 * time.Second, First: at(0), Last: at(15), Records: 30, Lost: 3, Delayed: 6, Endpoints: 4,
		}},
		{name: "overlapping", beats: []flow.Coverage{beat(0, 10), beat(2, 4), beat(8, 12)}, want: &flow.NodeCoverage{
			Covered: 12 * time.Second, First: at(0), Last: at(12), Records: 30, Lost: 3, Delayed: 6, Endpoints: 4,
		}},
		{name: "gaps", beats: []flow.Coverage{beat(0, 5), beat(7, 10), beat(20, 25)}, want: &flow.NodeCoverage{
			Covered: 13 * time.Second, First: at(0), Last: at(25), Records: 30, Lost: 3, Delayed: 6, Endpoints: 4,
			Gaps: []flow.Gap{{Start: at(5), End: at(7)}, {Start: at(10), End: at(20)}}, GapCount: 2,
		}},
		{
			name: "less than a tenth of a second is no gap",
			beats: []flow.Coverage{beat(0, 5), {
				Node: "node-1", Start: at(5).Add(90 * time.Millisecond), End: at(10), Endpoints: 5, Started: true,
			}},
			want: &flow.NodeCoverage{
				Covered: 9910 * time.Millisecond, First: at(0), Last: at(10), Records: 10, Lost: 1, Delayed: 2, Starts: 1, Endpoints: 5,
			},
		},
		{name: "partly in the window", beats: []flow.Coverage{beat(0, 10), beat(10, 20)}, since: at(5), until: at(12), want: &flow.NodeCoverage{
			Covered: 7 * time.Second, First: at(5), Last: at(12), Records: 20, Lost: 2, Delayed: 4, Endpoints: 4,
		}},
		{
			name: "what covers nothing",
			beats: []flow.Coverage{
				{Node: "node-1", Start: at(0), End: at(5), Spooled: 7, Skew: -3 * time.Second, Endpoints: 4},
				{Node: "node-1", Kind: flow.CoverageAttach, Start: at(1), End: at(9), Endpoint: "cart-1", Endpoints: 99},
				{Node: "node-1", Kind: flow.CoverageAttach, Start: at(0), End: at(1), Endpoint: "cart-2"},
				{Node: "node-1", Kind: flow.CoverageDropped, Start: at(-9), End: at(2), Dropped: 12},
			},
			want: &flow.NodeCoverage{
				Covered: 5 * time.Second, First: at(0), Last: at(5), Dropped: 12, Endpoints: 4, MaxSkew: 3 * time.Second,
				AttachGaps: []flow.EndpointGap{
					{Endpoint: "cart-2", Gap: flow.Gap{Start: at(0), End: at(1)}},
					{Endpoint: "cart-1", Gap: flow.Gap{Start: at(1), End: at(9)}},
				},
			},
		},
		{
			name: "nothing but a loss", beats: []flow.Coverage{{Node: "node-1", Kind: flow.CoverageDropped, Start: at(1), End: at(9), Dropped: 3}},
			want: &flow.NodeCoverage{Dropped: 3},
		},
		{name: "before the window", beats: []flow.Coverage{beat(0, 10)}, since: at(11), until: at(20)},
		{name: "after the window", beats: []flow.Coverage{beat(20, 30)}, since: at(11), until: at(20)},
		{name: "sent twice", beats: []flow.Coverage{beat(0, 5)}, want: &flow.NodeCoverage{
			Covered: 5 * time.Second, First: at(0), Last: at(5), Records: 10, Lost: 1, Delayed: 2, Endpoints: 4,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := migrated(t)
			for range 2 { // a heartbeat may be sent again
				if err := s.InsertCoverage(t.Context(), tt.beats); err != nil {
					t.Fatal(err)
				}
			}
			got, err := s.Coverage(t.Context(), tt.since, tt.until)
			if err != nil {
				t.Fatal(err)
			}
			var want []flow.NodeCoverage
			if tt.want != nil {
				tt.want.Node = "node-1"
				for _, b := range tt.beats {
					if b.Lost+b.Dropped > 0 {
						tt.want.Losses = append(tt.want.Losses, clipped(b, tt.since, tt.until))
					}
				}
				want = append(want, *tt.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// clipped is the part of b's time that lies in the window.
func clipped(b flow.Coverage, since, until time.Time) flow.Gap {
	if b.Start.Before(since) {
		b.Start = since
	}
	if !until.IsZero() && b.End.After(until) {
		b.End = until
	}
	return flow.Gap{Start: b.Start, End: b.End}
}

func TestCoverageByNode(t *testing.T) {
	s := migrated(t)
	rows := []flow.Coverage{
		{Node: "node-1", Start: noon, End: noon.Add(5 * time.Second), Started: true},
		{Node: "node-2", Start: noon.Add(time.Second), End: noon.Add(2 * time.Second)},
	}
	if err := s.InsertCoverage(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertCoverage(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.Coverage(t.Context(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := []flow.NodeCoverage{
		{Node: "node-1", Covered: 5 * time.Second, First: noon, Last: noon.Add(5 * time.Second), Starts: 1},
		{Node: "node-2", Covered: time.Second, First: noon.Add(time.Second), Last: noon.Add(2 * time.Second)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCoverageListsTheNewestGaps(t *testing.T) {
	s := migrated(t)
	const beats = maxGaps + 11
	rows := make([]flow.Coverage, beats)
	for i := range rows {
		start := noon.Add(time.Duration(2*i) * time.Second)
		rows[i] = flow.Coverage{Node: "node-1", Start: start, End: start.Add(time.Second)}
	}
	if err := s.InsertCoverage(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	got, err := s.Coverage(t.Context(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].GapCount != beats-1 || len(got[0].Gaps) != maxGaps {
		t.Fatalf("%d gaps listed and %d counted, want %d and %d", len(got[0].Gaps), got[0].GapCount, maxGaps, beats-1)
	}
	if last := got[0].Gaps[maxGaps-1].End; !last.Equal(rows[beats-1].Start) {
		t.Errorf("the last gap ends at %s, want %s", last, rows[beats-1].Start)
	}
}
