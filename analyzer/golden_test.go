package analyzer_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.input")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".input")
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, r := range load(t, name+".input").recommendAll() {
				write(&b, r)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("learned something else (-want +got); if it is right, run with -update:\n%s", diff)
			}
		})
	}
}

// write puts a recommendation in words.
func write(b *strings.Builder, r *analyzer.Recommendation) {
	fmt.Fprintf(b, "== %s\n", r.Workload)
	if r.NoPolicy != "" {
		fmt.Fprintf(b, "no policy: %s\n", r.NoPolicy)
	} else {
		fmt.Fprintf(b, "isolates: ingress %v, egress %v\n", r.Policy.IsolateIngress, r.Policy.IsolateEgress)
	}
	fmt.Fprintf(b, "%s\n%s\n", r.Ingress.Words, r.Egress.Words)
	for _, rule := range r.Rules {
		fmt.Fprintf(b, "%s %s: %s\n", rule.Proposed, rule.Direction, rule.Sentence)
		for _, f := range rule.Flags {
			fmt.Fprintf(b, "    ! %s: %s\n", f.Code, f.Reason)
		}
		for _, a := range rule.AlsoAdmits {
			fmt.Fprintf(b, "    + %s\n", a)
		}
		for _, m := range rule.MayAdmit {
			fmt.Fprintf(b, "    ~ %s\n", m)
		}
		for _, e := range rule.Evidence {
			fmt.Fprintf(b, "    %s %s %d: %d connections, %d answered, %d/%d bytes, %s to %s, %d clients, %d servers, %d hours, at %s",
				e.Peer, e.Protocol, e.Port, e.Connections, e.Answered, e.Forward.Bytes, e.Reverse.Bytes,
				e.FirstSeen.Sub(epoch), e.LastSeen.Sub(epoch), e.SourceEndpoints, e.DestinationEndpoints, e.Hours, e.ObservedAt)
			if e.Midstream {
				b.WriteString(", midstream")
			}
			b.WriteString("\n")
		}
	}
	for _, x := range r.Excluded {
		d := x.Direction.String()
		if x.Direction == flow.DirectionUnknown {
			d = "unknown direction"
		}
		fmt.Fprintf(b, "left out %s: %s > %s %s %d, %d connections: %s (%s)\n", d, x.Source, x.Destination, x.Protocol, x.Port, x.Connections, x.Reason, x.Code)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(b, "note: %s\n", n)
	}
	fmt.Fprintf(b, "ready: %v. %s\n", r.Coverage.Ready, r.Coverage.Words)
	fmt.Fprintf(b, "%s\n", r.Completeness.Words)
	for _, m := range r.Coverage.Missing {
		fmt.Fprintf(b, "    missing: %s\n", m)
	}
	b.WriteString("\n")
}
