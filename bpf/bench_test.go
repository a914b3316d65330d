package bpf

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ringfence/ringfence/internal/flow"
)

// stages are what BenchmarkPacket compares, each on a node of its own.
var stages = []struct {
	name   string
	tables []Table
}{
	{"observe", nil},
	{"audit", []Table{staged(flow.Egress, 2)}},
	{"enforce", []Table{live(flow.Egress, 1, Entry{Peer: PeerAny, Protocol: flow.TCP, First: 80, Last: 80})}},
}

// BenchmarkPacket measures a packet of an established connection, one of many
// at random, by the kernel's own clock: the lower quartile of rounds in which
// an empty program and each stage take turns. Choosing the flow costs all of
// them the same.
func BenchmarkPacket(b *testing.B) {
	for _, family := range []int{4, 6} {
		for _, flows := range []int{1, 10_000, 100_000} {
			b.Run(fmt.Sprintf("IPv%d/flows=%d", family, flows), func(b *testing.B) {
				frame := tcp(web.in(family), db.in(family), 1024, 80, "A").frame(b)
				programs := map[string]*ebpf.Program{"empty": pickFlow(b, emptyProgram(b), family, flows)}
				var ns string
				for _, s := range stages {
					l := newLab(b, func(c *Config) { c.FlowEntries, c.EndpointFlows = 131072, 131072 })
					l.apply(s.tables...)
					l.lendLoopback()
					l.fillEstablished(family, flows)
					programs[s.name], ns = pickFlow(b, l.d.programs.RfFromEndpoint, family, flows), l.ns
				}
				took := map[string][]float64{}
				for range max(b.N, 40) {
					for name, p := range programs {
						inNetNS(b, ns, func() error {
							_, d, err := p.Benchmark(frame, 20_000, nil)
							took[name] = append(took[name], float64(d))
							return err
						})
					}
				}
				for name, list := range took {
					slices.Sort(list)
					b.ReportMetric(list[len(list)/4], "ns/"+name)
				}
			})
		}
	}
}

// lendLoopback makes the lab's endpoint that of the loopback, whose frames
// those without a context are.
func (l *lab) lendLoopback() {
	l.t.Helper()
	const loopback = uint32(1)
	var ep kernelRfEndpoint
	err := l.d.maps.Endpoints.Lookup(uint32(l.index), &ep)
	if err == nil {
		err = l.d.maps.Endpoints.Put(loopback, ep)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	noteInterface(l.d.settings.value, loopback, ep.Id)
	l.t.Cleanup(func() { forgetInterface(l.d.settings.value, loopback); _ = l.d.maps.Endpoints.Delete(loopback) })
}

// The flows of pickFlow: 16384 local ports from 1024 on, times peers.
const portsOfPeer = 16384

// fillEstablished opens one connection and copies its entry.
func (l *lab) fillEstablished(family, flows int) {
	l.t.Helper()
	l.connect(tcp(web.in(family), db.in(family), 1024, 80, ""))
	for key, f := range l.table() {
		peer := key.Remote[15]
		for i := range flows {
			key.LocalPort = htons(uint16(1024 + i%portsOfPeer))
			key.Remote[15] = peer + byte(i/portsOfPeer)
			if err := putFlow(&l.d.maps, key, f); err != nil {
				l.t.Fatal(err)
			}
		}
		break
	}
	if n := l.flows(); n != flows {
		l.t.Fatalf("%d flows, want %d", n, flows)
	}
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func emptyProgram(b *testing.B) *ebpf.Program {
	b.Helper()
	return loadAsm(b, asm.Instructions{asm.LoadImm(asm.R0, -1, asm.DWord), asm.Return()})
}

func loadAsm(b *testing.B, code asm.Instructions) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: code, License: "GPL"})
	if err != nil {
		b.Fatalf("%+v", err)
	}
	b.Cleanup(func() { _ = p.Close() })
	return p
}

// pickFlow makes a program that puts a random one of the flows' ports and peers
// into the frame and runs next on it.
func pickFlow(b *testing.B, next *ebpf.Program, family, flows int) *ebpf.Program {
	b.Helper()
	jump, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = jump.Close() })
	if err := jump.Put(uint32(0), next); err != nil {
		b.Fatal(err)
	}
	peer, ports := int16(etherLen+19), int16(etherLen+20)
	last := db.v4.As4()[3]
	if family == 6 {
		peer, ports = etherLen+39, etherLen+40
		last = db.v6.As16()[15]
	}
	const data, dataEnd = 76, 80 // of struct __sk_buff
	return loadAsm(b, asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetPrandomU32.Call(),
		asm.Mod.Imm32(asm.R0, int32(flows)),
		asm.LoadMem(asm.R2, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, dataEnd, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, int32(ports)+2),
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
		asm.Mov.Reg(asm.R5, asm.R0),
		asm.And.Imm(asm.R5, portsOfPeer-1),
		asm.Add.Imm(asm.R5, 1024),
		asm.HostTo(asm.BE, asm.R5, asm.Half),
		asm.StoreMem(asm.R2, ports, asm.R5, asm.Half),
		asm.RSh.Imm(asm.R0, 14),
		asm.Add.Imm(asm.R0, int32(last)),
		asm.StoreMem(asm.R2, peer, asm.R0, asm.Byte),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, jump.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	})
}

// BenchmarkSweep measures a sweep over a full table of flows with nothing to do.
// With no agent the kernel's own costs that in softirq, in one piece.
func BenchmarkSweep(b *testing.B) {
	const n = 131072
	l := newLab(b, func(c *Config) {
		c.FlowEntries, c.EndpointFlows, c.RingBytes = n, n, 32<<20
		c.Idle, c.OrphanedAfter = IdleLimits{}, time.Hour
	})
	for i := range uint16(4) {
		l.pour(n/4, udp(web.v4, db.v4, 1000, 53+i))
	}
	l.records()
	if got := l.flows(); got != n {
		b.Fatalf("%d flows, want %d", got, n)
	}
	for b.Loop() {
		l.sweep(0)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/n, "ns/flow")
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

// BenchmarkFirstPacket measures a packet of no flow beside 100,000 flows, which
// finds no room, by the size of the policy that it is judged by.
func BenchmarkFirstPacket(b *testing.B) {
	for _, rules := range []int{10, 10000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			const flows = 100_000
			l := newLab(b, func(c *Config) { c.PolicyEntries, c.FlowEntries, c.EndpointFlows = 65536, 131072, flows })
			var single []Entry
			for i := range uint16(rules) {
				single = append(single, allow(dbIdent, flow.TCP, 80+2*i)) // no range
			}
			l.apply(live(flow.Egress, 1, single...))
			l.lendLoopback()
			l.fillEstablished(4, flows)
			l.d.settings.value.EndpointFlows = 1
			l.want(drop, tcp(web.v4, world.v4, 1, 80, "S"), "what no rule allows")
			frame := tcp(web.v4, db.v4, 40000, uint16(78+2*rules), "S").frame(b)
			before, n := l.counter("stateless"), max(b.N, 1000)
			var perPacket time.Duration
			inNetNS(b, l.ns, func() (err error) {
				_, perPacket, err = l.d.programs.RfFromEndpoint.Benchmark(frame, n, nil)
				return err
			})
			if judged := l.counter("stateless") - before; judged != uint64(n) {
				b.Fatalf("%d packets judged as first ones, want %d", judged, n)
			}
			b.ReportMetric(float64(perPacket), "ns/packet")
		})
	}
}
