// Package manifests reads Kubernetes manifests into an inventory and policies,
// with no cluster at hand, and says who may reach whom.
//
// What it cannot know from files is left out, never guessed: a pod template has no
// addresses, so a block of addresses does not match its pods.
package manifests
