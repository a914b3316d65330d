package query

import (
	"fmt"
	"slices"
	"strings"
)

// unknownField says that there is no such field, which ones it may have been
// meant to be, and which there are.
func unknownField(name string) string {
	var like string
	if near := nearest(name); len(near) > 0 {
		like = fmt.Sprintf("did you mean %s? ", strings.Join(near, " or "))
	}
	return fmt.Sprintf("unknown field %q: %swant one of %s", name, like, fieldList)
}

// nearest returns up to three fields that name may have been meant to be, the most
// alike first: a third of the letters wrong at most, the side wrong, or the end
// missing.
func nearest(name string) []string {
	name = strings.ToLower(name)
	type candidate struct {
		field    string
		distance int
	}
	var found []candidate
	_, bare, _ := strings.Cut(name, ".")
	for _, field := range fields {
		d := distance(name, field)
		if bare == field || len(name) > 2 && strings.HasPrefix(field, name) {
			d = min(d, 2)
		}
		if d <= max(2, len(name)/3) && d <= len(field)/3 {
			found = append(found, candidate{field, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.distance - b.distance })
	var out []string
	for _, c := range found[:min(3, len(found))] {
		out = append(out, c.field)
	}
	return out
}

// distance is how many letters must be put in, taken out, changed or swapped with
// the next one to make b of a ("optimal string alignment").
func distance(a, b string) int {
	var before, last []int // rows of the two letters of a before this one
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
