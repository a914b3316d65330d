package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/store"
)

// maxRetention is in days.
const maxRetention = 3650

// retentionFlags are how many days the tables keep their rows.
type retentionFlags struct{ flows, hours, days, months, coverage int }

func (f *retentionFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&f.flows, "retention-flows", 30, "days to keep flow records")
	fs.IntVar(&f.hours, "retention-hours", 35, "days to keep edges by hour")
	fs.IntVar(&f.days, "retention-days", 120, "days to keep edges by day")
	fs.IntVar(&f.months, "retention-months", 400, "days to keep edges by month")
	fs.IntVar(&f.coverage, "retention-coverage", 400, "days to keep what was watched, and what was lost")
}

func (f *retentionFlags) retention() (r store.Retention, err error) {
	for _, flag := range []struct {
		name string
		days int
		to   *time.Duration
	}{
		{"flows", f.flows, &r.Flows}, {"hours", f.hours, &r.Hours}, {"days", f.days, &r.Days},
		{"months", f.months, &r.Months}, {"coverage", f.coverage, &r.Coverage},
	} {
		if flag.days < 1 || flag.days > maxRetention {
			return r, fmt.Errorf("--retention-%s %d: want days, from 1 to %d", flag.name, flag.days, maxRetention)
		}
		*flag.to = time.Duration(flag.days) * 24 * time.Hour
	}
	return r, nil
}
