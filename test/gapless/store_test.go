package gapless

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// tally is what records of an endpoint and an outcome add up to.
type tally struct {
	Endpoint uint32
	Family   int
	Outcome  flow.Outcome

	Connections, Packets, Bytes uint64
}

// stored is a line of the store: a batch, named by its place in its ring.
type stored struct {
	Ring       uint64
	Start, End uint64
	Tallies    []tally
}

// store moves records from the ring to a file until no flow is left: it notes
// the batch, stores it, and only then gives it back.
func (o *orders) store(ctx context.Context, d *bpf.Datapath, n *notes) error {
	f, err := os.OpenFile(o.Store, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r, err := d.NewReader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	again, owed, err := r.Replay()
	if err != nil {
		return err
	}
	if owed {
		if err := put(f, r, again); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		stats, err := d.Sweep(ctx)
		if err != nil {
			return err
		}
		n.Sweeps.Add(1)
		soon, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		b, err := r.Next(soon)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if b.End == b.Start {
			if stats.Flows == 0 {
				return nil
			}
			continue
		}
		n.Records.Add(uint64(len(b.Records)))
		if err := put(f, r, b); err != nil {
			return err
		}
	}
	return nil
}

// put stores one batch, in one write.
func put(f *os.File, r *bpf.Reader, b bpf.Batch) error {
	if b.Truncated > 0 {
		return fmt.Errorf("%d records cannot be read", b.Truncated)
	}
	if err := r.Intend(b.Start, b.End); err != nil {
		return err
	}
	line, err := json.Marshal(stored{Ring: r.RingID(), Start: b.Start, End: b.End, Tallies: add(nil, tallies(b.Records)...)})
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	time.Sleep(3 * time.Millisecond) // for the store's answer: a kill may come before it
	return r.Commit(b.End)
}

// tallies tells records of the test's frames from those of others'.
func tallies(records []flow.Record) (list []tally) {
	for _, r := range records {
		if r.Protocol != flow.TCP && r.Protocol != flow.UDP || r.DestinationPort < open || r.DestinationPort > shutThere {
			continue
		}
		t := tally{
			Endpoint: r.Endpoint, Family: 4, Outcome: r.Outcome, Connections: uint64(r.Connections),
			Packets: r.Forward.Packets + r.Reverse.Packets, Bytes: r.Forward.Bytes + r.Reverse.Bytes,
		}
		if r.Source.Is6() {
			t.Family = 6
		}
		list = append(list, t)
	}
	return list
}

// add adds more to the tallies of their kind, in the order of their kinds.
func add(list []tally, more ...tally) []tally {
	for _, t := range more {
		if t.Connections+t.Packets == 0 {
			continue
		}
		i, found := slices.BinarySearchFunc(list, t, func(a, b tally) int {
			return slices.Compare(
				[]int{int(a.Endpoint), a.Family, int(a.Outcome)}, []int{int(b.Endpoint), b.Family, int(b.Outcome)})
		})
		if !found {
			list = slices.Insert(list, i, tally{Endpoint: t.Endpoint, Family: t.Family, Outcome: t.Outcome})
		}
		list[i].Connections += t.Connections
		list[i].Packets += t.Packets
		list[i].Bytes += t.Bytes
	}
	return list
}

// readStore adds up what is stored. A batch that was stored twice is the same
// both times, and counts once; between batches nothing is missing.
func readStore(t *testing.T, path string) (list []tally, batches, twice int) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var last stored
	for lines.Scan() {
		var b stored
		must(t, json.Unmarshal(lines.Bytes(), &b))
		switch {
		case reflect.DeepEqual(b, last):
			twice++
			continue
		case batches > 0 && b.Ring == last.Ring && b.Start != last.End:
			t.Errorf("batch from %d to %d follows one that ends at %d", b.Start, b.End, last.End)
		}
		list = add(list, b.Tallies...)
		last = b
		batches++
	}
	must(t, lines.Err())
	return list, batches, twice
}
