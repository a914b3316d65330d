// Package outage holds the tests of the way from the collector to a ClickHouse
// that is killed, stalls, refuses or has no room: what is stored in the end is
// what was sent, less what is known to be dropped, and edges are what flows add
// up to.
package outage
