package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"github.com/ringfence/ringfence/internal/flow"
)

// encoder fills the columns of a block with rows of flows. The driver's own way,
// value by value with a map look-up for each string, takes longer than all else
// that happens to a row; so values are laid out as the native protocol has them
// and the columns read that. Its buffers are used again.
type encoder struct {
	rows   []flow.Labelled
	wire   []byte // of the column under way
	source bytes.Reader
	reader *proto.Reader

	parties []*flow.Party
	numbers map[*flow.Party]uint32 // into parties
	// The party of each row, by its number.
	observer, from, to []uint32

	words []uint32 // of the dictionary, by party or by row
	keys  []uint32
	dict  dictionary
}

func newEncoder() *encoder {
	e := &encoder{numbers: map[*flow.Party]uint32{}}
	e.reader = proto.NewReader(&e.source)
	return e
}

// use takes the rows that the columns are made of.
func (e *encoder) use(rows []flow.Labelled) {
	e.rows = rows
	clear(e.numbers)
	e.parties = e.parties[:0]
	e.observer, e.from, e.to = e.observer[:0], e.from[:0], e.to[:0]
	for i := range rows {
		e.observer = append(e.observer, e.number(rows[i].Observer))
		e.from = append(e.from, e.number(rows[i].Source))
		e.to = append(e.to, e.number(rows[i].Dest))
	}
}

func (e *encoder) number(p *flow.Party) uint32 {
	n, ok := e.numbers[p]
	if !ok {
		n = uint32(len(e.parties)) //nolint:gosec // at most three times the rows of a block
		e.numbers[p] = n
		e.parties = append(e.parties, p)
	}
	return n
}

