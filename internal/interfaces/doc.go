// Package interfaces knows the network interfaces of one namespace at every
// moment: their names, kinds and addresses, as the kernel tells of changes.
//
// # Lifetimes
//
// New does no I/O. Start subscribes to the kernel's messages and then lists what
// is there, so that no change is lost in between; Run takes changes in until its
// context ends. When the kernel had to drop messages, or a list was interrupted,
// both are done again over a new subscription: what an old one still holds is
// older than the list, and what would have put it right may be among the lost.
package interfaces
