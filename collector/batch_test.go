package collector

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Few records may wait for more, the longer the fewer; many, and denials, may not.
func TestWhenABatchIsDue(t *testing.T) {
	few, some, many := numbered(0, 10), numbered(0, 100), numbered(0, 1000)
	for _, records := range [][]flow.Record{few, some, many} {
		for i := range records {
			records[i].Outcome = flow.OutcomeForwarded
		}
	}
	with := func(o flow.Outcome) []flow.Record {
		out := slices.Clone(few)
		out[5].Outcome = o
		return out
	}
	for _, tt := range []struct {
		name    string
		records []flow.Record
		stored  time.Duration // after they were written
	}{
		{"few", few, 10 * time.Second},
		{"just few", append(slices.Clone(few), few...), 10 * time.Second},
		{"some", some, 2 * time.Second},
		{"many", many, 250 * time.Millisecond},
		{"few with one dropped", with(flow.OutcomeDropped), 250 * time.Millisecond},
		{"few with one audited", with(flow.OutcomeAudited), 250 * time.Millisecond},
		{"few with an unknown outcome", with(flow.OutcomeUnknown), 250 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alone(t, func(t *testing.T, a *agent) {
				stop := a.start(func(c *Config) { c.BatchRecords, c.SmallRecords = 0, 0 })
				synctest.Wait()
				a.ring.write(tt.records...)
				time.Sleep(tt.stored - time.Millisecond)
				if n := len(a.sink.rows()); n != 0 {
					t.Errorf("%d records were stored before %s", n, tt.stored)
				}
				time.Sleep(2 * time.Millisecond)
				if n := len(a.sink.rows()); n != len(tt.records) {
					t.Errorf("%d of %d records were stored after %s", n, len(tt.records), tt.stored)
				}
				stopped(t, stop)
			})
		})
	}
	// Those that come later wait as briefly as all of them together may.
	t.Run("few, then some", func(t *testing.T) {
		alone(t, func(t *testing.T, a *agent) {
			stop := a.start(func(c *Config) { c.BatchRecords, c.SmallRecords = 0, 0 })
			synctest.Wait()
			a.ring.write(few...)
			time.Sleep(time.Second)
			a.ring.write(some[:90]...)
			time.Sleep(time.Second - time.Millisecond)
			if n := len(a.sink.rows()); n != 0 {
				t.Errorf("%d records were stored early", n)
			}
			time.Sleep(2 * time.Millisecond)
			if n := len(a.sink.rows()); n != 100 {
				t.Errorf("%d of 100 records were stored 2 s after the first", n)
			}
			stopped(t, stop)
		})
	})
	// A denial that comes later does not wait as long as what came before.
	t.Run("few, then one dropped", func(t *testing.T) {
		alone(t, func(t *testing.T, a *agent) {
			stop := a.start(func(c *Config) { c.BatchRecords, c.SmallRecords = 0, 0 })
			synctest.Wait()
			a.ring.write(few...)
			time.Sleep(time.Second)
			a.ring.write(with(flow.OutcomeDropped)[5])
			time.Sleep(time.Millisecond)
			if n := len(a.sink.rows()); n != 11 {
				t.Errorf("%d of 11 records were stored at once", n)
			}
			stopped(t, stop)
		})
	})
}
