package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// await reads records until one matches.
func (s *site) await(what string, matches func(flow.Record) bool) flow.Record {
	s.t.Helper()
	r, err := s.d.NewReader()
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithTimeout(s.t.Context(), wire.Arrives)
	defer cancel()
	for {
		b, err := r.Next(ctx)
		if err != nil {
			s.t.Fatalf("%s: no record: %v", what, err)
		}
		for _, rec := range b.Records {
			if matches(rec) {
				return rec
			}
		}
		if err := r.Commit(b.End); err != nil {
			s.t.Fatal(err)
		}
	}
}

// pushTags puts n VLAN tags on every packet: the last one into the skb, the
// others into the frame.
func pushTags(n int) asm.Instructions {
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for range n {
		code = append(code,
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0x0081), asm.Mov.Imm(asm.R3, 10),
			asm.FnSkbVlanPush.Call())
	}
	return append(code, asm.Mov.Imm(asm.R0, -1), asm.Return())
}

// onlyScattered drops packets whose IP header is in one piece with the skb.
func onlyScattered() asm.Instructions {
	const data, dataEnd = 76, 80 // of struct __sk_buff
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, dataEnd, asm.Word),
		asm.Add.Imm(asm.R2, etherLen+20),
		asm.Mov.Imm(asm.R0, -1),
		asm.JGT.Reg(asm.R2, asm.R3, "out"),
		asm.Mov.Imm(asm.R0, 2),
		asm.Return().WithSymbol("out"),
	}
}

// runBefore attaches a program to what the interface receives, before ours.
func (s *site) runBefore(name string, code asm.Instructions) (*ebpf.Program, link.Link) {
	s.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: code, License: "GPL"})
	if err != nil {
		s.t.Fatalf("%+v", err)
	}
	var l link.Link
	inNetNS(s.t, s.ns, func() error {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: dev.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
		return err
	})
	return prog, l
}

// TestTagsOfTheSkb checks that a packet whose tag is not in the frame, and one
// with more tags in it, are judged as any other.
func TestTagsOfTheSkb(t *testing.T) {
	s := newSite(t)
	s.apply(Table{
		TableKey: TableKey{webIdent, flow.SlotLive, flow.Egress}, Revision: 1, Entries: []Entry{allow(dbIdent, flow.UDP, serverPort)},
	})
	for _, family := range []int{4, 6} {
		s.reaches(true, s.web, "udp", s.db.in(family)) // the neighbours are known from here on
	}
	for n := 1; n <= 3; n++ {
		prog, l := s.runBefore(s.web.veth, pushTags(n))
		for _, family := range []int{4, 6} {
			for _, to := range []struct {
				host
				outcome flow.Outcome
			}{{s.db, flow.OutcomeForwarded}, {s.evil, flow.OutcomeDropped}} {
				what := fmt.Sprintf("%d tags, IPv%d, %s", n, family, to.outcome)
				c, err := dial(s.web.ns, "udp", to.in(family), wire.Arrives)
				if err != nil {
					t.Fatal(err)
				}
				port := c.LocalAddr().(*net.UDPAddr).Port
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				r := s.await(what, func(r flow.Record) bool {
					return int(r.SourcePort) == port && r.Destination == to.in(family) // ports are used again
				})
				headers := 14 + 20 + 8 + 4*(n-1) // one tag is not in the frame
				if family == 6 {
					headers += 20
				}
				if r.Outcome != to.outcome || r.Forward.Bytes != uint64(headers+5) {
					t.Errorf("%s: %+v", what, r)
				}
				_ = c.Close()
			}
		}
		if err := errors.Join(l.Close(), prog.Close()); err != nil {
			t.Error(err)
		}
	}
	values, err := s.d.Counters()
	if err != nil || values["malformed"] != 0 {
		t.Errorf("%d malformed, error %v", values["malformed"], err)
	}
}

// sendScattered sends a frame of which the kernel holds only the Ethernet header
// in one piece with the skb.
func sendScattered(ns, name string, frame []byte) error {
	return netNS(ns).do(func() error {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		header := make([]byte, 10) // struct virtio_net_hdr
		binary.NativeEndian.PutUint16(header[2:], etherLen)
		to := &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16([]byte{frame[13], frame[12]}), Ifindex: dev.Attrs().Index}
		return unix.Sendto(fd, append(header, frame...), 0, to)
	})
}

// TestScatteredFrames checks that headers are found wherever in the skb they
// are, for a flow's first packet and for those that follow.
func TestScatteredFrames(t *testing.T) {
	s := newSite(t)
	for ns, name := range map[string]string{s.ns: s.web.veth, s.web.ns: "eth0"} {
		inNetNS(t, ns, func() error {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(dev, 9000)
		})
	}
	s.apply(Table{
		TableKey: TableKey{webIdent, flow.SlotLive, flow.Egress}, Revision: 1, Entries: []Entry{allow(dbIdent, flow.UDP, serverPort)},
	})
	prog, l := s.runBefore(s.web.veth, onlyScattered())
	defer func() { _ = errors.Join(l.Close(), prog.Close()) }()
	for _, family := range []int{4, 6} {
		for port, outcome := range map[uint16]flow.Outcome{serverPort: flow.OutcomeForwarded, serverPort + 1: flow.OutcomeDropped} {
			what := fmt.Sprintf("IPv%d to port %d", family, port)
			p := udp(web.in(family), db.in(family), 40000, port)
			p.payload = 6000
			frame := p.frame(t)
			for range 3 {
				if err := sendScattered(s.web.ns, "eth0", frame); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			r := s.await(what, func(r flow.Record) bool { return r.Source == p.src && r.DestinationPort == port })
			if r.Outcome != outcome || r.SourcePort != 40000 || r.Destination != p.dst || r.Forward.Bytes != uint64(len(frame)) {
				t.Errorf("%s: %+v", what, r)
			}
		}
	}
	values, err := s.d.Counters()
	if err != nil || values["malformed"] != 0 || values["dropped"] != 6 {
		t.Errorf("malformed %d, dropped %d: want 0 and 6; error %v", values["malformed"], values["dropped"], err)
	}
}
