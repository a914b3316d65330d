package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	ringHeader  = 8
	ringBusy    = 1 << 31 // being written
	ringDiscard = 1 << 30
)

// ring is the kernel's ring buffer in this process's memory: a page whose first
// word says how far was read, a page that says how far was written, and the
// data twice in a row, so that no record is torn at the end.
type ring struct {
	size     int
	consumer []byte
	producer []byte // and the data after its first page
}

func mapRing(m *ebpf.Map) (*ring, error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	consumer, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map ring position: %w", err)
	}
	producer, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map ring data: %w", err), unix.Munmap(consumer))
	}
	return &ring{size: size, consumer: consumer, producer: producer}, nil
}

func (r *ring) close() error {
	return errors.Join(unix.Munmap(r.consumer), unix.Munmap(r.producer))
}

func word(b []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(b))) } //nolint:gosec // a page's start

func (r *ring) consumed() uint64      { return atomic.LoadUint64(word(r.consumer)) }
func (r *ring) produced() uint64      { return atomic.LoadUint64(word(r.producer)) }
func (r *ring) setConsumed(to uint64) { atomic.StoreUint64(word(r.consumer), to) }

// at returns the record at pos and the position after it. ok is false while
// the record is being written; data is nil for one that was discarded.
func (r *ring) at(pos uint64) (data []byte, next uint64, ok bool) {
	offset := os.Getpagesize() + int(pos&uint64(r.size-1))                      //nolint:gosec // below size
	header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.producer[offset]))) //nolint:gosec // records are 8-aligned
	if header&ringBusy != 0 {
		return nil, pos, false
	}
	length := int(header &^ (ringBusy | ringDiscard))
	next = pos + uint64((length+ringHeader+7)&^7) //nolint:gosec // a record's length
	if header&ringDiscard != 0 {
		return nil, next, true
	}
	return r.producer[offset+ringHeader : offset+ringHeader+length], next, true
}

// recordForm is one of the structures that a ring's records may be.
type recordForm struct {
	size        int
	translation *translation // to this version's
}

// recordForms lists those of a ring that s describes. Before layout 3 there was
// the long one alone.
func (s *schema) recordForms(own *schema) (forms []recordForm, err error) {
	for _, name := range []string{"rf_record", "rf_record4"} {
		shape, ok := s.structs[name]
		if !ok {
			continue
		}
		t, err := translate(name, shape, own.structs[name])
		if err != nil {
			return nil, err
		}
		forms = append(forms, recordForm{shape.size, t})
	}
	return forms, nil
}

// Reader hands out the ring's records. They stay in the ring, and count against
// its room, until they are committed. After an upgrade it first serves the ring
// of before, and goes on to the next one when everything of it is committed: a
// batch is always of one ring. It must not be used concurrently, but for RingID.
type Reader struct {
	d      *Datapath
	id     atomic.Uint64
	mapID  ebpf.MapID
	ring   *ring
	intent mapping[kernelRfIntent]
	forms  []recordForm
	pos    uint64 // of the first record not yet handed out
	replay Batch  // its range, if one is owed
	epoll  int
	wake   int // eventfd
	buffer []flow.Record
}

// NewReader returns the reader of the ring; there is one at a time. It goes on
// where the last one, of this process or another, committed.
func (d *Datapath) NewReader() (*Reader, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	if d.reading {
		return nil, errors.New("the ring already has a reader")
	}
	r := &Reader{d: d, epoll: -1, wake: -1}
	var err error
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("create eventfd: %w", err), r.release())
	}
	if err := r.open(d.oldestRing()); err != nil {
		return nil, errors.Join(err, r.release())
	}
	start, end := atomic.LoadUint64(&r.intent.value.Start), atomic.LoadUint64(&r.intent.value.End)
	if start == r.pos && end > start && end <= r.ring.produced() {
		r.replay = Batch{Start: start, End: end}
	}
	d.reading = true
	return r, nil
}

