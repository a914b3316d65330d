package estate

import "math/rand/v2"

// alias draws numbers with given weights in constant time: Walker's method, as
// set up by M. D. Vose, IEEE Transactions on Software Engineering 17(9), 1991.
type alias struct {
	keep  []uint32 // keeps a column when a draw of 32 bits is below
	other []uint32
}

func newAlias(weights []float64) alias {
	n := len(weights)
	a := alias{keep: make([]uint32, n), other: make([]uint32, n)}
	var total float64
	for _, w := range weights {
		total += w
	}
	share := make([]float64, n)
	var small, large []int
	for i, w := range weights {
		if share[i] = w / total * float64(n); share[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.keep[s], a.other[s] = uint32(share[s]*(1<<32-1)), uint32(l)
		if share[l] += share[s] - 1; share[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) {
		a.keep[i], a.other[i] = 1<<32-1, uint32(i)
	}
	return a
}

func (a *alias) draw(r *rand.Rand) int {
	v := r.Uint64()
	column := v >> 32 * uint64(len(a.keep)) >> 32
	if uint32(v) <= a.keep[column] {
		return int(column)
	}
	return int(a.other[column])
}
