-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows
    ADD COLUMN IF NOT EXISTS source_identity UInt32 CODEC(ZSTD(1)) AFTER source_endpoint,
    ADD COLUMN IF NOT EXISTS source_labels LowCardinality(String) COMMENT 'key=value, ordered by key, joined by commas' AFTER source_identity,
    ADD COLUMN IF NOT EXISTS destination_identity UInt32 CODEC(ZSTD(1)) AFTER destination_endpoint,
    ADD COLUMN IF NOT EXISTS destination_labels LowCardinality(String) AFTER destination_identity{{ end }};
