// Package netpol turns Kubernetes NetworkPolicies into the policy model, whole:
// what it cannot say, or what Kubernetes would refuse, is an error that names the
// object, the field and what is allowed.
//
// A NetworkPolicy selects the pods that it governs, and several of them add up; a
// policy of the model governs one workload. Import keeps the two apart, and Sum
// adds up what governs one workload.
package netpol
