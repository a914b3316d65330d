// Package spool keeps batches of labelled records on disk while the store
// cannot take them.
//
// A batch is one file, written beside, synced and renamed, with a digest over
// all of it: it is there whole or it is damaged, and what is damaged is refused
// whole. Its name says how many records it has and of what time, so that this
// is known of a damaged one too. When the spool is full the oldest batches go.
// What goes unsent, full or damaged, is noted first, as a gap that somebody has
// to be told of; the note outlives the process.
//
// Encode and Decode are the form of a batch also where it goes over the wire or
// together with others, and a Token names it everywhere.
//
// A batch of which an insert was begun is in doubt: the store may have it. Such
// a one goes last, since a gap would then be counted that is none.
//
// # Lifetimes
//
// Open reads the directory; a Spool holds no file open and needs no closing.
// One process at a time uses a directory.
package spool
