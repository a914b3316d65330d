// Package control keeps what people decided: workload identities, immutable
// policy revisions, the live and staged slot of every workload, who did what
// when, and who may log in. It lives in one SQLite file.
//
// A Store is opened once a process and holds the file's lock until Close. Every
// change is one transaction that names its actor and appends to the activity
// chain; a change of slots or inventory raises the generation of State, which is
// what nodes are sent. What nodes report is kept in memory only: after a restart
// they say it again within a heartbeat.
package control
