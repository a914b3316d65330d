package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Samples that benchmark frames take their source from, one after another at
// random.
const prefilterSamples = 1 << 16

// BenchmarkPrefilter measures the prefilter by the kernel's own clock, over
// sources at random: 65,536 of them, so that tables do not stay in the cache
// because every frame asks for the same. What it costs to change the source and
// to get there by a tail call is in every figure; "none" is that alone.
func BenchmarkPrefilter(b *testing.B) {
	families := map[string]int{"IPv4": 4, "IPv6": 6}
	for _, entries := range []int{-1, 0, 1000, maxPrefilterEntries} {
		for _, name := range []string{"IPv4", "IPv6"} {
			f := openFilter(b)
			r := rand.New(rand.NewPCG(1, 2))
			list := randomPrefixes(r, max(entries, 0), families[name])
			set := newReference([]DenyList{{"a", true, list}}, nil)
			f.set([]DenyList{{"a", true, list}})
			for _, hit := range []bool{false, true} {
				label := fmt.Sprintf("entries=%d/%s/hit=%v", entries, name, hit)
				if entries < 0 {
					label = "none/" + name
				}
				if hit && entries <= 0 {
					continue
				}
				var samples []netip.Addr
				for len(samples) < prefilterSamples {
					a := randomAddr(r, families[name])
					if hit {
						p := list[r.IntN(len(list))]
						a = p.Addr()
					}
					if (set.judge(a).list != "") == hit {
						samples = append(samples, a)
					}
				}
				b.Run(label, func(b *testing.B) {
					program := f.program
					if entries < 0 {
						program = returnPass(b)
					}
					per, err := benchmarkSources(b, program, samples, max(b.N, 1000))
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(per), "ns/packet")
				})
			}
		}
	}
}

// BenchmarkPrefilterLoad measures a reload of all lists.
func BenchmarkPrefilterLoad(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, family := range []int{4, 6} {
		list := randomPrefixes(r, maxPrefilterEntries, family)
		b.Run(fmt.Sprintf("IPv%d", family), func(b *testing.B) {
			f := openFilter(b)
			var stats PrefilterStats
			for b.Loop() {
				stats = f.set([]DenyList{{"a", true, list}})
			}
			b.ReportMetric(float64(stats.Bytes), "table_bytes")
		})
	}
}

func returnPass(b *testing.B) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(xdpPass)), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	return p
}

// benchmarkSources runs program on n frames whose sources are drawn from samples.
func benchmarkSources(b *testing.B, program *ebpf.Program, samples []netip.Addr, n int) (time.Duration, error) {
	b.Helper()
	size := samples[0].BitLen() / 8
	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: prefilterSamples})
	if err != nil {
		return 0, err
	}
	defer func() { _ = table.Close() }()
	for i, a := range samples {
		if err := table.Put(uint32(i), a.AsSlice()); err != nil {
			return 0, err
		}
	}
	next, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return 0, err
	}
	defer func() { _ = next.Close() }()
	source := int16(etherLen + 12)
	if size == 16 {
		source = etherLen + 8
	}
	const seed = 56 // offset of the generator's state, behind every header
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word), // data
		asm.LoadMem(asm.R8, asm.R6, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, seed+8),
		asm.JGT.Reg(asm.R1, asm.R8, "out"),
		asm.LoadMem(asm.R1, asm.R7, seed, asm.DWord),
		asm.LoadImm(asm.R2, 6364136223846793005, asm.DWord),
		asm.Mul.Reg(asm.R1, asm.R2),
		asm.Add.Imm(asm.R1, 12345677),
		asm.StoreMem(asm.R7, seed, asm.R1, asm.DWord),
		asm.RSh.Imm(asm.R1, 48),
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, table.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
	}
	for at := int16(0); at < int16(size); at += 4 {
		code = append(code,
			asm.LoadMem(asm.R1, asm.R0, at, asm.Word),
			asm.StoreMem(asm.R7, source+at, asm.R1, asm.Word))
	}
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, next.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, int32(xdpPass)).WithSymbol("out"),
		asm.Return())
	change, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL", Instructions: code})
	if err != nil {
		return 0, err
	}
	defer func() { _ = change.Close() }()
	if err := next.Put(uint32(0), program); err != nil {
		return 0, err
	}
	p := udp(samples[0], web.v4, 1, 2)
	if size == 16 {
		p.dst = web.v6
	}
	p.payload = 64
	_, per, err := change.Benchmark(p.frame(b), n, nil)
	return per, err
}
