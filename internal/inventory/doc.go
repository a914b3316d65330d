// Package inventory says which addresses belong to which workload: nodes, and
// the workloads with their labels and endpoints. It is read from a YAML file,
// checked whole, and from then on immutable. Ownership remembers over one
// inventory after the other who held what, and when.
package inventory
