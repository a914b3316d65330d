package bpf

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// BenchmarkPacket measures the programs by the kernel's own clock, which leaves
// out the system call.
func BenchmarkPacket(b *testing.B) {
	enforced := func(l *lab) {
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)), staged(flow.Egress, 2))
	}
	for _, c := range []struct {
		name    string
		prepare func(l *lab)
	}{
		{"known flow, observed", func(*lab) {}},
		{"known flow, enforced", enforced},
		{"without state, enforced", func(l *lab) {
			enforced(l)
			l.d.settings.value.EndpointFlows = 1
			l.want(pass, tcp(web.v4, db.v4, 1, 80, "S"), "the one flow")
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := newLab(b)
			// Without a context the frame is the loopback's.
			const loopback = uint32(1)
			var ep kernelRfEndpoint
			if err := l.d.maps.Endpoints.Lookup(uint32(l.index), &ep); err != nil {
				b.Fatal(err)
			}
			if err := l.d.maps.Endpoints.Put(loopback, ep); err != nil {
				b.Fatal(err)
			}
			c.prepare(l)
			frame := tcp(web.v4, db.v4, 40000, 80, "A").frame(b)
			var perPacket time.Duration
			inNetNS(b, l.ns, func() (err error) {
				_, perPacket, err = l.d.programs.RfFromEndpoint.Benchmark(frame, max(b.N, 1000), nil)
				return err
			})
			if err := l.d.maps.Endpoints.Delete(loopback); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(perPacket), "ns/packet")
		})
	}
}

// BenchmarkSweep measures a sweep over a table of flows with nothing to do.
func BenchmarkSweep(b *testing.B) {
	l := newLab(b, func(c *Config) { c.FlowEntries, c.EndpointFlows = 16384, 16384 })
	l.fill(10000, tcp(web.v4, db.v4, 1000, 80, "S"))
	for b.Loop() {
		l.sweep(0)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/10000, "ns/flow")
}

// BenchmarkPromote measures putting the staged tables of many workloads in
// force at once, each workload's its own and of 20 entries.
func BenchmarkPromote(b *testing.B) {
	for _, workloads := range []int{1, 500} {
		b.Run(fmt.Sprintf("workloads=%d", workloads), func(b *testing.B) {
			l := newLab(b, func(c *Config) { c.Workloads, c.PolicyTables, c.PolicyEntries = 1024, 4096, 65536 })
			var staging, promoting, back []Table
			for i := range workloads {
				t := staged(flow.Egress, uint32(i)+1, entries(1000, 20)...)
				t.Identity += flow.Identity(i)
				staging = append(staging, t)
				empty := Table{TableKey: t.TableKey, Delete: true}
				t.Slot = flow.SlotLive
				promoting = append(promoting, t, empty)
				back = append(back, Table{TableKey: t.TableKey, Delete: true})
			}
			l.apply(staging...)
			for b.Loop() {
				l.apply(promoting...)
				b.StopTimer()
				l.apply(append(staging, back...)...)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkFirstPacket measures a packet of no flow, which finds no room, by
// the size of the policy that it is judged by.
func BenchmarkFirstPacket(b *testing.B) {
	for _, rules := range []int{10, 10000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			l := newLab(b, func(c *Config) { c.PolicyEntries, c.EndpointFlows = 65536, 1 })
			const loopback = uint32(1)
			var ep kernelRfEndpoint
			if err := l.d.maps.Endpoints.Lookup(uint32(l.index), &ep); err != nil {
				b.Fatal(err)
			}
			if err := l.d.maps.Endpoints.Put(loopback, ep); err != nil {
				b.Fatal(err)
			}
			l.apply(live(flow.Egress, 1, entries(80, rules)...))
			l.want(pass, tcp(web.v4, db.v4, 1, 80, "S"), "the one flow")
			frame := tcp(web.v4, db.v4, 40000, 80, "S").frame(b)
			var perPacket time.Duration
			inNetNS(b, l.ns, func() (err error) {
				_, perPacket, err = l.d.programs.RfFromEndpoint.Benchmark(frame, max(b.N, 1000), nil)
				return err
			})
			if err := l.d.maps.Endpoints.Delete(loopback); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(perPacket), "ns/packet")
		})
	}
}
