package bpf

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// formSizes lists how long the messages in the ring are, and takes them.
func (l *lab) formSizes() (sizes []int) {
	l.t.Helper()
	ring := l.r.ring
	for pos := ring.consumed(); pos < ring.produced(); {
		data, next, ok := ring.at(pos)
		if !ok {
			l.t.Fatal("a record is being written")
		}
		sizes, pos = append(sizes, len(data)), next
	}
	l.records()
	return sizes
}

// TestRecordForms checks which form a record has: IPv4's own, unless counters
// were carried.
func TestRecordForms(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 80, "")
		usual := recordSize
		if family == 4 {
			usual = record4Size
		}
		step := func(what string, want ...int) {
			t.Helper()
			l.sweep(6 * time.Second)
			if got := l.formSizes(); !slices.Equal(got, want) {
				t.Errorf("%s: records of %d bytes, want %d", what, got, want)
			}
		}
		l.connect(p)
		step("new and swept", usual, usual)
		for side := range 2 {
			for bytes := range uint32(2) {
				for key, f := range l.table() {
					f.Carried[side].Packets, f.Carried[side].Bytes = 1-bytes, bytes
					if err := putFlow(&l.d.maps, key, f); err != nil {
						t.Fatal(err)
					}
				}
				step("carried", recordSize)
				l.want(pass, p.with("A"), "after")
				step("after", usual)
			}
		}
	})
}

// TestCarriedAnswer checks that an answer is told of whose packets were carried, all
// of them.
func TestCarriedAnswer(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.want(pass, tcp(web.in(family), db.in(family), 40000, 80, "S"), "SYN")
		if r := l.record(); r.Answered {
			t.Errorf("first record: %+v", r)
		}
		for key, f := range l.table() {
			f.Carried[remoteSide].Packets = 1
			if err := putFlow(&l.d.maps, key, f); err != nil {
				t.Fatal(err)
			}
		}
		l.sweep(6 * time.Second)
		if r := l.record(); !r.Answered || r.Reverse.Packets != 1<<23 || r.Forward.Packets != 0 {
			t.Errorf("record: %+v", r)
		}
	})
}

// oneForm is the programs as they were last compiled before layout 3, when all
// records had one form.
func oneForm() (*ebpf.CollectionSpec, error) {
	packed, err := os.Open("testdata/oneform_bpfel.o.gz")
	if err != nil {
		return nil, err
	}
	defer func() { _ = packed.Close() }()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	object, err := io.ReadAll(unpacked)
	if err != nil {
		return nil, err
	}
	return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
}

// TestUpgradeFromOneForm upgrades from layout 2: flows and the ring are the very
// same, and what the programs of then wrote is read beside what these write.
func TestUpgradeFromOneForm(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, func(c *Config) { c.object = oneForm })
		*l.d.gen.settings.word32("layout") = 2
		if _, known := l.d.gen.schema.structs["rf_record4"]; known {
			t.Fatal("the object is not of layout 2")
		}
		open, closed := tcp(web.in(family), db.in(family), 40000, 80, ""), tcp(web.in(family), db.in(family), 40001, 80, "")
		var sent uint64
		send := func(packets ...packet) {
			t.Helper()
			for _, p := range packets {
				l.want(pass, p, "flow")
				sent++
			}
		}
		shake := func(p packet) { t.Helper(); send(p.with("S"), p.reply("SA"), p.with("A")) }
		shake(open)
		shake(closed)
		send(closed.with("R"))
		before, id := maps.Clone(l.d.gen.ids), l.r.RingID()
		noted, err := l.r.take(l.r.ring.produced(), 1<<20)
		if err != nil || len(noted.Records) != 3 || noted.Truncated != 0 {
			t.Fatalf("%+v, error %v", noted, err)
		}
		owed := slices.Clone(noted.Records)
		if err := l.r.Intend(noted.Start, noted.End); err != nil {
			t.Fatal(err)
		}
		l.upgrade(func(c *Config) { c.object = nil })

		delete(before, kernelMapSettings)
		for name, id := range before {
			if l.d.gen.ids[name] != id {
				t.Errorf("map %s was made anew", name)
			}
		}
		if layout := *l.d.gen.settings.word32("layout"); layout != settingsLayout {
			t.Errorf("layout %d after the upgrade", layout)
		}
		send(open.with("A"), open.with("R"))
		last := udp(web.in(family), db.in(family), 40002, 53)
		send(last)
		replay, ok, err := l.r.Replay()
		if err != nil || !ok || replay.End != noted.End || replay.Sum != noted.Sum || l.r.RingID() != id {
			t.Fatalf("replay %+v (%t), error %v; noted %+v", replay, ok, err, noted)
		}
		if diff := cmp.Diff(owed, replay.Records, cmp.Comparer(sameTime), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("replayed records (-noted +replayed):\n%s", diff)
		}
		list := slices.Clone(replay.Records)
		if err := l.r.Commit(replay.End); err != nil {
			t.Fatal(err)
		}
		l.sweep(10 * time.Second)
		list = append(list, l.drainAll()...)
		var sum total
		sum.add(list)
		ends := make(map[uint16]int)
		for _, r := range list {
			if r.Event == flow.EventEnd {
				ends[r.SourcePort]++
			}
		}
		if want := map[uint16]int{40000: 1, 40001: 1, 40002: 1}; !maps.Equal(ends, want) {
			t.Errorf("end records by port %v, want %v", ends, want)
		}
		if sum.packets() != sent || sum.connections != 3 {
			t.Errorf("records of %d packets and %d connections, want %d and 3", sum.packets(), sum.connections, sent)
		}
		if list := l.generations(); len(list) != 1 {
			t.Errorf("generations %v are left", list)
		}
	})
}
