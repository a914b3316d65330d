// Package report holds what the benchmarks' reports have in common: the machine
// they ran on, series of samples, goals, and the file they are written to.
package report
