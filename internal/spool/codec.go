package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// format begins every batch, and former is the one before, of one node's rows:
// a batch waits for hours, so what an upgrade finds it must read. Any other is
// refused.
const (
	former = 1
	format = 2
)

var little = binary.LittleEndian

// Encode appends b to out: its token, each party once, and the rows, those of
// one node after another under its name. The time that b is of is not in it.
func Encode(out []byte, b Batch) []byte {
	out = append(out, format)
	out = text(out, b.Token)
	var parties []*flow.Party
	index := map[*flow.Party]uint64{}
	equal := map[flow.Party]uint64{} // batches that became one have parties in common
	for i := range b.Rows {
		for _, p := range [...]*flow.Party{b.Rows[i].Observer, b.Rows[i].Source, b.Rows[i].Dest} {
			if _, known := index[p]; known {
				continue
			}
			n, known := equal[*p]
			if !known {
				n = uint64(len(parties))
				equal[*p] = n
				parties = append(parties, p)
			}
			index[p] = n
		}
	}
	out = binary.AppendUvarint(out, uint64(len(parties)))
	for _, p := range parties {
		for _, s := range [...]string{p.Workload.Namespace, p.Workload.Kind, p.Workload.Name, p.Reserved, p.Endpoint, p.Labels} {
			out = text(out, s)
		}
		out = binary.AppendUvarint(out, uint64(p.Identity))
	}
	out = binary.AppendUvarint(out, uint64(len(b.Rows)))
	left := 0 // rows of the same node
	for i := range b.Rows {
		r := &b.Rows[i]
		if left == 0 {
			left = run(b.Rows[i:])
			out = text(out, r.Node)
			out = binary.AppendUvarint(out, uint64(left)) //nolint:gosec // at least one
		}
		left--
		out = record(out, &r.Record)
		for _, p := range [...]*flow.Party{r.Observer, r.Source, r.Dest} {
			out = binary.AppendUvarint(out, index[p])
		}
	}
	return out
}

// run returns how many rows are of the first one's node, up to another's.
func run(rows []flow.Labelled) int {
	n := 1
	for n < len(rows) && rows[n].Node == rows[0].Node {
		n++
	}
	return n
}

