-- +goose NO TRANSACTION
-- +goose Up
-- Flows added up by hour. The initiator's port is not part of the key; an
-- address is, but only of a side that is no workload.
{{ if .Replicated }}SELECT 1{{ else }}CREATE TABLE IF NOT EXISTS edges
(
    hour                  DateTime('UTC') CODEC(Delta, ZSTD(1)),
    direction             Enum8('unknown' = 0, 'ingress' = 1, 'egress' = 2),
    observer_namespace    LowCardinality(String),
    observer_kind         LowCardinality(String),
    observer_name         LowCardinality(String),
    source_namespace      LowCardinality(String),
    source_kind           LowCardinality(String),
    source_name           LowCardinality(String),
    source_reserved       LowCardinality(String),
    source_address        IPv6 COMMENT ':: when the source is a workload' CODEC(ZSTD(1)),
    destination_namespace LowCardinality(String),
    destination_kind      LowCardinality(String),
    destination_name      LowCardinality(String),
    destination_reserved  LowCardinality(String),
    destination_address   IPv6 COMMENT ':: when the destination is a workload' CODEC(ZSTD(1)),
    protocol              UInt8,
    port                  UInt16 COMMENT 'of the responder',
    outcome               Enum8('unknown' = 0, 'forwarded' = 1, 'audited' = 2, 'dropped' = 3),
    live_verdict          Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    live_reason           LowCardinality(String),
    live_revision         UInt32,
    staged_verdict        Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    staged_reason         LowCardinality(String),
    staged_revision       UInt32,
    connections           SimpleAggregateFunction(sum, UInt64),
    forward_packets       SimpleAggregateFunction(sum, UInt64),
    forward_bytes         SimpleAggregateFunction(sum, UInt64),
    reverse_packets       SimpleAggregateFunction(sum, UInt64),
    reverse_bytes         SimpleAggregateFunction(sum, UInt64),
    first_seen            SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last_seen             SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    flows                 AggregateFunction(uniqCombined64(14), UInt64) COMMENT 'distinct ones' CODEC(ZSTD(1)),
    answered              AggregateFunction(uniqCombined64If(14), UInt64, UInt8) COMMENT 'distinct flows with a packet back' CODEC(ZSTD(1)),
    source_endpoints      AggregateFunction(uniq, String) CODEC(ZSTD(1)),
    destination_endpoints AggregateFunction(uniq, String) CODEC(ZSTD(1))
)
ENGINE = {{ .Engine "AggregatingMergeTree" }}
PARTITION BY toYYYYMM(hour)
PRIMARY KEY (hour, observer_namespace, observer_kind, observer_name)
ORDER BY (hour, observer_namespace, observer_kind, observer_name, direction,
          source_namespace, source_kind, source_name, source_reserved, source_address,
          destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
          protocol, port, outcome,
          live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision)
TTL hour + INTERVAL 400 DAY DELETE
SETTINGS {{ .Window }}, ttl_only_drop_parts = 1{{ end }};
