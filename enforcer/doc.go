// Package enforcer makes one node's kernel hold what the server asks for.
//
// It compiles a rollout.State into the datapath's tables, applies only what
// differs, and never leaves a node half way: what cannot be enforced is refused
// whole and the former policy stays. A change of a live policy that isolates
// must be confirmed by the server over a new connection; unconfirmed, the node
// goes back by itself, also when the agent crashed meanwhile.
//
// # Lifetimes
//
// New does no I/O. Start reads what the last process intended and makes the
// kernel agree with it; Apply takes a newer State; Run keeps the deadlines,
// asks for confirmations and repairs drift until its context ends. The state
// file is written before the kernel is touched: after a crash at any moment
// Start finishes what was begun, or takes it back.
//
// The kernel keeps deciding while no Enforcer runs.
package enforcer
