-- +goose NO TRANSACTION
-- +goose Up
-- When a row was stored, for those who follow what arrives: the time of its
-- last packet may be an hour back. A default of now() would be that of every
-- reading for the rows that are there already, so they are given a time first.
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows
    ADD COLUMN IF NOT EXISTS stored DateTime('UTC') DEFAULT toDateTime(0, 'UTC') COMMENT 'by the clock of the store' CODEC(Delta, ZSTD(1)),
    ADD INDEX IF NOT EXISTS stored_range stored TYPE minmax GRANULARITY 1{{ end }};
