// Package flow holds the words every other package shares: the identity of a
// workload, the key of a flow, the record the datapath emits for it, and the
// verdicts and reasons a packet can get.
//
// It imports the standard library only and holds no state.
package flow