// oldestRing returns the generation whose ring is to be read out first.
func (d *Datapath) oldestRing() *generation {
	for _, f := range d.formers {
		if !f.shares(d.gen, kernelMapEvents) {
			return f
		}
	}
	return d.gen
}

// open makes g's ring the one that is read.
func (r *Reader) open(g *generation) (err error) {
	if r.forms, err = g.schema.recordForms(r.d.record); err != nil {
		return fmt.Errorf("read ring: %w", err)
	}
	if !g.schema.holds("rf_intent", r.d.record) {
		return errors.New("ring intent: another version laid it out")
	}
	if r.intent, err = mapValues[kernelRfIntent](g.maps[kernelMapRingIntent]); err != nil {
		return fmt.Errorf("ring intent: %w", err)
	}
	events := g.maps[kernelMapEvents]
	if r.ring, err = mapRing(events); err != nil {
		return err
	}
	r.id.Store(*g.settings.word64("ring_id"))
	r.mapID, r.pos = g.ids[kernelMapEvents], r.ring.consumed()
	return r.openWaiting(events.FD())
}

// advance goes on to the next ring when this one is a former generation's and
// nothing can come from it any more.
func (r *Reader) advance() error {
	if r.ring.consumed() != r.pos || r.ring.produced() != r.pos {
		return nil
	}
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if r.d.closed {
		return errClosed
	}
	if r.mapID == r.d.gen.ids[kernelMapEvents] {
		return nil
	}
	if err := r.d.drainFormers(); err != nil {
		return err
	}
	next := r.d.oldestRing()
	if next.ids[kernelMapEvents] == r.mapID {
		return nil
	}
	if err := r.closeRing(); err != nil {
		return err
	}
	return r.open(next)
}

func (r *Reader) openWaiting(ringFD int) (err error) {
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	for _, w := range []struct {
		fd     int
		events uint32
	}{
		// Edges only: records that wait for their commit keep the ring readable.
		{ringFD, unix.EPOLLIN | unix.EPOLLET},
		{r.wake, unix.EPOLLIN},
	} {
		ev := unix.EpollEvent{Events: w.events, Fd: int32(w.fd)} //nolint:gosec // a file descriptor
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, w.fd, &ev); err != nil {
			return fmt.Errorf("watch ring: %w", err)
		}
	}
	return nil
}

// RingID names the ring over all rings that ever were: with a batch's Start it
// makes a token that no other batch has. It changes only while everything that
// was handed out is committed.
func (r *Reader) RingID() uint64 { return r.id.Load() }

// Replay returns the batch that was intended and never committed, if there is
// one: the same records over the same range. It must come before Next.
func (r *Reader) Replay() (Batch, bool, error) {
	if r.replay.End == 0 {
		return Batch{}, false, nil
	}
	end := r.replay.End
	r.replay = Batch{}
	b, err := r.take(end, int(end-r.pos)) //nolint:gosec // at most the ring's size
	if err == nil && b.End != end {
		err = fmt.Errorf("intended batch ends at %d and not at a record's end, %d", end, b.End)
	}
	return b, err == nil, err
}

// maxBatch bounds what one Next returns.
const maxBatch = 8192

// Next waits for records after those it already returned. It may be called
// again before they are committed: batches then follow each other without a
// gap. When ctx is done it returns an empty batch and ctx's error.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	if r.replay.End != 0 {
		return Batch{}, errors.New("a batch is to be replayed first")
	}
	for {
		b, err := r.take(r.ring.produced(), maxBatch)
		if err != nil || b.End > b.Start {
			return b, err
		}
		ring := r.mapID
		if err := r.advance(); err != nil {
			return Batch{Start: r.pos, End: r.pos}, err
		}
		if r.mapID != ring {
			continue
		}
		if err := ctx.Err(); err != nil {
			return Batch{Start: r.pos, End: r.pos}, err
		}
		if err := r.wait(ctx); err != nil {
			return Batch{Start: r.pos, End: r.pos}, err
		}
	}
}

