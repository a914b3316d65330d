// Package connection explains connections between ends that a person names, by an
// inventory and whatever policies govern its workloads. Nothing here outlives a
// question.
package connection
