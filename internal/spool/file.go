package spool

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// file is what a batch's name says of it, and its size.
type file struct {
	number     uint64
	records    uint64
	start, end time.Time
	doubt      bool
	bytes      int64
}

func (f file) name() string {
	doubt := ""
	if f.doubt {
		doubt = "-doubt"
	}
	return fmt.Sprintf("%d-%d-%d-%d%s.batch", f.number, f.records, micro(f.start), micro(f.end), doubt)
}

// micro returns t in microseconds, which a name can hold: not before 1970.
func micro(t time.Time) int64 { return max(0, t.UnixMicro()) }

var namePattern = regexp.MustCompile(`^(\d{1,18})-(\d{1,18})-(\d{1,18})-(\d{1,18})(-doubt)?\.batch$`)

func parseName(name string) (file, bool) {
	m := namePattern.FindStringSubmatch(name)
	if m == nil {
		return file{}, false
	}
	var n [4]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(m[1+i], 10, 64) // 18 digits always fit
	}
	return file{
		number: uint64(n[0]), records: uint64(n[1]), //nolint:gosec // no sign in the pattern
		start: time.UnixMicro(n[2]).UTC(), end: time.UnixMicro(n[3]).UTC(), doubt: m[5] != "",
	}, true
}
