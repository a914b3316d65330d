package analyzer_test

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
)

func TestEstimateUnseen(t *testing.T) {
	steady := analyzer.Incidence{Slices: 100, Connections: 1000}
	for _, c := range []struct {
		name              string
		edges             []analyzer.Incidence
		unseen, low, high float64
		unseenEdges       float64
	}{
		{"nothing seen says nothing", nil, 1, 0, 1, 0},
		// The 99.75 % quantile of a negative binomial count of 0.5, at even odds, is 6:
		// 6 slices to come of 106.
		{"one steady edge", []analyzer.Incidence{steady}, 0, 0, 0.057, 0},
		// That of 1.5 is 10: 100 of 1,100.
		{"one of two was seen once", []analyzer.Incidence{steady, {Slices: 1, Connections: 10}}, 10. / 1010, 0, 0.091, 0},
		// Seven more bursts of a thousand, beside the thousand of the steady one.
		{"a burst is one sighting", []analyzer.Incidence{steady, {Slices: 1, Connections: 1000}}, 0.5, 0, 0.875, 0},
		// Those of 20.5 are 6 and 42: 60 of 1,060 and 420 of 1,420.
		{
			"many seen once", append([]analyzer.Incidence{steady}, slicesOf(20, 1, 10)...),
			200. / 1200, 0.057, 0.296, 0.99 * 20 * 19 / 2,
		},
		{"seen twice is not unseen", append([]analyzer.Incidence{steady}, slicesOf(20, 2, 20)...), 0, 0, 0.042, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := analyzer.EstimateUnseen(c.edges, 100)
			for _, n := range []struct {
				name      string
				got, want float64
			}{{"unseen", e.Unseen, c.unseen}, {"low", e.Low, c.low}, {"high", e.High, c.high}, {"edges", e.UnseenEdges, c.unseenEdges}} {
				if math.Abs(n.got-n.want) > 0.01+0.1*n.want || math.IsNaN(n.got) {
					t.Errorf("%s is %.4f, want about %.4f", n.name, n.got, n.want)
				}
			}
			if e.Low > e.Unseen || e.Unseen > e.High {
				t.Errorf("%.4f is not within %.4f to %.4f", e.Unseen, e.Low, e.High)
			}
		})
	}
}

// What is expected is not nothing while little was seen: half an edge's slice, by
// the prior, beside the slices seen.
func TestExpectedUnseen(t *testing.T) {
	for _, c := range []struct {
		name     string
		edges    []analyzer.Incidence
		least    float64
		most     float64
		interval bool // reaches over what is asked of readiness
	}{
		{"one edge on three days", []analyzer.Incidence{{Slices: 3, Connections: 9}}, 0.08, 0.16, true},
		{"one edge on each of fourteen days", []analyzer.Incidence{{Slices: 14, Connections: 280}}, 0.02, 0.05, true},
		{"ten edges on each of fourteen days", slicesOf(10, 14, 280), 0.001, 0.005, false},
		{"ten of eleven edges on one day", append(slicesOf(10, 1, 20), analyzer.Incidence{Slices: 14, Connections: 280}), 0.25, 0.45, true},
	} {
		e := analyzer.EstimateUnseen(c.edges, 14)
		if e.Expected < c.least || e.Expected > c.most || e.Expected < e.Low || e.Expected > e.High || (e.High > 0.05) != c.interval {
			t.Errorf("%s: %.3f (%.3f to %.3f), want %.3f to %.3f", c.name, e.Expected, e.Low, e.High, c.least, c.most)
		}
		if again := analyzer.EstimateUnseen(c.edges, 14); again != e {
			t.Errorf("%s: %+v, and then %+v", c.name, e, again)
		}
	}
	many := analyzer.EstimateUnseen(append(slicesOf(500, 1, 10), slicesOf(250, 2, 20)...), 14)
	if many.High > 0.6 || many.Low < 0.4 {
		t.Errorf("of as many slices on edges seen once %.3f to %.3f, want about a half", many.Low, many.High)
	}
}

// Too little to go by is not readiness, even though no edge was seen on one day only.
func TestReadyAsksWhatIsExpected(t *testing.T) {
	for days, want := range map[string]bool{"3": false, "14": true} {
		w := weeks(t, "covered node-1 336h", "covered node-2 336h", "flow shop/front > shop/cart TCP 80 hours=200 days="+days+" clients=2 servers=2")
		c := w.recommend("shop/cart").Coverage
		if said := strings.Contains(strings.Join(c.Missing, "; "), "are expected on edges not seen yet; want at most 5%"); c.Ready != want || said == want {
			t.Errorf("one edge on %s days: ready %v, missing %q", days, c.Ready, c.Missing)
		}
	}
}

func slicesOf(n, slices int, connections float64) []analyzer.Incidence {
	out := make([]analyzer.Incidence, n)
	for i := range out {
		out[i] = analyzer.Incidence{Slices: slices, Connections: connections}
	}
	return out
}

