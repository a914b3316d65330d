package outage

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestInsertWhosePartWasNeverWritten leaves the engine as a kill does between
// its note of an insert's token and the insert's part: edges have the rows, flows
// do not. Sent again, they are in both, once.
func TestInsertWhosePartWasNeverWritten(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, dir)
	who := &flow.Party{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: "client"}}
	now := time.Now().Truncate(time.Microsecond)
	rows := make([]flow.Labelled, 100)
	for i := range rows {
		rows[i] = flow.Labelled{
			Record: flow.Record{
				Key: flow.Key{
					Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"),
					SourcePort: uint16(i), DestinationPort: 80, Protocol: flow.TCP,
				},
				Event: flow.EventEnd, Direction: flow.Egress, Time: now, FirstSeen: now, Connections: 1,
				Forward: flow.Counters{Packets: 1, Bytes: 100},
			},
			Node: "node-1", Observer: who, Source: who, Dest: &flow.Party{Reserved: "world"},
		}
	}
	for _, token := range []string{"kept", "lost"} {
		if err := s.direct.InsertFlows(t.Context(), token, rows); err != nil {
			t.Fatal(err)
		}
	}
	s.kill()
	// Edges are partitioned by day too, and added up as they are written: level 1.
	parts, err := filepath.Glob(filepath.Join(dir, "data", "store", "*", "*", now.UTC().Format("20060102")+"_2_2_0"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("the second insert's part is one of %q (%v)", parts, err)
	}
	if err := os.RemoveAll(parts[0]); err != nil {
		t.Fatal(err)
	}
	s.begin()
	for _, token := range []string{"kept", "lost"} {
		if err := s.direct.InsertFlows(t.Context(), token, rows); err != nil {
			t.Fatal(err)
		}
	}
	if connections, _ := s.stored(); connections != 200 {
		t.Errorf("%d connections are stored, want 200", connections)
	}
}
