-- +goose NO TRANSACTION
-- +goose Up
-- Heartbeats of the agents. Without a token, the same rows sent again are
-- known by their checksum.
{{ if .Replicated }}SELECT 1{{ else }}CREATE TABLE IF NOT EXISTS coverage
(
    node      LowCardinality(String),
    start     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    end       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    records   UInt64 CODEC(ZSTD(1)),
    lost      UInt64 CODEC(ZSTD(1)),
    delayed   UInt64 CODEC(ZSTD(1)),
    endpoints UInt32,
    started   Bool
)
ENGINE = {{ .Engine "MergeTree" }}
PARTITION BY toYYYYMM(end)
ORDER BY (node, start, end)
TTL toDateTime(end) + INTERVAL 400 DAY DELETE
SETTINGS {{ .Window }}, ttl_only_drop_parts = 1{{ end }};
