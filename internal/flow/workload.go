package flow

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Workload names endpoints that are governed together: a Kubernetes top-level
// owner or a group of hosts. The zero value names no workload.
type Workload struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
}

// IsZero reports whether w names no workload.
func (w Workload) IsZero() bool { return w == Workload{} }

// String returns namespace/kind/name, the form ParseWorkload reads.
func (w Workload) String() string {
	if w.IsZero() {
		return ""
	}
	return w.Namespace + "/" + w.Kind + "/" + w.Name
}

// ParseWorkload reads namespace/kind/name. A missing or empty part is an error.
func ParseWorkload(s string) (Workload, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return Workload{}, fmt.Errorf("workload %q: want namespace/kind/name", s)
	}
	return Workload{Namespace: parts[0], Kind: parts[1], Name: parts[2]}, nil
}

// Compare orders workloads by namespace, kind and name.
func (w Workload) Compare(o Workload) int {
	if c := strings.Compare(w.Namespace, o.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(w.Kind, o.Kind); c != 0 {
		return c
	}
	return strings.Compare(w.Name, o.Name)
}

// Identity is the number that stands for one workload's label set in the
// datapath. Numbers below FirstWorkloadIdentity are reserved.
type Identity uint32

// Reserved identities. The zero value is the one that inherits nothing.
const (
	IdentityUnknown       Identity = 0
	IdentityHost          Identity = 1 // the node the endpoint runs on
	IdentityWorld         Identity = 2 // an address no inventory knows
	IdentityRemoteNode    Identity = 3 // a node other than the endpoint's own
	IdentityKubeAPIServer Identity = 4

	FirstWorkloadIdentity Identity = 256
	// FirstCIDRIdentity starts the range that a node allocates for the address
	// peers of its compiled policies; such a number means nothing elsewhere.
	FirstCIDRIdentity Identity = 1 << 24
	// FirstServiceIdentity starts the range that it allocates for the ports of
	// services' addresses.
	FirstServiceIdentity Identity = 1 << 28
)

// Reserved names the reserved peers as policies and the API spell them.
var reservedNames = map[Identity]string{
	IdentityHost:          "host",
	IdentityWorld:         "world",
	IdentityRemoteNode:    "remote-node",
	IdentityKubeAPIServer: "kube-apiserver",
}

// ReservedName returns the name of a reserved identity, or "" for any other.
func (i Identity) ReservedName() string { return reservedNames[i] }

// ReservedIdentity returns the identity that name stands for.
func ReservedIdentity(name string) (Identity, error) {
	for id, n := range reservedNames {
		if n == name {
			return id, nil
		}
	}
	return IdentityUnknown, fmt.Errorf("reserved peer %q: want one of %s", name,
		strings.Join(slices.Sorted(maps.Values(reservedNames)), ", "))
}
