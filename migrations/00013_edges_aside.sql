-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}RENAME TABLE IF EXISTS edges TO edges_v1{{ end }};
