package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

// progress is a line on a terminal that says how far a long read has come.
type progress struct {
	to    *os.File // nil: nobody looks
	what  string
	whole int
	said  time.Time
}

// eyeTime is how often a person sees the line change.
const eyeTime = 100 * time.Millisecond

func newProgress(to *os.File, what string, whole int) *progress {
	p := &progress{what: what, whole: whole}
	if term.IsTerminal(int(to.Fd())) {
		p.to = to
	}
	return p
}

func (p *progress) set(n int) {
	if p.to != nil && n < p.whole && time.Since(p.said) >= eyeTime {
		p.said = time.Now()
		fmt.Fprintf(p.to, "\r%d of at most %d %s", n, p.whole, p.what)
	}
}

// count is for reads whose end nobody knows.
func (p *progress) count(n uint64) {
	if p.to != nil {
		fmt.Fprintf(p.to, "\r%d %s", n, p.what)
	}
}

// end takes the line away.
func (p *progress) end() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}

// of returns what hears how many of all things are done.
func (p *progress) of(things string) func(done, total int) {
	return func(done, total int) {
		p.what, p.whole = things, total
		p.set(done)
	}
}
