// Package clickhouse runs the embedded ClickHouse: the engine library, loaded
// by a child process of the same binary that serves the native protocol on the
// loopback address. It is a real server: the driver, the SQL and the migrations
// are those of a cluster.
//
// An Engine owns one data directory, one child, and the random password of one
// start. The child never outlives its parent: it leaves when its standard input
// ends, however the parent died, and a lock on the data directory is held until
// it is gone.
//
// Two properties of the library shape the child (see RunEngine). Its local
// client aborts the process on any error in a connection's thread, a wrong
// password included, unless it is interactive: so it gets a pseudo-terminal,
// and hanging that up is how it is stopped. And that client logs in without a
// password as the user "default": so this user may open one session, which the
// client itself holds, and may do nothing but start the listener.
package clickhouse
