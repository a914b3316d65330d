// Package store keeps flows, edges and coverage in ClickHouse, and reads them
// back. Nothing else talks to ClickHouse.
//
// A Store lives from Open to Close and may be used by many goroutines. Inserts
// are idempotent: the same batch under the same token is stored once, in the
// flows and in the edges made of them, however often it is sent. Queries are
// constant text with parameters, and each has limits on time, rows and memory.
package store
