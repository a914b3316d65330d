// Package statefile keeps small state in files that survive a crash at any
// moment: a new version is written beside the old one, synced and renamed over
// it, and the old one is kept as NAME.prev.
//
// A file carries a digest of its contents. One that does not match is refused
// whole; nothing is ever read from half a file. The package holds no state, and
// a path has one writer at a time.
package statefile
