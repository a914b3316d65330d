// Package policytest generates policies and flows for property tests: of the
// evaluator itself, of the compiler, and of the datapath against the evaluator.
//
// Everything is drawn from one small fixed world, so that a generated flow has a
// fair chance to be matched by a generated rule, and so that a test can build
// the same world in a kernel.
package policytest
