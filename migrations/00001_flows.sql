-- +goose NO TRANSACTION
-- +goose Up
-- One row is one record of the datapath. Counters are deltas: totals are sums.
{{ if .Replicated }}SELECT 1{{ else }}CREATE TABLE IF NOT EXISTS flows
(
    time                  DateTime64(6, 'UTC') COMMENT 'of the newest packet counted' CODEC(Delta, ZSTD(1)),
    first_seen            DateTime64(6, 'UTC') COMMENT 'of the flow' CODEC(Delta, ZSTD(1)),
    node                  LowCardinality(String),
    observer_namespace    LowCardinality(String),
    observer_kind         LowCardinality(String),
    observer_name         LowCardinality(String),
    observer_endpoint     LowCardinality(String),
    observer_endpoint_id  UInt32 CODEC(ZSTD(1)),
    direction             Enum8('unknown' = 0, 'ingress' = 1, 'egress' = 2),
    event                 LowCardinality(String),
    source_address        IPv6 COMMENT 'of the initiator, IPv4 mapped' CODEC(ZSTD(1)),
    destination_address   IPv6 CODEC(ZSTD(1)),
    source_port           UInt16 CODEC(ZSTD(1)),
    destination_port      UInt16 CODEC(ZSTD(1)),
    protocol              UInt8,
    source_namespace      LowCardinality(String) COMMENT 'empty when the source is no workload',
    source_kind           LowCardinality(String),
    source_name           LowCardinality(String),
    source_reserved       LowCardinality(String) COMMENT 'host, world, remote-node or empty',
    source_endpoint       LowCardinality(String),
    destination_namespace LowCardinality(String),
    destination_kind      LowCardinality(String),
    destination_name      LowCardinality(String),
    destination_reserved  LowCardinality(String),
    destination_endpoint  LowCardinality(String),
    connections           UInt32 COMMENT 'that began within the record' CODEC(ZSTD(1)),
    forward_packets       UInt64 COMMENT 'from the initiator' CODEC(ZSTD(1)),
    forward_bytes         UInt64 CODEC(ZSTD(1)),
    reverse_packets       UInt64 CODEC(ZSTD(1)),
    reverse_bytes         UInt64 CODEC(ZSTD(1)),
    forward_flags         UInt8,
    reverse_flags         UInt8,
    live_verdict          Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    live_reason           LowCardinality(String),
    live_revision         UInt32 CODEC(ZSTD(1)),
    staged_verdict        Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    staged_reason         LowCardinality(String),
    staged_revision       UInt32 CODEC(ZSTD(1)),
    outcome               Enum8('unknown' = 0, 'forwarded' = 1, 'audited' = 2, 'dropped' = 3)
)
ENGINE = {{ .Engine "MergeTree" }}
PARTITION BY toDate(time)
ORDER BY (toStartOfMinute(time), observer_namespace, observer_kind, observer_name, time)
TTL toDateTime(time) + INTERVAL 30 DAY DELETE
SETTINGS {{ .Window }}, ttl_only_drop_parts = 1{{ end }};
