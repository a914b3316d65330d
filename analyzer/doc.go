// Package analyzer turns stored edges into allowlists: for one workload it says
// which rules admit exactly what was observed, on what evidence, what speaks
// against a rule, what was left out and why, and whether enough was seen at all.
// It also judges stored history by any policy.
//
// An Analyzer holds no state between calls: every answer is computed from the
// edges, the inventory and the coverage that its sources give for a window. The
// same three give the same answer, byte for byte.
package analyzer
