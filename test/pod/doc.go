// Package pod gives tests of the agent's rooms a pod, a node's side of its veth,
// a server that the pod talks to, and a bpffs to pin a datapath in. All of it
// goes with the test.
package pod