// fill makes all columns of one block.
func (e *encoder) fill(columns []chcolumn.Interface) error {
	for i, c := range flowColumns {
		e.wire = c.lay(e, e.wire[:0])
		e.source.Reset(e.wire)
		if err := columns[i].Decode(e.reader, len(e.rows)); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return nil
}

// flowColumn is one column of the table flows. lay appends the values of all
// rows in the native protocol's form.
type flowColumn struct {
	name string
	lay  func(e *encoder, wire []byte) []byte
}

// number is a column of fixed width.
func number[V uint8 | uint16 | uint32 | uint64](name string, value func(r *flow.Labelled) V) flowColumn {
	var put func(wire []byte, v V) []byte
	switch any(V(0)).(type) {
	case uint8:
		put = func(wire []byte, v V) []byte { return append(wire, byte(v)) }
	case uint16:
		put = func(wire []byte, v V) []byte { return binary.LittleEndian.AppendUint16(wire, uint16(v)) }
	case uint32:
		put = func(wire []byte, v V) []byte { return binary.LittleEndian.AppendUint32(wire, uint32(v)) }
	default:
		put = func(wire []byte, v V) []byte { return binary.LittleEndian.AppendUint64(wire, uint64(v)) }
	}
	return flowColumn{name: name, lay: func(e *encoder, wire []byte) []byte {
		for i := range e.rows {
			wire = put(wire, value(&e.rows[i]))
		}
		return wire
	}}
}

// moment is a DateTime64(6). A time that it cannot hold becomes the nearest.
func moment(name string, value func(r *flow.Labelled) time.Time) flowColumn {
	return number(name, func(r *flow.Labelled) uint64 {
		return uint64(min(max(value(r).UnixMicro(), earliest.UnixMicro()), latest.UnixMicro()))
	})
}

// address is an IPv6 that holds IPv4 as mapped; no address is ::.
func address(name string, value func(r *flow.Labelled) netip.Addr) flowColumn {
	return flowColumn{name: name, lay: func(e *encoder, wire []byte) []byte {
		for i := range e.rows {
			var b [16]byte
			if a := value(&e.rows[i]); a.IsValid() {
				b = a.As16()
			}
			wire = append(wire, b[:]...)
		}
		return wire
	}}
}

// words is a LowCardinality(String) whose values have small numbers.
func words(name string, value func(r *flow.Labelled) uint8, word func(uint8) string) flowColumn {
	return flowColumn{name: name, lay: func(e *encoder, wire []byte) []byte {
		e.dict.reset()
		var known [math.MaxUint8 + 1]uint32
		e.keys = e.keys[:0]
		for i := range e.rows {
			v := value(&e.rows[i])
			if known[v] == 0 {
				known[v] = e.dict.number(word(v)) + 1
			}
			e.keys = append(e.keys, known[v]-1)
		}
		return e.dict.lay(wire, e.keys)
	}}
}

// name is a LowCardinality(String) that seldom changes from row to row.
func name(column string, value func(r *flow.Labelled) string) flowColumn {
	return flowColumn{name: column, lay: func(e *encoder, wire []byte) []byte {
		e.dict.reset()
		e.keys = e.keys[:0]
		last, key := "", uint32(0)
		for i := range e.rows {
			if v := value(&e.rows[i]); v != last {
				last, key = v, e.dict.number(v)
			}
			e.keys = append(e.keys, key)
		}
		return e.dict.lay(wire, e.keys)
	}}
}

// end says which of a row's parties a column is of.
type end func(e *encoder) []uint32

func observer(e *encoder) []uint32    { return e.observer }
func initiator(e *encoder) []uint32   { return e.from }
func destination(e *encoder) []uint32 { return e.to }

// partyName is a LowCardinality(String) of a party.
func partyName(name string, of end, value func(p *flow.Party) string) flowColumn {
	return flowColumn{name: name, lay: func(e *encoder, wire []byte) []byte {
		e.dict.reset()
		e.words = e.words[:0]
		for _, p := range e.parties {
			e.words = append(e.words, e.dict.number(value(p)))
		}
		e.keys = e.keys[:0]
		for _, n := range of(e) {
			e.keys = append(e.keys, e.words[n])
		}
		return e.dict.lay(wire, e.keys)
	}}
}

// dictionary is that of one LowCardinality(String) column. The empty string is
// its first word.
type dictionary struct {
	numbers map[string]uint32
	list    []string
}

func (d *dictionary) reset() {
	if d.numbers == nil {
		d.numbers = map[string]uint32{}
	}
	clear(d.numbers)
	d.list = append(d.list[:0], "")
	d.numbers[""] = 0
}

func (d *dictionary) number(word string) uint32 {
	n, ok := d.numbers[word]
	if !ok {
		n = uint32(len(d.list)) //nolint:gosec // at most one a row
		d.numbers[word] = n
		d.list = append(d.list, word)
	}
	return n
}

// The form of a LowCardinality column: flags with the width of the keys, the
// dictionary, the keys.
const (
	keysUInt8 = iota
	keysUInt16
	keysUInt32
	hasDictionary = 1<<9 | 1<<10 // of its own, for this block
)

func (d *dictionary) lay(wire []byte, keys []uint32) []byte {
	width := uint64(keysUInt8)
	switch {
	case len(d.list) > math.MaxUint16:
		width = keysUInt32
	case len(d.list) > math.MaxUint8:
		width = keysUInt16
	}
	wire = binary.LittleEndian.AppendUint64(wire, hasDictionary|width)
	wire = binary.LittleEndian.AppendUint64(wire, uint64(len(d.list)))
	for _, w := range d.list {
		wire = binary.AppendUvarint(wire, uint64(len(w)))
		wire = append(wire, w...)
	}
	wire = binary.LittleEndian.AppendUint64(wire, uint64(len(keys)))
	for _, k := range keys {
		switch width {
		case keysUInt8:
			wire = append(wire, byte(k)) //nolint:gosec // the width holds it
		case keysUInt16:
			wire = binary.LittleEndian.AppendUint16(wire, uint16(k)) //nolint:gosec // the width holds it
		default:
			wire = binary.LittleEndian.AppendUint32(wire, k)
		}
	}
	return wire
}
