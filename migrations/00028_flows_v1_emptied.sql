-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}TRUNCATE TABLE IF EXISTS flows_v1{{ end }};
