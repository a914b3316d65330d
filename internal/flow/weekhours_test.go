package flow

import (
	"testing"
	"time"
)

func TestWeekHours(t *testing.T) {
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	var all WeekHours
	for h := range HoursOfWeek {
		at := monday.Add(time.Duration(h)*time.Hour + 59*time.Minute)
		if got := HourOfWeek(at.In(time.FixedZone("", 5*3600))); got != h {
			t.Fatalf("%s is hour %d, want %d", at, got, h)
		}
		var one WeekHours
		one.Set(h)
		if one.Count() != 1 || !one.Has(h) || all.Has(h) {
			t.Fatalf("hour %d: %v", h, one)
		}
		all = all.Union(one)
	}
	for _, h := range []int{-1, HoursOfWeek, HoursOfWeek + 20} {
		all.Set(h)
		if all.Has(h) {
			t.Errorf("hour %d is in the week", h)
		}
	}
	if all.Count() != HoursOfWeek {
		t.Errorf("%d hours", all.Count())
	}
}
