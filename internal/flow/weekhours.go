package flow

import (
	"math/bits"
	"time"
)

// HoursOfWeek is how many hours a week has.
const HoursOfWeek = 7 * 24

// WeekHours is a set of hours of the week: hour 0 is Monday's first, in UTC.
type WeekHours [3]uint64

// HourOfWeek returns the hour of the week that t lies in, from 0 to 167.
func HourOfWeek(t time.Time) int {
	t = t.UTC()
	return (int(t.Weekday())+6)%7*24 + t.Hour()
}

// Set adds an hour; one that no week has is ignored.
func (w *WeekHours) Set(hour int) {
	if hour >= 0 && hour < HoursOfWeek {
		w[hour/64] |= 1 << (hour % 64)
	}
}

// Has reports whether the hour is in the set.
func (w WeekHours) Has(hour int) bool {
	return hour >= 0 && hour < HoursOfWeek && w[hour/64]&(1<<(hour%64)) != 0
}

// Count returns how many hours the set has.
func (w WeekHours) Count() int {
	return bits.OnesCount64(w[0]) + bits.OnesCount64(w[1]) + bits.OnesCount64(w[2])
}

// Union returns the hours of either set.
func (w WeekHours) Union(o WeekHours) WeekHours {
	return WeekHours{w[0] | o[0], w[1] | o[1], w[2] | o[2]}
}
