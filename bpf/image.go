package bpf

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// Flags of a table; they equal RF_TABLE_* in bpf/types.h.
const (
	tableOpen     = 1
	tableCIDRs    = 2
	tableAnyPeer  = 4
	tableAnyProto = 8
)

// image is what a table says, without whom it governs. Equal images share one
// table of the kernel.
type image struct {
	head    kernelRfTable
	entries []Entry // by peer, protocol, port and length, each once
}

type digest [sha256.Size]byte

// image returns t's, or what is wrong with t.
func (t Table) image() (image, error) {
	if t.Open && len(t.Entries) > 0 {
		return image{}, fmt.Errorf("table of %s: open, and yet it has entries", t.TableKey)
	}
	for _, e := range t.Entries {
		if err := e.validate(); err != nil {
			return image{}, fmt.Errorf("table of %s: entry for peer %d: %w", t.TableKey, e.Peer, err)
		}
	}
	im := image{head: kernelRfTable{Revision: t.Revision}, entries: slices.Clone(t.Entries)}
	slices.SortFunc(im.entries, func(a, b Entry) int { return cmp.Or(a.compare(b), cmp.Compare(a.Rule, b.Rule)) })
	im.entries = slices.CompactFunc(im.entries, func(a, b Entry) bool { return a.compare(b) == 0 })
	if t.Open {
		im.head.Flags |= tableOpen
	}
	if t.UsesCIDRs {
		im.head.Flags |= tableCIDRs
	}
	for _, e := range im.entries {
		if e.Peer == PeerAny {
			im.head.Flags |= tableAnyPeer
		}
		if e.Protocol == 0 {
			im.head.Flags |= tableAnyProto
		} else {
			im.head.Lengths |= 1 << e.PortBits
		}
	}
	im.head.Rules = uint32(len(im.entries)) //nolint:gosec // far below the map's limit, which is checked
	return im, nil
}

// table returns the image as the table of k.
func (im *image) table(k TableKey) Table {
	return Table{
		TableKey:  k,
		Revision:  im.head.Revision,
		Open:      im.head.Flags&tableOpen != 0,
		UsesCIDRs: im.head.Flags&tableCIDRs != 0,
		Entries:   slices.Clone(im.entries),
	}
}

func (im *image) digest() digest {
	b := make([]byte, 0, 16+16*len(im.entries))
	put := func(v uint32) { b = binary.LittleEndian.AppendUint32(b, v) }
	put(im.head.Revision)
	put(im.head.Lengths)
	put(im.head.Flags)
	put(im.head.Rules)
	for _, e := range im.entries {
		put(uint32(e.Peer))
		put(uint32(e.Protocol)<<24 | uint32(e.PortBits)<<16 | uint32(e.Port))
		put(e.Rule)
	}
	return sha256.Sum256(b)
}

func (e Entry) validate() error {
	switch {
	case e.PortBits > 16:
		return fmt.Errorf("port prefix of %d bits", e.PortBits)
	case uint32(e.Port)&(0xffff>>e.PortBits) != 0:
		return fmt.Errorf("port %d is not the start of a range of %d bits", e.Port, 16-e.PortBits)
	case e.Protocol == 0 && e.PortBits != 0:
		return errors.New("a port without a protocol")
	case e.Peer == flow.IdentityUnknown:
		return fmt.Errorf("peer %d", e.Peer)
	}
	return nil
}

// key returns the entry's as one of the kernel's table with this number.
func (e Entry) key(table uint32) kernelRfRuleKey {
	return kernelRfRuleKey{
		Table: table, Peer: uint32(e.Peer), Protocol: uint8(e.Protocol), PortBits: e.PortBits, Port: networkOrder(e.Port),
	}
}

func entryOf(k kernelRfRuleKey, rule uint32) Entry {
	return Entry{
		Peer: flow.Identity(k.Peer), Protocol: flow.Protocol(k.Protocol), Port: networkOrder(k.Port),
		PortBits: k.PortBits, Rule: rule,
	}
}

func networkOrder(port uint16) uint16 { return bits.ReverseBytes16(port) }

func (e Entry) compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.Peer, o.Peer), cmp.Compare(e.Protocol, o.Protocol),
		cmp.Compare(e.Port, o.Port), cmp.Compare(e.PortBits, o.PortBits))
}
