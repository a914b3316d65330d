package flowfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ringfence/ringfence/internal/policy"
)

// Formats of flow files.
const (
	Hubble    = "hubble"    // JSON lines of `hubble observe -o jsonpb` or `-o json`
	Ringfence = "ringfence" // what `ringfence flows -o json` prints
)

// Formats are all of them.
var Formats = []string{Hubble, Ringfence}

// Config says what of which files is read. Zero numbers get the defaults.
type Config struct {
	Format string // one of Formats
	// Since and Until bound the flows' times, Until not included. Zero bounds
	// nothing.
	Since, Until time.Time
	// Guardrails hold for all workloads of the files, which have none themselves.
	Guardrails []policy.Guardrail
	// MaxEdges and MaxEndpoints bound what is kept; more is a *LimitError.
	// Defaults 1,000,000 and 500,000.
	MaxEdges, MaxEndpoints int
	// MaxConnections is how many connections are followed at once, twice.
	// Default 262,144.
	MaxConnections int
	// Progress hears from time to time how many lines were read.
	Progress func(lines uint64)
}

// Validate reports every setting that makes no sense.
func (c Config) Validate() error {
	var errs []error
	if !slices.Contains(Formats, c.Format) {
		errs = append(errs, fmt.Errorf("format %q: want one of %s", c.Format, strings.Join(Formats, ", ")))
	}
	if !c.Since.IsZero() && !c.Until.IsZero() && !c.Until.After(c.Since) {
		errs = append(errs, fmt.Errorf("the time ends at %s, which is not after its start at %s", c.Until.Format(time.RFC3339), c.Since.Format(time.RFC3339)))
	}
	if c.MaxEdges < 0 || c.MaxEndpoints < 0 || c.MaxConnections < 0 {
		errs = append(errs, errors.New("a bound is negative; want a positive number"))
	}
	return errors.Join(errs...)
}

// maxLine bounds one line, in bytes.
const maxLine = 1 << 20

// progressEvery is how many lines lie between two calls of Progress.
const progressEvery = 1 << 16

// Read adds up the flows of files, of which "-" is stdin. Files may be compressed
// by gzip or zstd. Lines that are no flows are counted; an unreadable file, and
// more than is kept, are errors.
func Read(ctx context.Context, cfg Config, files []string, stdin io.Reader) (*Set, error) {
	for _, d := range []struct {
		value *int
		def   int
	}{{&cfg.MaxEdges, 1_000_000}, {&cfg.MaxEndpoints, 500_000}, {&cfg.MaxConnections, maxConnections}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := newSet(cfg)
	lines := reading(s, decodeOwn, (&own{s}).take)
	if cfg.Format == Hubble {
		lines = reading(s, decodeHubble, (&hubble{s, map[string]*party{}}).take)
	}
	for _, name := range files {
		if err := file(ctx, name, stdin, lines); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	s.finish()
	return s, nil
}

func file(ctx context.Context, name string, stdin io.Reader, lines lineReader) error {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			if pathErr, ok := errors.AsType[*os.PathError](err); ok {
				return pathErr.Err
			}
			return err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	plain, end, err := decompress(bufio.NewReaderSize(in, 1<<18))
	if err != nil {
		return err
	}
	defer end()
	return lines(ctx, name, plain)
}

// decompress tells by the first bytes what in is.
func decompress(in *bufio.Reader) (*bufio.Reader, func(), error) {
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(z, 1<<18), func() {}, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxMemory(1<<28), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(z, 1<<18), z.Close, nil
	}
	return in, func() {}, nil
}

// eachLine gives every line that is not empty to one, with its number, or the
// error that it is. A list, as `ringfence flows -o json` prints it, counts its
// elements as lines. The text is valid until one returns; its error ends it.
func eachLine(in *bufio.Reader, one func(number uint64, text []byte, bad error) error) error {
	listed, empty, err := isList(in)
	if err != nil {
		return err
	}
	if listed {
		return eachElement(in, one)
	}
	for number := empty + 1; ; number++ {
		text, err := nextLine(in)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLong) {
			return err
		}
		var bad error
		if errors.Is(err, errLong) {
			bad = errLong
		}
		if text = bytes.TrimSpace(text); len(text) > 0 || bad != nil {
			if stop := one(number, text, bad); stop != nil {
				return stop
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
}

// line counts a line that was taken in, or not.
func (s *Set) line(ctx context.Context, name string, number uint64, err error) error {
	s.Summary.Lines++
	if tooMuch, ok := errors.AsType[*LimitError](err); ok {
		return tooMuch
	}
	if err != nil {
		s.bad(name, number, err)
	}
	if s.Summary.Lines%progressEvery == 0 {
		if s.cfg.Progress != nil {
			s.cfg.Progress(s.Summary.Lines)
		}
		return ctx.Err()
	}
	return nil
}

var errLong = fmt.Errorf("it is longer than %d bytes", maxLine)

// nextLine returns the next line, valid until the next call. io.EOF comes with
// the last one; of a line that is too long nothing is returned.
func nextLine(in *bufio.Reader) ([]byte, error) {
	text, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return text, err
	}
	whole := bytes.Clone(text)
	for errors.Is(err, bufio.ErrBufferFull) {
		text, err = in.ReadSlice('\n')
		if len(whole) <= maxLine {
			whole = append(whole, text...)
		}
	}
	if len(whole) > maxLine && (err == nil || errors.Is(err, io.EOF)) {
		return nil, errLong
	}
	return whole, err
}
