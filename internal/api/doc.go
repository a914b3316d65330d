// Package api serves the HTTP API that openapi.yaml describes, the user
// interface, and /metrics. It is the only importer of gin.
//
// Every request of an operation passes the same way: host check, authentication
// (unless the contract says the operation is open), cross-site check, validation
// against the contract, handler. Nothing but login and health is answered to
// someone unknown; the user interface's files are no secret and are.
//
// A Server holds no state of its own but counters of failed logins and a
// snapshot that is some seconds old; event streams live as long as their
// requests, and Serve ends them before it returns.
package api

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml
