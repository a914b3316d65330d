// Package export writes policies in the words of other enforcers: Kubernetes,
// Cilium, Calico and nftables.
//
// Export is a pure function of its input: the same input gives the same bytes.
// What a dialect cannot say is never dropped in silence: it is a Loss, which says
// whether the export is narrower than the policy, wider, refused, or right only
// under an assumption. A part that cannot be said is left out, so that it is
// denied; a rule of which no peer or no port is left goes as a whole, since an
// empty list would mean everything. Limits lists what holds of every export to a
// dialect.
package export
