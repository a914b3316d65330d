// Package agentlink carries rollout.State from the server to its nodes and
// rollout.Report back, over gRPC, and nodes' records to a server that stores
// them. It is the only importer of grpc.
//
// Documents travel as JSON with a digest, and one whose digest does not match is
// refused. A shared token says who may connect. Over a unix socket that is all
// there is; any other address needs transport credentials.
//
// # Lifetimes
//
// A Server serves one listener until its context ends. A Client keeps one
// connection, made anew with growing pauses when it breaks, until its context
// ends; what a node enforces does not depend on it. Of two connections in the
// name of one node the newer counts, and the older is closed. A Sink has a
// connection beside it, from its first call until it is closed.
package agentlink
