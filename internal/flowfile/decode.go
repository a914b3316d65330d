package flowfile

import (
	"bufio"
	"context"
	"runtime"
	"sync"
)

// A batch is full with so much text or so many lines.
const (
	batchBytes = 1 << 18
	batchLines = 512
)

// batch is some lines of a file, one after the other.
type batch[T any] struct {
	text  []byte
	lines []decoded[T]
	ready chan struct{} // is sent once all lines are decoded
}

// decoded is a line: where its text ends, and what it says or why it says nothing.
type decoded[T any] struct {
	number uint64
	end    int
	value  T
	bad    error
}

// lineReader takes all lines of a file into a set.
type lineReader func(ctx context.Context, name string, in *bufio.Reader) error

// reading returns a reader whose lines are decoded on all CPUs, which is most of
// the work, and taken into s one by one in the file's order: what they add up to
// is the same however many there are.
func reading[T any](s *Set, decode func([]byte) (T, error), take func(*T) error) lineReader {
	return func(ctx context.Context, name string, in *bufio.Reader) error {
		running, stop := context.WithCancel(ctx)
		var reader, decoders sync.WaitGroup
		defer reader.Wait()
		defer stop()

		// Batches are used again: so many bound the memory, whatever the file's size.
		batches := 2 * runtime.GOMAXPROCS(0)
		free, work, inOrder := make(chan *batch[T], batches), make(chan *batch[T], batches), make(chan *batch[T], batches)
		for range batches {
			free <- &batch[T]{ready: make(chan struct{}, 1)}
		}
		for range runtime.GOMAXPROCS(0) {
			decoders.Go(func() {
				for b := range work {
					b.decode(decode)
					b.ready <- struct{}{}
				}
			})
		}
		var unread error
		reader.Go(func() {
			unread = fill(running, in, free, func(b *batch[T]) { work <- b; inOrder <- b })
			close(work)
			close(inOrder)
			decoders.Wait()
		})
		for b := range inOrder {
			<-b.ready
			for i := range b.lines {
				l := &b.lines[i]
				if l.bad == nil {
					l.bad = take(&l.value)
				}
				if err := s.line(ctx, name, l.number, l.bad); err != nil {
					return err
				}
			}
			free <- b
		}
		return unread
	}
}

// fill puts the lines of in into free batches and gives them to next, until ctx
// ends. next never blocks: there is room for all batches that there are.
func fill[T any](ctx context.Context, in *bufio.Reader, free <-chan *batch[T], next func(*batch[T])) error {
	var b *batch[T]
	err := eachLine(in, func(number uint64, text []byte, bad error) error {
		if b == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case b = <-free:
				b.text, b.lines = b.text[:0], b.lines[:0]
			}
		}
		b.text = append(b.text, text...)
		b.lines = append(b.lines, decoded[T]{number: number, end: len(b.text), bad: bad})
		if len(b.text) >= batchBytes || len(b.lines) == batchLines {
			next(b)
			b = nil
		}
		return nil
	})
	if b != nil {
		next(b) // the lines before an error count
	}
	return err
}

func (b *batch[T]) decode(one func([]byte) (T, error)) {
	from := 0
	for i := range b.lines {
		l := &b.lines[i]
		if l.bad == nil {
			l.value, l.bad = one(b.text[from:l.end])
		}
		from = l.end
	}
}
