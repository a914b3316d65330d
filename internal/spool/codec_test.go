package spool

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// fill sets every field under v to something, so that one which the file format
// forgets is noticed.
func fill(v reflect.Value, r *rand.Rand) {
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		var b [16]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		*x = netip.AddrFrom16(b)
		if r.IntN(2) == 0 {
			*x = netip.AddrFrom4([4]byte(b[:4]))
		}
		return
	case *netip.Prefix: // of edges only
		return
	case *time.Time:
		*x = time.Unix(0, r.Int64N(1<<61)).UTC()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8:
		v.SetUint(r.Uint64() >> 56)
	case reflect.Uint16:
		v.SetUint(r.Uint64() >> 48)
	case reflect.Uint32:
		v.SetUint(r.Uint64() >> (32 + r.IntN(32)))
	case reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(64))
	case reflect.String:
		v.SetString(string([]byte{byte(r.IntN(256)), 'x', 0}[:r.IntN(4)]))
	default:
		panic(v.Type().String())
	}
}

func random(seed uint64, n int) Batch {
	r := rand.New(rand.NewPCG(seed, 1))
	parties := make([]*flow.Party, 5)
	for i := range parties {
		parties[i] = &flow.Party{}
		fill(reflect.ValueOf(parties[i]).Elem(), r)
		parties[i].Address = netip.Addr{} // of edges only
	}
	one := func() *flow.Party { return parties[r.IntN(len(parties))] }
	b := Batch{Token: "node-1/abc/0-80/1", Start: time.Unix(1000, 0).UTC(), End: time.Unix(2000, 5000).UTC()}
	for range n {
		row := flow.Labelled{Node: "node-1", Observer: one(), Source: one(), Dest: one()}
		fill(reflect.ValueOf(&row.Record).Elem(), r)
		row.FirstSeen = row.Time.Add(-time.Duration(r.Int64N(1e15)))
		b.Rows = append(b.Rows, row)
	}
	return b
}

var comparing = []cmp.Option{
	cmp.AllowUnexported(Batch{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(200) {
		want := random(seed, int(seed%7))
		got, err := Decode(Encode(nil, want))
		if err != nil {
			t.Fatal(err)
		}
		want.Start, want.End = time.Time{}, time.Time{} // the name has them
		if len(want.Rows) == 0 {
			want.Rows = []flow.Labelled{}
		}
		if diff := cmp.Diff(want, got, comparing...); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

// Rows share their parties again, also those that had equal ones each of its own.
func TestPartiesAreShared(t *testing.T) {
	rows := random(1, 1000)
	for i := range rows.Rows {
		own := *rows.Rows[i].Source
		rows.Rows[i].Source = &own
	}
	b, err := Decode(Encode(nil, rows))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[*flow.Party]bool{}
	for _, r := range b.Rows {
		seen[r.Observer], seen[r.Source], seen[r.Dest] = true, true, true
	}
	if len(seen) != 5 {
		t.Errorf("%d parties", len(seen))
	}
}

// A batch cut anywhere is refused, and so is one that goes on.
func TestDecodeIsWhole(t *testing.T) {
	raw := Encode(nil, random(3, 4))
	for n := range raw {
		if _, err := Decode(raw[:n]); err == nil {
			t.Fatalf("%d of %d bytes are a batch", n, len(raw))
		}
	}
	if _, err := Decode(append(raw, 0)); err == nil {
		t.Error("one byte more is a batch")
	}
	for _, other := range []byte{0, former, format + 1} {
		if _, err := Decode(append([]byte{other}, raw[1:]...)); err == nil {
			t.Errorf("format %d is taken for this one", other)
		}
	}
}

// ofNodes are rows of several nodes, each some in a row.
func ofNodes(seed uint64, runs ...int) Batch {
	b := random(seed, 0)
	for i, n := range runs {
		more := random(seed+uint64(i), n)
		for j := range more.Rows {
			more.Rows[j].Node = fmt.Sprint("node-", i%3)
		}
		b.Rows = append(b.Rows, more.Rows...)
	}
	return b
}

func TestRowsOfManyNodes(t *testing.T) {
	for _, runs := range [][]int{{1, 1}, {3, 2, 1, 4, 4}, {1000, 1, 1, 70}} {
		want := ofNodes(1, runs...)
		raw := Encode(nil, want)
		got, err := Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		want.Start, want.End = time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got, comparing...); diff != "" {
			t.Fatalf("%v: %s", runs, diff)
		}
		if len(raw) > 3000 {
			continue
		}
		for n := range raw {
			if _, err := Decode(raw[:n]); err == nil {
				t.Fatalf("%v: %d of %d bytes are a batch", runs, n, len(raw))
			}
		}
	}
}

// A node has as many rows as it says, and at least one.
func TestRowsOfANode(t *testing.T) {
	raw := Encode(nil, ofNodes(1, 1, 2))
	for i, name := range []string{"node-0", "node-1"} {
		at := bytes.LastIndex(raw, []byte(name)) + len(name)
		if int(raw[at]) != i+1 {
			t.Fatalf("%s has %d rows", name, raw[at])
		}
		for n := range byte(4) {
			other := slices.Clone(raw)
			other[at] = n
			if _, err := Decode(other); err == nil && int(n) != i+1 {
				t.Errorf("%s may have %d rows", name, n)
			}
		}
	}
}

// What the version before wrote is read: testdata/format1.batch is what its
// encoder made of random(7, 9).
func TestFormer(t *testing.T) {
	raw, err := os.ReadFile("testdata/format1.batch")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := random(7, 9)
	want.Start, want.End = time.Time{}, time.Time{}
	if diff := cmp.Diff(want, got, comparing...); diff != "" {
		t.Error(diff)
	}
	for n := range raw {
		if _, err := Decode(raw[:n]); err == nil {
			t.Fatalf("%d of %d bytes are a batch", n, len(raw))
		}
	}
	if _, err := Decode(append(raw, 0)); err == nil {
		t.Error("one byte more is a batch")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil, random(1, 0)))
	f.Add(Encode(nil, random(2, 3)))
	f.Add(Encode(nil, ofNodes(3, 1, 2, 1)))
	f.Add([]byte{format, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{former, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff})
	if raw, err := os.ReadFile("testdata/format1.batch"); err == nil {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := Decode(raw)
		if err != nil {
			return
		}
		again, err := Decode(Encode(nil, b))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, again, comparing...); diff != "" {
			t.Error(diff)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	batch := random(1, 20_000)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = Encode(out[:0], batch)
	}
	b.ReportMetric(float64(len(out))/20_000, "bytes/record")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/record")
}
