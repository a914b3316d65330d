package query

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a filter.
const (
	MaxText   = 4096 // bytes
	maxTerms  = 64
	maxValues = 256 // of all conditions together
)

// Error is what is wrong with a filter, and where.
type Error struct {
	Column  int // of the first character concerned, from 1
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Message) }

// Parse reads a filter's textual form. Times that say how long ago are counted
// from now. Every error is an *Error.
func Parse(text string, now time.Time) (Filter, error) {
	p := parser{text: []rune(text), now: now}
	switch {
	case len(text) > MaxText:
		return Filter{}, p.wrong(0, "the filter is longer than %d bytes: give fewer values", MaxText)
	case !utf8.ValidString(text):
		return Filter{}, p.wrong(utf8.RuneCountInString(text[:invalidAt(text)]), "is not UTF-8")
	}
	for p.skipSpace(); p.at < len(p.text); p.skipSpace() {
		if err := p.term(); err != nil {
			return Filter{}, err
		}
	}
	return p.out, nil
}

func invalidAt(s string) int {
	for i, r := range s {
		if _, n := utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && n == 1 {
			return i
		}
	}
	return len(s)
}

type parser struct {
	text   []rune
	at     int
	now    time.Time
	values int
	out    Filter
}

func (p *parser) wrong(at int, format string, args ...any) error {
	return &Error{Column: at + 1, Message: fmt.Sprintf(format, args...)}
}

func (p *parser) skipSpace() {
	for p.at < len(p.text) && unicode.IsSpace(p.text[p.at]) {
		p.at++
	}
}

// next reports whether s comes next, and goes beyond it.
func (p *parser) next(s string) bool {
	if !strings.HasPrefix(string(p.text[p.at:min(len(p.text), p.at+len(s))]), s) {
		return false
	}
	p.at += len(s)
	return true
}

func (p *parser) term() error {
	begin := p.at
	t := Term{Not: p.next("-")}
	name := p.at
	for p.at < len(p.text) && !ends(p.text[p.at]) && p.text[p.at] != '=' && p.text[p.at] != '!' {
		p.at++
	}
	t.Field = string(p.text[name:p.at])
	afterName := p.at
	switch {
	case p.next("!="):
		t.Not = !t.Not
	case !p.next("="):
		if parsers[t.Field] != nil || t.Field == sinceField || t.Field == untilField {
			return p.wrong(afterName, "%s: want = or != and a value", t.Field)
		}
		return p.wrong(begin, "%q is no condition: want field=value, with a field of %s",
			string(p.text[begin:p.wordEnd()]), fieldList)
	}
	if t.Field == sinceField || t.Field == untilField {
		return p.bound(t, begin)
	}
	if parsers[t.Field] == nil {
		return p.wrong(name, "%s", unknownField(t.Field))
	}
	if err := p.list(&t); err != nil {
		return err
	}
	if p.out.Terms = append(p.out.Terms, t); len(p.out.Terms) > maxTerms {
		return p.wrong(begin, "more than %d conditions: give several values to one, separated by commas", maxTerms)
	}
	return nil
}

func (p *parser) wordEnd() int {
	end := p.at
	for end < len(p.text) && !unicode.IsSpace(p.text[end]) {
		end++
	}
	return end
}

// list reads a condition's values.
func (p *parser) list(t *Term) error {
	for {
		begin := p.at
		text, err := p.value(t.Field)
		if err != nil {
			return err
		}
		v, err := parsers[t.Field](text)
		if err != nil {
			return p.wrong(begin, "%s", err.Error())
		}
		t.Values = append(t.Values, v)
		if p.values++; p.values > maxValues {
			return p.wrong(begin, "more than %d values: use a prefix, a range or a namespace", maxValues)
		}
		if !p.next(",") {
			return nil
		}
	}
}

// bound reads the time of since or until.
func (p *parser) bound(t Term, begin int) error {
	bound := &p.out.Since
	if t.Field == untilField {
		bound = &p.out.Until
	}
	switch {
	case t.Not:
		return p.wrong(begin, "%s cannot be turned round: want %s=TIME", t.Field, t.Field)
	case !bound.IsZero():
		return p.wrong(begin, "%s is given twice", t.Field)
	}
	at := p.at
	text, err := p.value(t.Field)
	if err != nil {
		return err
	}
	if *bound, err = ParseTime(text, p.now); err != nil {
		return p.wrong(at, "%s", err.Error())
	}
	if bound.IsZero() {
		return p.wrong(at, "%s: there were no flows yet", t.Field)
	}
	if p.next(",") {
		return p.wrong(p.at-1, "%s: want one time only", t.Field)
	}
	return nil
}

// value reads one value, without its quotes.
func (p *parser) value(field string) (string, error) {
	begin := p.at
	if p.next(`"`) {
		return p.quoted(begin)
	}
	for p.at < len(p.text) && !ends(p.text[p.at]) {
		if p.text[p.at] == '"' {
			return "", p.wrong(p.at, "a quote within a value: put the whole value in quotes, and \\ before this one")
		}
		p.at++
	}
	if p.at == begin {
		return "", p.wrong(begin, "%s: want a value here", field)
	}
	return string(p.text[begin:p.at]), nil
}

func (p *parser) quoted(begin int) (string, error) {
	var b strings.Builder
	for p.at < len(p.text) {
		r := p.text[p.at]
		p.at++
		switch {
		case r == '"':
			if p.at < len(p.text) && !ends(p.text[p.at]) {
				return "", p.wrong(p.at, "want a space or a comma after the quoted value")
			}
			return b.String(), nil
		case r == '\\' && p.at < len(p.text):
			r = p.text[p.at]
			p.at++
		}
		b.WriteRune(r)
	}
	return "", p.wrong(begin, "the quote is not closed")
}
