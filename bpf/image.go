package bpf

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

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
	head  kernelRfTable
	rules []rule // in order, each node once
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
	im := image{rules: rulesOf(Normalize(t.Entries))}
	im.head = headOf(im.rules)
	im.head.Revision = t.Revision
	if t.Open {
		im.head.Flags |= tableOpen
	}
	if t.UsesCIDRs {
		im.head.Flags |= tableCIDRs
	}
	return im, nil
}

// table returns the image as the table of k.
func (im *image) table(k TableKey) Table {
	return Table{
		TableKey:  k,
		Revision:  im.head.Revision,
		Open:      im.head.Flags&tableOpen != 0,
		UsesCIDRs: im.head.Flags&tableCIDRs != 0,
		Entries:   entriesOf(im.head, im.rules),
	}
}

func (im *image) digest() digest {
	b := make([]byte, 0, 16+16*len(im.rules))
	for _, v := range []uint32{im.head.Revision, im.head.Levels, im.head.Flags, im.head.Rules} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	for _, r := range im.rules {
		b = binary.LittleEndian.AppendUint32(b, uint32(r.peer))
		b = binary.LittleEndian.AppendUint32(b, uint32(r.protocol)<<16|uint32(r.node))
		b = binary.LittleEndian.AppendUint64(b, r.ports)
	}
	return sha256.Sum256(b)
}

func (e Entry) validate() error {
	switch {
	case e.First > e.Last:
		return fmt.Errorf("ports from %d to %d: none", e.First, e.Last)
	case e.Protocol == 0 && e.Last != 0:
		return errors.New("a port without a protocol")
	case e.Peer == flow.IdentityUnknown:
		return fmt.Errorf("peer %d", e.Peer)
	}
	return nil
}

func networkOrder(port uint16) uint16 { return bits.ReverseBytes16(port) }
