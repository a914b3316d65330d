// Package period has what every configuration does with its durations: zero
// means the default, and less is refused.
package period

import (
	"fmt"
	"time"
)

// Period is a duration of a configuration.
type Period struct {
	Name    string // as errors have it
	Value   *time.Duration
	Default time.Duration
}

// SetDefaults gives those that are zero their defaults.
func SetDefaults(all []Period) {
	for _, p := range all {
		if *p.Value == 0 {
			*p.Value = p.Default
		}
	}
}

// Check returns an error for each that is negative.
func Check(all []Period) (errs []error) {
	for _, p := range all {
		if *p.Value < 0 {
			errs = append(errs, fmt.Errorf("%s %s: want a positive duration", p.Name, *p.Value))
		}
	}
	return errs
}
