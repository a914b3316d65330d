-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}RENAME TABLE IF EXISTS edge_months_v2 TO edge_months{{ end }};
