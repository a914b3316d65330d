// Package bpf is ringfence's datapath: the C programs that judge and count
// packets, and the typed façade through which the rest of the agent loads,
// attaches, feeds and reads them. It is the only importer of cilium/ebpf.
//
// # Lifetimes
//
// Every map and link is pinned below Config.PinDir, one directory a node, on a
// bpffs of ringfence's own. Open creates what is missing and adopts what is
// there; Close drops the process's file descriptors and leaves the pins, so
// the programs go on deciding while no agent runs; Remove takes everything
// away. Programs are never detached to be replaced: a running link is updated
// to the new program in one step. Maps that have to change are carried over into
// a new generation, and the old one goes when it has reported everything.
//
// # Who writes what
//
// Userspace writes endpoints, addresses, cidrs, failsafe, services, workloads,
// tables, rules and settings; the programs write flows, fragments, counters and events. Only
// the kernel deletes flows, and only once all of their counters were handed
// to the ring buffer.
package bpf
