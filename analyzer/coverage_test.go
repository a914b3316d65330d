package analyzer_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
)

func TestReady(t *testing.T) {
	whole := func(node string) flow.NodeCoverage {
		return flow.NodeCoverage{Node: node, First: epoch, Last: epoch.Add(time.Hour), Covered: time.Hour}
	}
	with := func(change func(*flow.NodeCoverage)) []flow.NodeCoverage {
		c := whole("node-2")
		change(&c)
		return []flow.NodeCoverage{whole("node-1"), c, {Node: "node-9", Lost: 5}}
	}
	tests := []struct {
		name    string
		cover   []flow.NodeCoverage
		blind   bool
		missing []string
		words   string
	}{
		{"all there", with(func(*flow.NodeCoverage) {}), false, []string{}, "Watched for 1h0m0s of the last 1h0m0s on node-1, node-2, without a gap; no record was lost."},
		{
			"a young node", with(func(c *flow.NodeCoverage) { c.First, c.Covered = epoch.Add(55*time.Minute), 5*time.Minute }), false,
			[]string{"node-2 watched for 5m0s; want at least 10m0s"}, "Watched for 5m0s of the last 1h0m0s on node-1, node-2, without a gap; no record was lost.",
		},
		{
			"a window older than the agents", []flow.NodeCoverage{
				{Node: "node-1", First: epoch.Add(40 * time.Minute), Last: epoch.Add(time.Hour), Covered: 20 * time.Minute},
				{Node: "node-2", First: epoch.Add(30 * time.Minute), Last: epoch.Add(time.Hour), Covered: 30 * time.Minute},
			}, false,
			[]string{}, "Watched for 20m0s of the last 30m0s on node-1, node-2, without a gap; no record was lost.",
		},
		{
			"a lost record", with(func(c *flow.NodeCoverage) { c.Lost = 1 }), false,
			[]string{"node-2 lost 1 record; choose a window that starts after"}, "Watched for 1h0m0s of the last 1h0m0s on node-1, node-2, without a gap; 1 record lost.",
		},
		{
			"records a full spool gave up", with(func(c *flow.NodeCoverage) { c.Lost, c.Dropped = 1, 2 }), false,
			[]string{"node-2 lost 3 records; choose a window that starts after"}, "Watched for 1h0m0s of the last 1h0m0s on node-1, node-2, without a gap; 3 records lost.",
		},
		{
			"nothing but records given up", with(func(c *flow.NodeCoverage) { *c = flow.NodeCoverage{Node: "node-2", Dropped: 2} }), false,
			[]string{"node-2 covered nothing of the window"}, "Watched for 0s of the last 1h0m0s on node-1, node-2, without a gap; 2 records lost.",
		},
		{
			"an endpoint without a program for a time", with(func(c *flow.NodeCoverage) {
				c.AttachGaps = []flow.EndpointGap{{Endpoint: "cart-2"}, {Endpoint: "other-1"}}
			}), false,
			[]string{"endpoint cart-2 on node-2 was not watched 1 time; choose a window that starts after"}, "Watched for 1h0m0s of the last 1h0m0s on node-1, node-2, without a gap; no record was lost.",
		},
		{
			"long gaps", with(func(c *flow.NodeCoverage) { c.Covered, c.GapCount = 50*time.Minute, 2 }), false,
			[]string{"node-2 watched for 50m0s of 1h0m0s; want 95%"}, "Watched for 50m0s of the last 1h0m0s on node-1, node-2, with 2 gaps; no record was lost.",
		},
		{
			"a short gap", with(func(c *flow.NodeCoverage) { c.Covered, c.GapCount = 58*time.Minute, 1 }), false,
			[]string{}, "Watched for 58m0s of the last 1h0m0s on node-1, node-2, with 1 gap; no record was lost.",
		},
		{
			"a dead agent", with(func(c *flow.NodeCoverage) { c.Last, c.Covered = epoch.Add(59*time.Minute), 59*time.Minute }), false,
			[]string{"node-2 has said nothing for 1m0s; is its agent running?"}, "Watched for 59m0s of the last 1h0m0s on node-1, node-2, without a gap; no record was lost.",
		},
		{
			"no agent", []flow.NodeCoverage{whole("node-1")}, false,
			[]string{"node-2 covered nothing of the window"}, "Watched for 0s of the last 1h0m0s on node-1, node-2, without a gap; no record was lost.",
		},
		{
			"an endpoint that nothing watches", with(func(*flow.NodeCoverage) {}), true,
			[]string{"endpoint cart-2 on node-2 has no agent: give it an interface in the inventory"}, "Watched for 1h0m0s of the last 1h0m0s on node-1, without a gap; no record was lost.",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 1h", "workload shop/cart app=cart cart-1@node-1 cart-2@node-2", "workload shop/front app=front front-1@node-1",
				"flow shop/front > shop/cart TCP 80",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			w.cover = tc.cover
			if tc.blind {
				w.inv.Workloads[0].Endpoints[1].Interface = ""
			}
			a := w.analyzer(analyzer.Config{MinCovered: 10 * time.Minute})
			r, err := a.Recommend(context.Background(), ref("shop/cart"), w.window())
			if err != nil {
				t.Fatal(err)
			}
			c := r.Coverage
			if diff := cmp.Diff(tc.missing, c.Missing); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
			if c.Ready != (len(tc.missing) == 0) || c.Words != tc.words {
				t.Errorf("ready %v, %q; want %q", c.Ready, c.Words, tc.words)
			}
		})
	}
}
