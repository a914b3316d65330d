// Package estate makes up the flows of a data centre, so that the store is
// measured, and tested, with what it will hold: workloads with replicas, labels
// and policies, a sparse graph of who calls whom, hours of day and days of the
// week, and connections with counters, flags and verdicts as the datapath
// records them, at both of their ends. Everything follows from a seed.
//
// docs/benchmarks.md says what is assumed.
package estate