// take decodes up to n records before end.
func (r *Reader) take(end uint64, n int) (Batch, error) {
	b := Batch{Start: r.pos, End: r.pos, Records: r.buffer[:0]}
	if r.pos == end {
		return b, nil
	}
	clock, err := newClock()
	if err != nil {
		return b, err
	}
	for b.End < end && len(b.Records)+b.Truncated < n {
		data, next, ok := r.ring.at(b.End)
		if !ok {
			break
		}
		if next > end {
			return b, fmt.Errorf("ring record at %d ends at %d, beyond what was written: %d", b.End, next, end)
		}
		b.End = next
		if data == nil {
			continue
		}
		b.Sum += xxhash.Sum64(data)
		raw, err := r.decode(data)
		if err != nil {
			b.Truncated++
			continue
		}
		b.Records = append(b.Records, raw.record(clock))
	}
	r.pos, r.buffer = b.End, b.Records
	return b, nil
}

// decode reads one message of the ring, whichever version wrote it.
func (r *Reader) decode(data []byte) (rawRecord, error) {
	for _, f := range r.forms {
		if len(data) != f.size {
			continue
		}
		data, err := f.translation.apply(data)
		if err != nil {
			return rawRecord{}, err
		}
		return decodeRecord(data)
	}
	return rawRecord{}, fmt.Errorf("record of %d bytes: of no form that the ring has", len(data))
}

// waitLimit is how long a reader that found nothing waits before it looks again.
// The kernel wakes it earlier when a quarter of the ring has been written since
// the last time: waking it for each record would cost every connection more than
// all the rest of the datapath does.
const waitLimit = 100 * time.Millisecond

func (r *Reader) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.interrupt)
	defer stop()
	var events [2]unix.EpollEvent
	_, err := unix.EpollWait(r.epoll, events[:], int(waitLimit.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for the ring: %w", err)
	}
	var count [8]byte
	_, _ = unix.Read(r.wake, count[:]) // empty unless interrupted
	return nil
}

func (r *Reader) interrupt() {
	one := [8]byte{1}
	_, _ = unix.Write(r.wake, one[:]) // full means that it is awake already
}

// Intend notes that [start, end) is about to be stored. The note outlives the
// process as the ring does; it counts until anything is committed.
func (r *Reader) Intend(start, end uint64) error {
	if start != r.ring.consumed() || end <= start || end > r.pos {
		return fmt.Errorf("intend ring range %d to %d: handed out are %d to %d", start, end, r.ring.consumed(), r.pos)
	}
	// In this order a crash in between leaves a range that starts nowhere.
	atomic.StoreUint64(&r.intent.value.End, 0)
	atomic.StoreUint64(&r.intent.value.Start, start)
	atomic.StoreUint64(&r.intent.value.End, end)
	return nil
}

// Commit gives everything before end back to the ring.
func (r *Reader) Commit(end uint64) error {
	if end < r.ring.consumed() || end > r.pos {
		return fmt.Errorf("commit ring up to %d: handed out are %d to %d", end, r.ring.consumed(), r.pos)
	}
	r.ring.setConsumed(end)
	return nil
}

// Close releases the reader. What was not committed is read again by the next.
func (r *Reader) Close() error {
	r.d.mu.Lock()
	r.d.reading = false
	r.d.mu.Unlock()
	return r.release()
}

func (r *Reader) release() error {
	err := r.closeRing()
	if r.wake >= 0 {
		err = errors.Join(err, unix.Close(r.wake))
	}
	return err
}

func (r *Reader) closeRing() error {
	var errs []error
	if r.epoll >= 0 {
		errs = append(errs, unix.Close(r.epoll))
		r.epoll = -1
	}
	errs = append(errs, r.intent.close())
	if r.ring != nil {
		errs = append(errs, r.ring.close())
		r.ring = nil
	}
	return errors.Join(errs...)
}
