// Package policy holds the policy model and the one evaluator.
//
// Replay, explanation, the API, the compiler's tests and the tests of the
// datapath all call Evaluate; nothing else in Go decides whether a flow is
// allowed. A Policy is immutable once it is part of a revision.
package policy
