-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows MATERIALIZE COLUMN stored SETTINGS mutations_sync = 2{{ end }};
