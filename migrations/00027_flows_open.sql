-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows DROP CONSTRAINT IF EXISTS views_are_missing{{ end }};
