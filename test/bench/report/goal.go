package report

import (
	"fmt"
	"io"
	"math"
)

// Goal is a promise and whether a run kept it.
type Goal struct {
	Name    string  `json:"name"`
	Want    string  `json:"want"`
	Limit   float64 `json:"limit"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Reached bool    `json:"reached"`
}

// Goals are those of one run.
type Goals []Goal

// AtMost adds a goal that is reached by value up to limit. A value that is no
// number was not measured and makes no goal.
func (g *Goals) AtMost(name, unit string, value, limit float64) {
	g.add(name, "at most", unit, value, limit, value <= limit)
}

// AtLeast adds a goal that is reached by values from limit on.
func (g *Goals) AtLeast(name, unit string, value, limit float64) {
	g.add(name, "at least", unit, value, limit, value >= limit)
}

func (g *Goals) add(name, how, unit string, value, limit float64, reached bool) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	*g = append(*g, Goal{
		Name: name, Want: fmt.Sprintf("%s %s %s", how, number(limit), unit), Limit: limit, Value: Round(value), Unit: unit, Reached: reached,
	})
}

// Print writes a table of the goals, its columns parted by tabs.
func (g Goals) Print(w io.Writer) {
	fmt.Fprintf(w, "goal\twant\tgot\t\n")
	for _, goal := range g {
		verdict := "reached"
		if !goal.Reached {
			verdict = "NOT REACHED"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s %s\t%s\n", goal.Name, goal.Want, number(goal.Value), goal.Unit, verdict)
	}
}

// number writes v with four digits that count, and never with an exponent.
func number(v float64) string {
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4g", v)
}
