// Package collector carries the datapath's records to the store: it reads the
// ring buffer, says who was at both ends of every flow, and stores batches.
//
// A batch is noted in the ring before it is stored and given back to the ring
// after. What was noted and never given back is stored again at start, under the
// same token, so that the store keeps one copy. While the store is away batches
// go to a spool on disk, and are stored from there when it is back; when the disk
// takes none they wait in the ring, and when that is full, in the flow table.
//
// # Lifetimes
//
// New does no I/O. Run works until its context ends, stores or spools what it has
// read by then within Config.Flush, and returns. One Collector reads one ring.
package collector
