// Package rollout is the contract between the server and its nodes: the state a
// node should be in, and what a node reports of the state it is in.
package rollout
