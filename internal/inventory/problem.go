package inventory

import (
	"fmt"
	"strings"
	"unicode"
)

// maxShown bounds how many problems an error message spells out.
const maxShown = 10

// Problem is one thing that is wrong with an inventory.
type Problem struct {
	Path    string // as in workloads[2].endpoints[0].addresses[1]
	Message string // what is wrong and what to do
	// Line and Column count from 1; 0 when the inventory is not from a file.
	Line, Column int
}

func (p Problem) String() string {
	at := ""
	if p.Line > 0 {
		at = fmt.Sprintf("line %d:%d: ", p.Line, p.Column)
	}
	if p.Path != "" {
		at += p.Path + ": "
	}
	return at + strings.Map(oneLine, p.Message)
}

// oneLine keeps a name with a line feed or an escape sequence from forging
// lines of output.
func oneLine(r rune) rune {
	if !unicode.IsPrint(r) {
		return '\uFFFD'
	}
	return r
}

// Error holds every problem of an inventory. Its message is one line.
type Error struct {
	File     string // empty when the inventory is not from a file
	Problems []Problem
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("inventory")
	if e.File != "" {
		b.WriteString(" " + e.File)
	}
	for i, p := range e.Problems {
		if i == maxShown {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-maxShown)
			break
		}
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}
