// Package drive runs the datapath's programs on crafted frames inside the
// kernel, many times a call and with a tuple that varies from packet to packet,
// so that what a packet costs can be told apart from what a system call does.
//
// It is for measuring and testing. It finds the programs by the interface they
// are attached to, needs root, and holds nothing that outlives its process.
package drive
