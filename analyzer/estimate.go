package analyzer

import "math"

// Incidence is how often one edge was seen: in how many slices of time, and how
// many connections all in all.
type Incidence struct {
	Slices      int
	Connections float64
}

// Estimate is how much of the traffic may be on edges that were not seen.
type Estimate struct {
	// Slices of time were looked at. Edges were seen in any of them, Once in one
	// slice only and Twice in two.
	Slices int `json:"slices"`
	Edges  int `json:"edges"`
	Once   int `json:"once"`
	Twice  int `json:"twice"`
	// Unseen estimates the share of connections, in a time as long again, that
	// are on edges not seen yet; Low and High bound it.
	Unseen float64 `json:"unseen"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	// UnseenEdges is how many edges at least were not seen (Chao2).
	UnseenEdges float64 `json:"unseenEdges"`
}

// boundZ is the normal quantile of the interval's ends. It is wider than the 95 %
// that the interval is to cover, because few edges of very different size make
// the approximations below optimistic; docs/learning.md says how it was chosen.
const boundZ = 3.0

// EstimateUnseen estimates from edges seen in slices of time what was not seen.
//
// The slice, a day, is the unit of sampling, since connections of one edge come
// together: an edge that opens a thousand within some hours was seen once. The share is the
// Good–Turing estimate (I. J. Good, Biometrika 40, 1953) on such incidences,
// weighted by connections: those on edges of a single slice, of all. It is what
// leaving out one slice at a time finds: the part of it that the others would not
// have taught.
//
// Its variance is that of the edges of one slice, once more for the chance of the
// time to come, and twice that of the edges of two slices (W. W. Esty, Annals of
// Statistics 11, 1983). The lower bound is the normal one. The upper is that of a
// weighted sum of Poisson counts by the gamma distribution (M. P. Fay, E. J.
// Feuer, Statistics in Medicine 16, 1997), which holds for a count of nothing
// too: then it is the rule of three, for one edge as busy, in a slice, as the
// busiest of the rare ones. The normal one counts where it is higher. Unseen
// edges are counted by A. Chao's lower bound for incidences (Biometrics 43, 1987).
//
// All of it takes slices to be alike. What happens on days that were not watched,
// or later for the first time, no estimate knows.
func EstimateUnseen(edges []Incidence, slices int) Estimate {
	e := Estimate{Slices: slices, Edges: len(edges)}
	var total, once, poisson, twice, weight, mean float64
	for _, i := range edges {
		n := max(i.Slices, 1)
		each := i.Connections / float64(n)
		total += i.Connections
		mean += each / float64(len(edges))
		if n <= rareSlices {
			weight = max(weight, each)
		}
		switch n {
		case 1:
			e.Once++
			once += each
			poisson += 2 * each * each
		case 2:
			e.Twice++
			twice += 2 * each * each
		}
	}
	if total == 0 {
		e.Unseen, e.High = 1, 1
		return e
	}
	weight = max(weight, mean)
	e.Unseen = once / total
	e.Low = max(once-boundZ*math.Sqrt(poisson+twice), 0) / total
	upper, spread := once+weight, poisson+weight*weight
	gamma := spread / (2 * upper) * chiSquare(2*upper*upper/spread, boundZ)
	normal := upper + boundZ*math.Sqrt(spread+twice)
	e.High = min(max(gamma, normal)/total, 1)
	q1, q2, t := float64(e.Once), float64(e.Twice), float64(max(slices, 1))
	e.UnseenEdges = (t - 1) / t * q1 * (q1 - 1) / (2 * (q2 + 1))
	return e
}

// rareSlices: edges of so few slices say how busy a rare edge is.
const rareSlices = 3

// chiSquare returns the quantile of the chi-square distribution with df degrees
// of freedom that lies where the normal one has z (E. B. Wilson, M. M. Hilferty,
// PNAS 17, 1931).
func chiSquare(df, z float64) float64 {
	a := 2 / (9 * df)
	return df * math.Pow(max(1-a+z*math.Sqrt(a), 0), 3)
}
