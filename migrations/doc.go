// Package migrations holds the ClickHouse schema: forward-only steps that goose
// runs in the order of their numbers.
//
// ClickHouse's DDL has no transactions, so each file holds exactly one
// statement, and each statement may be run again after a crash that came before
// goose noted it. Steps are templates: a Schema fills in what depends on the
// kind of server. On a replica they may find the tables of its shard made already,
// as later steps left them.
package migrations

import "embed"

// FS holds the steps as templates.
//
//go:embed *.sql
var FS embed.FS
