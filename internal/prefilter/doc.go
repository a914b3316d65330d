// Package prefilter keeps a node's deny lists in the kernel: it reads the files
// that the inventory names, looks every few seconds whether they changed, and
// hands all of them over at once.
//
// A file that cannot be read, or has a bad line, changes nothing: its list stays
// as it was, also when that is known only to the kernel, from an agent before.
package prefilter
