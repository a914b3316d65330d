-- +goose NO TRANSACTION
-- +goose Up
-- Rows are copied to tables with another order. Until that is done there is no
-- table that agents could write to, so nothing goes past the views. flows_v1 and
-- edges_v1 stay, empty: a server that migrates at the same time and is behind
-- then cannot put the new tables aside. Replicated tables came later, so there
-- is nothing to copy.
{{ if .Replicated }}SELECT 1{{ else }}RENAME TABLE IF EXISTS flows TO flows_v1{{ end }};
