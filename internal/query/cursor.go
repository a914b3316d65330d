package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// Cursor is a place between two records in the order of a Filter: by time, then
// by ID, the newest first. It stays where it is when records arrive.
type Cursor struct {
	Time time.Time // of the last record before the place
	ID   uint64    // its ID
	// Same counts the records before the place that equal the last one in
	// everything.
	Same uint32
	// Since and Until are the bounds of the first page: those of a filter may
	// depend on when it was read.
	Since, Until time.Time
}

// IsZero reports whether c is the place before the first record.
func (c Cursor) IsZero() bool { return c == Cursor{} }

const (
	cursorVersion = 1
	cursorSize    = 1 + 8 + 8 + 4 + 8 + 8 + 8
)

var errCursor = errors.New("the cursor is damaged or of another version: begin at the first page again")

// Text returns the cursor of f in a form that says nothing to its reader.
func (c Cursor) Text(f Filter) string {
	b := make([]byte, 0, cursorSize+crc32.Size)
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, micros(c.Time))
	b = binary.BigEndian.AppendUint64(b, c.ID)
	b = binary.BigEndian.AppendUint32(b, c.Same)
	b = binary.BigEndian.AppendUint64(b, micros(c.Since))
	b = binary.BigEndian.AppendUint64(b, micros(c.Until))
	b = append(b, digest(f)...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads a cursor's text. It must be one of the same conditions.
func ParseCursor(text string, f Filter) (Cursor, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != cursorSize+crc32.Size || b[0] != cursorVersion ||
		binary.BigEndian.Uint32(b[cursorSize:]) != crc32.ChecksumIEEE(b[:cursorSize]) {
		return Cursor{}, errCursor
	}
	if string(b[cursorSize-8:cursorSize]) != string(digest(f)) {
		return Cursor{}, errors.New("the cursor belongs to another filter: begin at the first page again")
	}
	return Cursor{
		Time: fromMicros(b[1:]), ID: binary.BigEndian.Uint64(b[9:]), Same: binary.BigEndian.Uint32(b[17:]),
		Since: fromMicros(b[21:]), Until: fromMicros(b[29:]),
	}, nil
}

func digest(f Filter) []byte {
	sum := sha256.Sum256([]byte(Filter{Terms: f.Terms}.String()))
	return sum[:8]
}

// noTime stands for the zero time, which has no such number.
const noTime = 1 << 63

func micros(t time.Time) uint64 {
	if t.IsZero() {
		return noTime
	}
	return uint64(t.UnixMicro())
}

func fromMicros(b []byte) time.Time {
	n := binary.BigEndian.Uint64(b)
	if n == noTime {
		return time.Time{}
	}
	return time.UnixMicro(int64(n)).UTC() //nolint:gosec // the bits are kept
}
