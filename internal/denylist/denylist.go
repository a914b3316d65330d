// Package denylist reads files of denied sources: one prefix or address a line.
//
// Everything from a # or a ; on is a comment, and blank lines mean nothing, so
// the lists that Spamhaus and others publish are read as they are. A file is
// taken whole or refused whole.
package denylist

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	// MaxEntries bounds one file's prefixes, and all of a node's together.
	MaxEntries = 1_000_000
	// MaxFileSize bounds a file, in bytes: 1,000,000 of the longest prefixes
	// with a short comment each.
	MaxFileSize = 96 << 20

	maxShown = 60 // bytes of a bad line that an error shows
)

// Error says what is wrong with a file. Its message is one line.
type Error struct {
	File   string // empty when the list is not from a file
	Line   int    // counts from 1; 0 when it is the file as a whole
	Reason string // what is wrong and what to do
}

func (e *Error) Error() string {
	at := "deny list"
	if e.File != "" {
		at += fmt.Sprintf(" %s", e.File)
	}
	if e.Line > 0 {
		at += fmt.Sprintf(": line %d", e.Line)
	}
	return at + ": " + e.Reason
}

// Load reads the file at path. A file without an entry is refused unless empty
// is allowed: a list is emptied by accident more often than on purpose.
func Load(path string, allowEmpty bool) ([]netip.Prefix, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("deny list: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{path, 0, "not a regular file"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("deny list: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	src, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read deny list %s: %w", path, err)
	}
	list, err := Parse(src, allowEmpty)
	if e, ok := errors.AsType[*Error](err); ok {
		e.File = path
	}
	return list, err
}

// Parse reads a whole file. It returns each prefix once, in ascending order.
// Every error it returns is an *Error.
func Parse(src []byte, allowEmpty bool) ([]netip.Prefix, error) {
	if len(src) > MaxFileSize {
		return nil, &Error{Reason: fmt.Sprintf("larger than %d MiB: split it", MaxFileSize>>20)}
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	list := make([]netip.Prefix, 0, min(MaxEntries, len(src)/16))
	line := 0
	for text := range bytes.Lines(src) {
		line++
		if i := bytes.IndexAny(text, "#;"); i >= 0 {
			text = text[:i]
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		p, reason := entry(text)
		if reason != "" {
			return nil, &Error{Line: line, Reason: reason}
		}
		if len(list) == MaxEntries {
			return nil, &Error{Line: line, Reason: fmt.Sprintf("more than %d entries: a node has room for that many in all its lists", MaxEntries)}
		}
		list = append(list, p)
	}
	if len(list) == 0 && !allowEmpty {
		return nil, &Error{Reason: "has no entry: set allowEmpty if that is meant"}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list), nil
}

// entry reads one line's prefix, or says why not.
func entry(text []byte) (netip.Prefix, string) {
	if len(text) > maxShown {
		return netip.Prefix{}, fmt.Sprintf("%q… is no address or prefix: want one a line", text[:maxShown])
	}
	s := string(text)
	var p netip.Prefix
	if strings.ContainsRune(s, '/') {
		var err error
		if p, err = netip.ParsePrefix(s); err != nil {
			return p, fmt.Sprintf("%q is no prefix: write it as 192.0.2.0/24 or 2001:db8::/32", s)
		}
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p, fmt.Sprintf("%q is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32", s)
		}
		if a.Zone() != "" {
			return p, fmt.Sprintf("%q has a zone: a list holds for every interface", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return p, fmt.Sprintf("%q is an IPv4-mapped address: write it as IPv4", s)
	case p.Bits() == 0:
		return p, fmt.Sprintf("%s is everybody: that would cut this node off", p)
	case p != p.Masked():
		return p, fmt.Sprintf("%s has bits beyond its length: write %s", p, p.Masked())
	}
	return p, ""
}
