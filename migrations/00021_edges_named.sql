-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}RENAME TABLE IF EXISTS edges_v2 TO edges{{ end }};
