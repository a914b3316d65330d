// Package truth knows who really talks to whom in two published applications,
// makes their traffic as stored edges, some of it spoilt in a known way, and
// counts what policies admit too much and break. Tests and bench-accuracy share
// it.
package truth
