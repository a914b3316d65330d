package browser

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/ui"
)

func TestMain(m *testing.M) { clickhousetest.Main(m) }

var (
	cartIs  = &flow.Party{Workload: flow.Workload{Namespace: "boutique", Kind: "Host", Name: "cartservice"}, Endpoint: "cart-1", Labels: "app=cart,tier=web"}
	redisIs = &flow.Party{Workload: flow.Workload{Namespace: "boutique", Kind: "Host", Name: "redis-cart"}, Endpoint: "redis-1", Labels: "app=redis,tier=db"}
)

// TestFlowsInBrowser filters, pages and follows flows of a real engine behind
// the real API.
func TestFlowsInBrowser(t *testing.T) {
	s, url := startFlows(t)
	b := startBrowser(t, &demo{url: url, password: "correct horse battery staple"})
	b.do("login", nil)

	b.do("open", args{"path": "/flows", "shows": "flow-row"})
	got := b.do("flows", args{"filter": "to.port=6379 since=1h", "shown": "The newest 200 records"})
	if row := got["first"].(string); !strings.Contains(row, "cartservice") || !strings.Contains(row, "redis-cart") || !strings.Contains(row, "6379") {
		t.Errorf("the newest row is %q", row)
	}
	b.do("older", args{"shown": "The newest 400 records"})
	b.do("older", args{"shown": "450 records"})

	got = b.do("facet", args{"term": "verdict=dropped", "shown": "45 records"})
	if filter := got["filter"].(string); filter != "verdict=dropped to.port=6379 since=1h" {
		t.Errorf("the facet made the filter %q", filter)
	}
	got = b.do("wrong", args{"filter": "to.port=6379 to.lable=tier=db"})
	if text := got["text"].(string); !strings.Contains(text, "Character 14") || !strings.Contains(text, "to.label") {
		t.Errorf("the error is %q", text)
	}

	b.do("flows", args{"filter": "to.label=tier=db verdict=audited", "shown": "No flow matches"})
	b.do("live", nil)
	late := record(1)
	late.Time, late.Outcome, late.DestinationPort = late.Time.Add(-50*time.Minute), flow.OutcomeAudited, 7777
	if err := s.InsertFlows(t.Context(), "live", []flow.Labelled{late}); err != nil {
		t.Fatal(err)
	}
	got = b.do("row", args{"text": "TCP 7777"})
	if n := got["rows"].(float64); n != 1 {
		t.Errorf("%v live rows, want 1", n)
	}
	got = b.do("detail", nil)
	if text := got["text"].(string); !strings.Contains(text, "boutique/Host/redis-cart") || !strings.Contains(text, "tier=db") {
		t.Errorf("the detail is %q", text)
	}
}

// record is the number n from the newest; each tenth was dropped.
func record(n int) flow.Labelled {
	at := time.Now().Add(time.Duration(-n) * time.Second).UTC()
	out := flow.Labelled{
		Record: flow.Record{
			Key: flow.Key{Source: netip.MustParseAddr("10.89.1.20"), Destination: netip.MustParseAddr("10.89.1.21"),
				SourcePort: uint16(30000 + n), DestinationPort: 6379, Protocol: flow.TCP},
			Event: flow.EventEnd, Direction: flow.Egress, Time: at, FirstSeen: at, Connections: 1,
			Forward: flow.Counters{Packets: 3, Bytes: 300}, Outcome: flow.OutcomeForwarded,
		},
		Node: "node-1", Observer: cartIs, Source: cartIs, Dest: redisIs,
	}
	if n%10 == 0 {
		out.Outcome = flow.OutcomeDropped
	}
	return out
}

// startFlows serves a store that holds 450 records to port 6379 and 30 others.
func startFlows(t *testing.T) (*store.Store, string) {
	t.Helper()
	addr, user, password := clickhousetest.Start(t)
	s, err := store.Open(t.Context(), store.Config{Addrs: []string{addr}, User: user, Password: password, Database: clickhousetest.Database(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rows []flow.Labelled
	for n := range 480 {
		r := record(n)
		if n >= 450 {
			r.DestinationPort = 53
		}
		rows = append(rows, r)
	}
	if err := s.InsertFlows(t.Context(), "first", rows); err != nil {
		t.Fatal(err)
	}
	c, err := control.Open(t.Context(), control.Config{Path: filepath.Join(t.TempDir(), "control.db")}, control.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.SetInventory(t.Context(), inventory.Inventory{}, control.System); err != nil {
		t.Fatal(err)
	}
	if err := c.SetPassword(t.Context(), control.AdminUser, "correct horse battery staple", control.System); err != nil {
		t.Fatal(err)
	}
	server, err := api.New(api.Config{Version: "test", TailEvery: 100 * time.Millisecond},
		api.Deps{Control: c, Sessions: c.Sessions(), Analyzer: noAnalyzer{}, Flows: flowsOnly{s}, UI: ui.Dist()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, fmt.Sprintf("http://%s", l.Addr())
}

// flowsOnly is a store of which only flows are asked for.
type flowsOnly struct{ *store.Store }

func (f flowsOnly) Follow(q query.Filter, last int) query.Follower {
	return follower{f.Store, store.NewTail(q, last)}
}

func (flowsOnly) Denials(context.Context, flow.DenialFilter) (api.DenialReport, error) {
	return api.DenialReport{}, nil
}

func (flowsOnly) Stats(context.Context, []api.StatsQuery) (map[flow.Workload]api.Stats, error) {
	return nil, nil
}

func (flowsOnly) Learning(context.Context) (api.Learning, error) { return api.Learning{}, nil }

type follower struct {
	store *store.Store
	tail  *store.Tail
}

func (f follower) Next(ctx context.Context) ([]query.Row, error) { return f.store.Next(ctx, f.tail) }

// noAnalyzer stands where pages of flows ask for none; a call would panic.
type noAnalyzer struct{ api.Analyzer }
