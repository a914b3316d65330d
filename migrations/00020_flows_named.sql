-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}RENAME TABLE IF EXISTS flows_v2 TO flows{{ end }};
