package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/store"
)

func TestRetentionFlags(t *testing.T) {
	const day = 24 * time.Hour
	defaults := store.Retention{Flows: 30 * day, Hours: 35 * day, Days: 120 * day, Months: 400 * day, Coverage: 400 * day}
	longer := defaults
	longer.Flows = 90 * day
	for name, c := range map[string]struct {
		args []string
		want store.Retention
		err  string
	}{
		"none":     {nil, defaults, ""},
		"longer":   {[]string{"--retention-flows", "90"}, longer, ""},
		"no time":  {[]string{"--retention-hours", "0"}, defaults, "--retention-hours 0"},
		"too long": {[]string{"--retention-coverage", "3651"}, defaults, "from 1 to 3650"},
	} {
		t.Run(name, func(t *testing.T) {
			var f retentionFlags
			cmd := &cobra.Command{}
			f.register(cmd)
			must(t, cmd.ParseFlags(c.args))
			got, err := f.retention()
			if c.err == "" && (err != nil || got != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
