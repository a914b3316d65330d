package spool

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Token names a batch over all that ever were: the same records are the same
// token, whoever reads them, and whoever they are attributed to. Two batches of
// one ring are the same or have no part of it in common.
type Token struct {
	Node string
	// Ring is the ring's number, and Start and End the part of it that the batch
	// is of.
	Ring, Start, End uint64
	// Sum is that of the records' hashes.
	Sum uint64
}

func (t Token) String() string {
	return fmt.Sprintf("%s/%x/%d-%d/%016x", t.Node, t.Ring, t.Start, t.End, t.Sum)
}

// ParseToken reads what String writes, and nothing else.
func ParseToken(s string) (Token, error) {
	var t Token
	parts := strings.Split(s, "/")
	if n := len(parts); n >= 4 { // a node's name may have a slash
		t.Node = strings.Join(parts[:n-3], "/")
		start, end, _ := strings.Cut(parts[n-2], "-")
		var errs [4]error
		t.Ring, errs[0] = strconv.ParseUint(parts[n-3], 16, 64)
		t.Start, errs[1] = strconv.ParseUint(start, 10, 64)
		t.End, errs[2] = strconv.ParseUint(end, 10, 64)
		t.Sum, errs[3] = strconv.ParseUint(parts[n-1], 16, 64)
		if errors.Join(errs[:]...) == nil && t.String() == s && t.Node != "" && t.Start < t.End {
			return t, nil
		}
	}
	return Token{}, fmt.Errorf("token %q: want NODE/RING/START-END/SUM, with START below END", s)
}
