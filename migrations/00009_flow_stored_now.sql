-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows MODIFY COLUMN stored DateTime('UTC') DEFAULT now(){{ end }};
