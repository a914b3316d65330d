-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}CREATE TABLE IF NOT EXISTS coverage
(
    node      LowCardinality(String),
    start     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    end       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    kind Enum8('heartbeat' = 0, 'attach' = 1, 'dropped' = 2) COMMENT 'what the interval is: watched, an endpoint without a program, or given up by a full spool',
    endpoint LowCardinality(String) COMMENT 'the one without a program',
    records   UInt64 CODEC(ZSTD(1)),
    lost      UInt64 CODEC(ZSTD(1)),
    delayed   UInt64 CODEC(ZSTD(1)),
    dropped UInt64 COMMENT 'records a full spool gave up' CODEC(ZSTD(1)),
    spooled UInt64 COMMENT 'records on disk at the end' CODEC(ZSTD(1)),
    skew_microseconds Int64 COMMENT 'the clock of the node minus that of the store' CODEC(ZSTD(1)),
    endpoints UInt32,
    started   Bool
)
ENGINE = {{ .Engine "MergeTree" }}
PARTITION BY toYYYYMM(end)
ORDER BY (node, start, end)
TTL toDateTime(end) + INTERVAL 400 DAY DELETE
SETTINGS {{ .Window }}, ttl_only_drop_parts = 1{{ else }}ALTER TABLE coverage
    ADD COLUMN IF NOT EXISTS kind Enum8('heartbeat' = 0, 'attach' = 1, 'dropped' = 2) COMMENT 'what the interval is: watched, an endpoint without a program, or given up by a full spool' AFTER end,
    ADD COLUMN IF NOT EXISTS endpoint LowCardinality(String) COMMENT 'the one without a program' AFTER kind,
    ADD COLUMN IF NOT EXISTS dropped UInt64 COMMENT 'records a full spool gave up' CODEC(ZSTD(1)) AFTER delayed,
    ADD COLUMN IF NOT EXISTS spooled UInt64 COMMENT 'records on disk at the end' CODEC(ZSTD(1)) AFTER dropped,
    ADD COLUMN IF NOT EXISTS skew_microseconds Int64 COMMENT 'the clock of the node minus that of the store' CODEC(ZSTD(1)) AFTER spooled{{ end }};