func text(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

func record(out []byte, r *flow.Record) []byte {
	src, dst := r.Source.As16(), r.Destination.As16()
	out = append(append(out, src[:]...), dst[:]...)
	out = little.AppendUint16(little.AppendUint16(out, r.SourcePort), r.DestinationPort)
	out = append(out, byte(r.Protocol), byte(r.Event), byte(r.Direction), byte(r.Outcome), r.ForwardFlags, r.ReverseFlags,
		byte(r.Live.Verdict), byte(r.Live.Reason), byte(r.Staged.Verdict), byte(r.Staged.Reason),
		mark(r.Answered, 1)|mark(r.LiveNew, 2)|mark(r.StagedNew, 4))
	out = little.AppendUint64(out, uint64(r.Time.UnixNano()))
	out = binary.AppendVarint(out, r.Time.Sub(r.FirstSeen).Nanoseconds()) // small
	for _, n := range [...]uint64{
		uint64(r.Endpoint), uint64(r.Connections), r.Forward.Packets, r.Forward.Bytes, r.Reverse.Packets, r.Reverse.Bytes,
		uint64(r.Live.Revision), uint64(r.Staged.Revision),
	} {
		out = binary.AppendUvarint(out, n)
	}
	return out
}

func mark(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

var errShort = errors.New("it ends too early")

// Decode reads what Encode wrote, of this version or the one before. Anything
// else is an error.
func Decode(raw []byte) (Batch, error) {
	in := input{rest: raw}
	f := in.bytes(1)
	if in.err == nil && f[0] != format && f[0] != former {
		return Batch{}, fmt.Errorf("format %d is not known: it was written by another version", f[0])
	}
	b := Batch{Token: in.text()}
	node, single := "", in.err == nil && f[0] == former
	if single {
		node = in.text()
	}
	parties := make([]*flow.Party, in.count(7))
	for i := range parties {
		parties[i] = in.party()
	}
	b.Rows = make([]flow.Labelled, in.count(minRow))
	left := uint64(0) // rows of the same node
	if single {
		left = uint64(len(b.Rows))
	}
	for i := range b.Rows {
		if left == 0 {
			node, left = in.text(), in.run()
		}
		left--
		b.Rows[i] = flow.Labelled{Record: in.record(), Node: node, Observer: in.one(parties), Source: in.one(parties), Dest: in.one(parties)}
	}
	if in.err == nil && left > 0 {
		in.err = errShort
	}
	if in.err == nil && len(in.rest) > 0 {
		in.err = errors.New("it goes on after its end")
	}
	if in.err != nil {
		return Batch{}, in.err
	}
	return b, nil
}

// input is what is left to decode. After an error everything is zero.
type input struct {
	rest []byte
	err  error
}

// fixed is the part of a row that always has the same length, minRow the least
// that a row has.
const (
	fixed  = 16 + 16 + 2 + 2 + 11 + 8
	minRow = fixed + 1 + 8 + 3
)

func (in *input) bytes(n uint64) []byte {
	if in.err == nil && n > uint64(len(in.rest)) {
		in.err = errShort
	}
	if in.err != nil {
		return nil
	}
	out := in.rest[:n]
	in.rest = in.rest[n:]
	return out
}

func (in *input) number() uint64 {
	v, n := binary.Uvarint(in.rest)
	if n <= 0 && in.err == nil {
		in.err = errShort
	}
	if in.err != nil {
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

func (in *input) number32() uint32 {
	v := in.number()
	if v>>32 != 0 && in.err == nil {
		in.err = fmt.Errorf("number %d is too large", v)
	}
	return uint32(v) //nolint:gosec // checked
}

// count reads how many things follow, of at least so many bytes each.
func (in *input) count(least uint64) uint64 {
	n := in.number()
	if in.err == nil && n > uint64(len(in.rest))/least {
		in.err = errShort
	}
	if in.err != nil {
		return 0
	}
	return n
}

// run reads how many rows a node has, which is at least one.
func (in *input) run() uint64 {
	n := in.number()
	if n == 0 && in.err == nil {
		in.err = errors.New("a node has no rows")
	}
	return max(n, 1)
}

func (in *input) text() string { return string(in.bytes(in.number())) }

func (in *input) party() *flow.Party {
	return &flow.Party{
		Workload: flow.Workload{Namespace: in.text(), Kind: in.text(), Name: in.text()},
		Reserved: in.text(), Endpoint: in.text(), Labels: in.text(), Identity: flow.Identity(in.number32()),
	}
}

func (in *input) one(parties []*flow.Party) *flow.Party {
	i := in.number()
	if in.err == nil && i >= uint64(len(parties)) {
		in.err = fmt.Errorf("there is no party %d", i)
	}
	if in.err != nil {
		return flow.Nobody
	}
	return parties[i]
}

func (in *input) record() flow.Record {
	b := in.bytes(fixed)
	if in.err != nil {
		return flow.Record{}
	}
	r := flow.Record{
		Key: flow.Key{
			Source: address(b[:16]), Destination: address(b[16:32]),
			SourcePort: little.Uint16(b[32:]), DestinationPort: little.Uint16(b[34:]), Protocol: flow.Protocol(b[36]),
		},
		Event: flow.Event(b[37]), Direction: flow.Direction(b[38]), Outcome: flow.Outcome(b[39]),
		ForwardFlags: b[40], ReverseFlags: b[41],
		Live:     flow.Judgement{Verdict: flow.Verdict(b[42]), Reason: flow.Reason(b[43])},
		Staged:   flow.Judgement{Verdict: flow.Verdict(b[44]), Reason: flow.Reason(b[45])},
		Answered: b[46]&1 != 0, LiveNew: b[46]&2 != 0, StagedNew: b[46]&4 != 0,
		Time: time.Unix(0, int64(little.Uint64(b[47:]))).UTC(), //nolint:gosec // as it was written
	}
	age, n := binary.Varint(in.rest)
	if n <= 0 {
		in.err = errShort
		return flow.Record{}
	}
	in.rest = in.rest[n:]
	r.FirstSeen = r.Time.Add(-time.Duration(age))
	r.Endpoint, r.Connections = in.number32(), in.number32()
	r.Forward = flow.Counters{Packets: in.number(), Bytes: in.number()}
	r.Reverse = flow.Counters{Packets: in.number(), Bytes: in.number()}
	r.Live.Revision, r.Staged.Revision = in.number32(), in.number32()
	return r
}

func address(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)).Unmap() }
