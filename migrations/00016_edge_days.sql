-- +goose NO TRANSACTION
-- +goose Up
-- Hours added up by day, and days by month: what lies wholly within a window
-- is read from the coarsest.
{{ if .Replicated }}CREATE TABLE IF NOT EXISTS edge_days{{ else }}CREATE OR REPLACE TABLE edge_days_v2{{ end }}
(
    day                   Date,
    observer_namespace    LowCardinality(String),
    observer_kind         LowCardinality(String),
    observer_name         LowCardinality(String),
    direction             Enum8('unknown' = 0, 'ingress' = 1, 'egress' = 2),
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
    connections           SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    answered              SimpleAggregateFunction(sum, UInt64) COMMENT 'connections, counted when the responder first answered' CODEC(ZSTD(1)),
    live_new              SimpleAggregateFunction(sum, UInt64) COMMENT 'connections, counted when the live slot first judged them so' CODEC(ZSTD(1)),
    staged_new            SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    forward_packets       SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    forward_bytes         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    reverse_packets       SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    reverse_bytes         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    first_seen            SimpleAggregateFunction(min, DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    last_seen             SimpleAggregateFunction(max, DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    source_endpoints      AggregateFunction(uniq, String) CODEC(ZSTD(1)),
    destination_endpoints AggregateFunction(uniq, String) CODEC(ZSTD(1)),
    hours                 AggregateFunction(groupBitmap, UInt32) COMMENT 'with traffic, counted from 1970' CODEC(ZSTD(1)),
    INDEX source_names source_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX destination_names destination_name TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {{ .Engine "AggregatingMergeTree" }}
PARTITION BY toYYYYMM(day)
PRIMARY KEY (observer_namespace, observer_kind, observer_name, direction, source_namespace, source_kind, source_name)
ORDER BY (observer_namespace, observer_kind, observer_name, direction,
          source_namespace, source_kind, source_name, source_reserved, source_address,
          destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
          protocol, port, outcome,
          live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision, day)
TTL day + INTERVAL 120 DAY DELETE
SETTINGS {{ .Window }}, ttl_only_drop_parts = 1, index_granularity = 2048{{ if not .Replicated }}
AS SELECT
    toDate(hour) AS day,
    observer_namespace, observer_kind, observer_name, direction,
    source_namespace, source_kind, source_name, source_reserved, source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
    protocol, port, outcome,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision,
    sum(connections) AS connections,
    uniqCombined64IfMerge(14)(answered) AS answered,
    if(live_verdict = 'unknown', 0, uniqCombined64Merge(14)(flows)) AS live_new,
    if(staged_verdict = 'unknown', 0, uniqCombined64Merge(14)(flows)) AS staged_new,
    sum(forward_packets) AS forward_packets,
    sum(forward_bytes) AS forward_bytes,
    sum(reverse_packets) AS reverse_packets,
    sum(reverse_bytes) AS reverse_bytes,
    min(first_seen) AS first_seen,
    max(last_seen) AS last_seen,
    uniqMergeState(source_endpoints) AS source_endpoints,
    uniqMergeState(destination_endpoints) AS destination_endpoints,
    groupBitmapState(toUInt32(intDiv(toUnixTimestamp(hour), 3600))) AS hours
FROM edges_v1
GROUP BY day, observer_namespace, observer_kind, observer_name, direction,
    source_namespace, source_kind, source_name, source_reserved, source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
    protocol, port, outcome,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision{{ end }};
