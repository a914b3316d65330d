-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}DROP TABLE IF EXISTS edges_from_flows{{ end }};
