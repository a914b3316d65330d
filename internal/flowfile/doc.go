// Package flowfile reads flows that somebody wrote down, Hubble's JSON lines or
// our own, and adds them up to edges in memory, so that learning and replay need
// no agent, no server and no database. What is kept grows with edges and
// endpoints, not with flows.
package flowfile
