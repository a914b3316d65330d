// Package gapless puts a node's datapath under traffic on real interfaces while
// everything changes under it: policies are swapped, agents are killed and
// upgraded, tables overflow, readers die. What arrives is counted in the kernel,
// where no socket buffer can lose it, and compared exactly with what was sent.
//
// Every test prints what it counted: go test -v ./test/gapless.
package gapless
