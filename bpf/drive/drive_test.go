package drive

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

const frameLen = 64

// TestWalk checks which numbers a driver writes into the frames that its
// target sees.
func TestWalk(t *testing.T) {
	fields := []Field{{Offset: 20, Base: 1, Count: 2}, {Offset: 30, Base: 1000, Count: 3, Step: 7}}
	t.Run("counting", func(t *testing.T) {
		seen := watch(t, Walk{Fields: fields}, 1, 6)
		want := [][2]uint16{{1, 1000}, {2, 1000}, {1, 1007}, {2, 1007}, {1, 1014}, {2, 1014}}
		if !slices.Equal(seen, want) {
			t.Errorf("%v, want %v", seen, want)
		}
	})
	t.Run("random", func(t *testing.T) {
		seen := watch(t, Walk{Fields: fields, Random: 6}, 1, 300)
		slices.SortFunc(seen, func(a, b [2]uint16) int { return int(a[1])<<2 + int(a[0]) - int(b[1])<<2 - int(b[0]) })
		if all := slices.Compact(seen); len(all) != 6 || all[0] != [2]uint16{1, 1000} || all[5] != [2]uint16{2, 1014} {
			t.Errorf("all of %v were seen", all)
		}
	})
	t.Run("XDP", func(t *testing.T) {
		pass, err := EmptyXDP()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pass.Close() })
		d, err := New(pass, Walk{Fields: fields, Random: 6}, frameLen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		for length, want := range map[int]bool{frameLen: true, frameLen - 1: false} {
			code, _, err := d.Run(make([]byte, length), Where{}, 10)
			if err != nil || d.Passed(code) != want {
				t.Errorf("frame of %d bytes: answer %d, %v", length, code, err)
			}
		}
	})
	t.Run("short frame", func(t *testing.T) {
		d := driver(t, Walk{Fields: fields})
		code, _, err := d.Run(make([]byte, frameLen-1), Where{Index: 1}, 1)
		if err != nil || code != missed {
			t.Errorf("answer %d, %v, want %d", code, err, missed)
		}
	})
}

// watch returns what a target, which answers with the frame's two fields, saw.
func watch(t *testing.T, w Walk, each, n int) (seen [][2]uint16) {
	t.Helper()
	d := driver(t, w)
	for range n {
		code, _, err := d.Run(make([]byte, frameLen), Where{Index: 1}, each)
		if err != nil {
			t.Fatal(err)
		}
		b := binary.BigEndian.AppendUint32(nil, code)
		seen = append(seen, [2]uint16{binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])})
	}
	return seen
}

func driver(t *testing.T, w Walk) *Driver {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, skbData+4, asm.Word),
		asm.Mov.Imm(asm.R0, 0),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, frameLen),
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
		asm.LoadMem(asm.R0, asm.R2, 20, asm.Half),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.LSh.Imm(asm.R0, 16),
		asm.LoadMem(asm.R5, asm.R2, 30, asm.Half),
		asm.HostTo(asm.BE, asm.R5, asm.Half),
		asm.Or.Reg(asm.R0, asm.R5),
		asm.Return().WithSymbol("out"),
	}})
	if err != nil {
		t.Fatalf("these tests need root and eBPF: %v", err)
	}
	target := &Program{prog: prog}
	t.Cleanup(func() { _ = target.Close() })
	d, err := New(target, w, frameLen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
