// Package wire gives tests network namespaces, cables between them, and frames
// exactly as built, sent and received past the protocol stack. Namespaces and
// sockets live as long as the test that made them. It knows nothing of programs:
// what a wire receives has passed those of its interface.
package wire
