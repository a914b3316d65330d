package drive

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Field is a 16-bit number of the frame, in network byte order, that goes
// through Base, Base+Step, … Base+(Count-1)*Step.
type Field struct {
	Offset int
	Base   uint16
	Count  uint32
	Step   uint16 // 0: 1
}

// Walk says which tuples a driver goes through: packet i gets the digits of i
// in the mixed radix of the fields' counts, the first field's the lowest.
type Walk struct {
	Fields []Field
	// Random draws i from the first that many numbers; 0 counts up from 0.
	Random uint32
}

// Driver rewrites a frame's fields before each run and then becomes its target
// by a tail call. The same driver before an empty program costs the same, and
// is what to subtract.
type Driver struct {
	Program
	counter *ebpf.Map
}

// Offsets of data in struct __sk_buff and in struct xdp_md; data_end follows.
const (
	skbData = 76
	xdpData = 0
)

// New makes a driver for target. Frames that it is run on must be at least
// length bytes long.
func New(target *Program, w Walk, length int) (*Driver, error) {
	jump, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rf_drive_to", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("create the driver's jump: %w", err)
	}
	counter, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rf_drive_at", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the driver's counter: %w", err), jump.Close())
	}
	d := &Driver{Program: Program{own: []*ebpf.Map{jump, counter}}, counter: counter}
	spec := &ebpf.ProgramSpec{Name: "rf_drive", Type: ebpf.SchedCLS, License: "GPL"}
	data := int16(skbData)
	if target.xdp() {
		spec.Type, spec.AttachType, data = ebpf.XDP, ebpf.AttachXDP, xdpData
	}
	spec.Instructions = w.instructions(data, jump.FD(), counter.FD(), length)
	d.prog, err = ebpf.NewProgram(spec)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the driver: %w", err), jump.Close(), counter.Close())
	}
	if err := jump.Put(uint32(0), target.prog); err != nil {
		return nil, errors.Join(fmt.Errorf("aim the driver: %w", err), d.Close())
	}
	return d, nil
}

// Rewind lets a driver that counts start at packet i.
func (d *Driver) Rewind(i uint64) error {
	if err := d.counter.Put(uint32(0), i); err != nil {
		return fmt.Errorf("rewind the driver: %w", err)
	}
	return nil
}

// At returns the number of the next packet of a driver that counts.
func (d *Driver) At() (i uint64, err error) {
	if err := d.counter.Lookup(uint32(0), &i); err != nil {
		return 0, fmt.Errorf("read the driver's counter: %w", err)
	}
	return i, nil
}

func (w Walk) instructions(data int16, jump, counter, length int) asm.Instructions {
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	ins = append(ins, w.next(counter)...)
	ins = append(ins,
		asm.LoadMem(asm.R7, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, data+4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R7),
		asm.Add.Imm(asm.R4, int32(length)), //nolint:gosec // a frame's length
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
	)
	for _, f := range w.Fields {
		ins = append(ins,
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.Mod.Imm(asm.R1, int32(f.Count)), //nolint:gosec // far below
			asm.Mul.Imm(asm.R1, int32(max(f.Step, 1))),
			asm.Add.Imm(asm.R1, int32(f.Base)),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.StoreMem(asm.R7, int16(f.Offset), asm.R1, asm.Half), //nolint:gosec // within a frame
			asm.Div.Imm(asm.R8, int32(f.Count)),                     //nolint:gosec // far below
		)
	}
	return append(ins,
		// Atomic, and so a barrier: a packet's bytes have long been written when
		// a program reads them. Without it the target would wait for these stores.
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.AddAtomic.Mem(asm.RFP, asm.R1, asm.DWord, -8),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, jump),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, missed).WithSymbol("out"),
		asm.Return(),
	)
}

// missed is the answer of a driver that did not reach its target: none of TCX's.
const missed = 0x7fff

// next leaves the packet's number in R8.
func (w Walk) next(counter int) asm.Instructions {
	if w.Random > 0 {
		return asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.Mov.Reg32(asm.R8, asm.R0),
			asm.Mul.Imm(asm.R8, int32(w.Random)), //nolint:gosec // far below
			asm.RSh.Imm(asm.R8, 32),
		}
	}
	return asm.Instructions{
		asm.LoadMapValue(asm.R1, counter, 0),
		asm.LoadMem(asm.R8, asm.R1, 0, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
	}
}
