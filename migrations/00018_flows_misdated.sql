-- +goose NO TRANSACTION
-- +goose Up
-- Flows whose time is zero, from the future or older than flows are kept.
CREATE TABLE IF NOT EXISTS flows_misdated
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
    source_identity       UInt32 CODEC(ZSTD(1)),
    source_labels         LowCardinality(String) COMMENT 'key=value, ordered by key, joined by commas',
    destination_namespace LowCardinality(String),
    destination_kind      LowCardinality(String),
    destination_name      LowCardinality(String),
    destination_reserved  LowCardinality(String),
    destination_endpoint  LowCardinality(String),
    destination_identity  UInt32 CODEC(ZSTD(1)),
    destination_labels    LowCardinality(String),
    connections           UInt32 COMMENT 'that began within the record' CODEC(ZSTD(1)),
    answered              UInt8 COMMENT '1 in the record with the first packet of the responder',
    forward_packets       UInt64 COMMENT 'from the initiator' CODEC(T64, ZSTD(1)),
    forward_bytes         UInt64 CODEC(T64, ZSTD(1)),
    reverse_packets       UInt64 CODEC(T64, ZSTD(1)),
    reverse_bytes         UInt64 CODEC(T64, ZSTD(1)),
    forward_flags         UInt8 CODEC(ZSTD(1)),
    reverse_flags         UInt8 CODEC(ZSTD(1)),
    live_verdict          Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    live_reason           LowCardinality(String),
    live_revision         UInt32 CODEC(ZSTD(1)),
    live_new              UInt8 COMMENT '1 in the first record under this judgement',
    staged_verdict        Enum8('unknown' = 0, 'allow' = 1, 'deny' = 2),
    staged_reason         LowCardinality(String),
    staged_revision       UInt32 CODEC(ZSTD(1)),
    staged_new            UInt8,
    outcome               Enum8('unknown' = 0, 'forwarded' = 1, 'audited' = 2, 'dropped' = 3),
    received              DateTime('UTC') DEFAULT now(),
    reason                LowCardinality(String) DEFAULT multiIf(toYear(time) = 1970, 'zero', time > received, 'future', 'expired')
)
ENGINE = {{ .Engine "MergeTree" }}
ORDER BY (received, node)
TTL received + INTERVAL 30 DAY DELETE
SETTINGS {{ .Window }};
