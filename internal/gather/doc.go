// Package gather takes the batches of many agents and stores those of a moment
// in one insert: one of a few records costs the store half of what one of
// thousands does.
//
// A batch is answered when it is on disk, in a group with those of other nodes;
// the group is inserted under a token of its own, again and again until it is
// stored. What a node handed over is known from its tokens, which say what part
// of the node's ring a batch is of: one that is sent again, because its answer
// was lost, is answered and not stored again, however much later that is.
//
// # On disk
//
// NUMBER.group holds a group's rows and its note, NUMBER.note the note alone:
// who handed over which batches. A group counts from when its note is written,
// and the note becomes NUMBER.stored when it is stored. accepted.state adds those
// up, which then go. So a group that is damaged is known by its note, and what it
// lost is stored as coverage of kind "dropped", of each of its nodes.
//
// # Lifetimes
//
// New does no I/O. Open reads the directory. Run does, too, and answers and stores until its context
// ends, writes the last group and returns; what is not stored by then the next
// process stores. One process at a time uses a directory.
package gather
