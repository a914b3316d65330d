package gapless

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/test/wire"
)

// The last bytes of every frame: what the receiver counts it by.
const (
	trailerLen = 16 // magic and class, each 4 bytes, sequence number, 8, in the machine's order
	magic      = 0x52464750
	maxClasses = 64
)

// arrival is what the receiver knows of a class.
type arrival struct {
	Packets uint64
	Last    uint64 // sequence number
	Gaps    uint64 // times that it was not the one after the last
}

// receiver counts the frames that reach the hosts, in the kernel, and ends them
// there. Frames of others pass.
type receiver struct {
	arrivals *ebpf.Map
	program  *ebpf.Program
	links    []link.Link
}

func newReceiver(t *testing.T, n *network) *receiver {
	t.Helper()
	r := &receiver{}
	t.Cleanup(func() {
		for _, l := range r.links {
			_ = l.Close()
		}
		_ = errors.Join(r.program.Close(), r.arrivals.Close())
	})
	must(t, r.load())
	for _, h := range n.hosts() {
		must(t, wire.In(h.ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			attached, err := link.AttachTCX(link.TCXOptions{
				Interface: l.Attrs().Index, Program: r.program, Attach: ebpf.AttachTCXIngress,
			})
			if err != nil {
				return fmt.Errorf("attach the counter to %s: %w", h.veth, err)
			}
			r.links = append(r.links, attached)
			return nil
		}))
	}
	return r
}

func (r *receiver) load() (err error) {
	r.arrivals, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "arrivals", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: maxClasses,
	})
	if err != nil {
		return err
	}
	const pass, end = -1, 2 // TCX_NEXT, TCX_DROP
	r.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), // skb->len
		asm.JLT.Imm(asm.R2, trailerLen, "pass"),
		asm.Sub.Imm(asm.R2, trailerLen),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -trailerLen),
		asm.Mov.Imm(asm.R4, trailerLen),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, -16, asm.Word),
		asm.JNE.Imm(asm.R1, magic, "pass"),
		asm.LoadMapPtr(asm.R1, r.arrivals.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -12), // the class
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		// One sender a class: nobody else writes these.
		asm.LoadMem(asm.R2, asm.R0, 8, asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.DWord),
		asm.StoreMem(asm.R0, 8, asm.R3, asm.DWord),
		asm.Add.Imm(asm.R2, 1),
		asm.JEq.Reg(asm.R2, asm.R3, "end"),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 16),
		asm.Mov.Imm(asm.R0, end).WithSymbol("end"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	}})
	if err != nil {
		return fmt.Errorf("load the counter: %w", err)
	}
	return nil
}

func (r *receiver) arrival(t testing.TB, class uint32) arrival {
	t.Helper()
	var a arrival
	must(t, r.arrivals.Lookup(class, &a))
	return a
}

// settle waits until nothing arrives any more: frames may still be under way
// when their sender has stopped.
func (r *receiver) settle(t testing.TB) {
	t.Helper()
	before, quiet := uint64(0), 0
	for deadline := time.Now().Add(10 * time.Second); quiet < 5; time.Sleep(20 * time.Millisecond) {
		var sum uint64
		for class := range uint32(maxClasses) {
			sum += r.arrival(t, class).Packets
		}
		if quiet++; sum != before {
			before, quiet = sum, 0
		}
		if time.Now().After(deadline) {
			t.Fatal("frames still arrive 10 s after their sender stopped")
		}
	}
}