func TestWeekHours(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(n *flow.NodeCoverage)
		want   int
		not    string
	}{
		{"a whole week", func(*flow.NodeCoverage) {}, 168, ""},
		{"a gap at night", func(n *flow.NodeCoverage) {
			n.Gaps = []flow.Gap{{Start: epoch.Add(10 * time.Hour), End: epoch.Add(12 * time.Hour)}}
		}, 166, "Mon 18:00 to Mon 20:00 UTC"},
		{"a short gap", func(n *flow.NodeCoverage) {
			n.Gaps = []flow.Gap{{Start: epoch.Add(10 * time.Hour), End: epoch.Add(10*time.Hour + time.Minute)}}
		}, 168, ""},
		{"lost records", func(n *flow.NodeCoverage) {
			n.Lost, n.Losses = 3, []flow.Gap{{Start: epoch.Add(40 * time.Hour), End: epoch.Add(41 * time.Hour)}}
		}, 167, "Wed 00:00 to Wed 01:00 UTC"},
		{"records lost at nobody knows when", func(n *flow.NodeCoverage) { n.Dropped = 1 }, 0, ""},
		{"Monday to Friday", func(n *flow.NodeCoverage) {
			n.Gaps = []flow.Gap{{Start: epoch.Add(112 * time.Hour), End: epoch.Add(160 * time.Hour)}}
		}, 120, "Sat 00:00 to Mon 00:00 UTC"},
		{"many gaps", func(n *flow.NodeCoverage) {
			for i := range 5 {
				n.Gaps = append(n.Gaps, flow.Gap{Start: epoch.Add(time.Duration(20*i+1) * time.Hour), End: epoch.Add(time.Duration(20*i+2) * time.Hour)})
			}
		}, 163, "2 more times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{"window 168h", "covered node-1 168h", "workload shop/cart app=cart cart-1@node-1", "flow world/192.0.2.1 > shop/cart TCP 80 hours=168"} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			c.change(&w.cover[0])
			r := w.recommend("shop/cart")
			if got := r.Completeness.WeekHours.Count(); got != c.want {
				t.Errorf("%d hours, want %d", got, c.want)
			}
			missing := strings.Join(r.Coverage.Missing, "\n")
			if strings.Contains(missing, "of the week's 168 hours") != (c.want < 168) || !strings.Contains(missing, c.not) {
				t.Errorf("missing %q, want it to name %q", missing, c.not)
			}
			if r.Coverage.Ready != (missing == "") {
				t.Errorf("ready %v with %q missing", r.Coverage.Ready, missing)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	w := shop(t, "flow shop/front > shop/cart TCP 80 conns=90 hours=20 seen=both", "flow shop/front > shop/cart TCP 81 conns=10 first=14h hours=6 seen=both")
	r := w.recommend("shop/cart")
	want := &analyzer.Split{At: epoch.Add(12 * time.Hour), Judged: 100, Denied: 10, DeniedEdges: 1, Share: 0.1}
	if diff := cmp.Diff(want, r.Completeness.Split); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const missing = "what the earlier half taught would deny 10% of the later half's connections, on 1 edge; want at most 5%"
	if !strings.Contains(strings.Join(r.Coverage.Missing, "\n"), missing) {
		t.Errorf("missing %q, want %q", r.Coverage.Missing, missing)
	}
	// All of them together say the same, and each half is read once.
	w.reads = 0
	for _, o := range w.recommendAll() {
		if o.Workload == r.Workload {
			if diff := cmp.Diff(r, o, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("alone and among all (-alone +all):\n%s", diff)
			}
		}
	}
	if w.reads != 3 {
		t.Errorf("%d reads, want 3: the window and its halves", w.reads)
	}
	// What is never learned is no surprise either.
	w = shop(t, "flow shop/front > shop/cart TCP 80 conns=90 hours=20 seen=both", "flow shop/front > shop/cart TCP 81 conns=10 answered=0 first=14h hours=6 seen=both")
	if s := w.recommend("shop/cart").Completeness.Split; s == nil || s.Denied != 0 || s.Judged != 90 {
		t.Errorf("unanswered attempts: %+v", s)
	}
}

// Who has watched for minutes has no earlier half: edges are kept by the hour.
func TestNoSplitWithoutAnEarlierHalf(t *testing.T) {
	for watched, want := range map[string]bool{"10m": false, "100m": false, "3h": true} {
		w := shop(t, "flow shop/front > shop/cart TCP 80 conns=90 first=21h10m hours=3 seen=both")
		for i := range w.cover {
			w.cover[i].First = w.at(w.length - duration(t, watched))
		}
		if s := w.recommend("shop/cart").Completeness.Split; (s != nil) != want {
			t.Errorf("watched for %s: %+v", watched, s)
		}
	}
}

// A direction that was silent in the earlier half is no reason to allow all of
// it in the later one.
func TestSplitIsolatesWhatTheWholeWindowIsolates(t *testing.T) {
	s := shop(t, "flow shop/front > shop/cart TCP 80 conns=90 hours=20 seen=both", "flow shop/cart > shop/front TCP 81 conns=10 first=14h hours=6 seen=both").
		recommend("shop/cart").Completeness.Split
	if s == nil || s.Denied != 10 || s.Judged != 100 {
		t.Errorf("%+v, want the 10 connections out denied", s)
	}
}

func TestCurveAndReplicas(t *testing.T) {
	c := shop(t, "flow shop/front > shop/cart TCP 80 hours=20 clients=2 servers=1", "flow shop/front > shop/cart TCP 81 first=12h30m hours=6 servers=1").recommend("shop/cart").Completeness
	if n := len(c.Curve); n != 24 || c.Curve[0].Edges != 1 || c.Curve[11].Edges != 1 || c.Curve[12].Edges != 2 || c.Curve[23].Edges != 2 {
		t.Errorf("curve %v", c.Curve)
	}
	if c.Replicas != 2 || c.WatchedReplicas != 2 || c.SeenReplicas != 1 {
		t.Errorf("replicas %d, watched %d, seen %d; want 2, 2, 1", c.Replicas, c.WatchedReplicas, c.SeenReplicas)
	}
}
