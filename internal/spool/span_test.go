package spool

import (
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	var s Span
	for _, cannot := range []time.Duration{time.Nanosecond, time.Hour, -MaxSpan - 1, -1e18} {
		if s.Add(t0.Add(cannot), t0); !s.IsZero() {
			t.Errorf("%s: %+v", cannot, s)
		}
	}
	for _, c := range []struct{ at, start, end time.Duration }{
		{-time.Hour, -time.Hour, -time.Hour}, {-time.Minute, -time.Hour, -time.Minute}, {time.Second, -time.Hour, -time.Minute},
		{0, -time.Hour, 0}, {-MaxSpan, -MaxSpan, 0}, {-MaxSpan - 1, -MaxSpan, 0},
	} {
		s.Add(t0.Add(c.at), t0)
		if want := (Span{t0.Add(c.start), t0.Add(c.end)}); s != want {
			t.Errorf("%s: %+v, want %+v", c.at, s, want)
		}
	}
}
