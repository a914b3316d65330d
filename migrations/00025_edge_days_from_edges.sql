-- +goose NO TRANSACTION
-- +goose Up
CREATE MATERIALIZED VIEW IF NOT EXISTS days_from_hours TO edge_days AS
SELECT
    day,
    observer_namespace, observer_kind, observer_name, direction,
    source_namespace, source_kind, source_name, source_reserved, source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
    protocol, port, outcome,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision,
    sum(hour_connections) AS connections,
    sum(hour_answered) AS answered,
    sum(hour_live_new) AS live_new,
    sum(hour_staged_new) AS staged_new,
    sum(hour_forward_packets) AS forward_packets,
    sum(hour_forward_bytes) AS forward_bytes,
    sum(hour_reverse_packets) AS reverse_packets,
    sum(hour_reverse_bytes) AS reverse_bytes,
    min(hour_first_seen) AS first_seen,
    max(hour_last_seen) AS last_seen,
    uniqMergeState(hour_source_endpoints) AS source_endpoints,
    uniqMergeState(hour_destination_endpoints) AS destination_endpoints,
    groupBitmapState(hour_number) AS hours
FROM
(
    SELECT
        toDate(hour) AS day,
        toUInt32(intDiv(toUnixTimestamp(hour), 3600)) AS hour_number,
        observer_namespace, observer_kind, observer_name, direction,
        source_namespace, source_kind, source_name, source_reserved, source_address,
        destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
        protocol, port, outcome,
        live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision,
        connections AS hour_connections,
        answered AS hour_answered,
        live_new AS hour_live_new,
        staged_new AS hour_staged_new,
        forward_packets AS hour_forward_packets,
        forward_bytes AS hour_forward_bytes,
        reverse_packets AS hour_reverse_packets,
        reverse_bytes AS hour_reverse_bytes,
        first_seen AS hour_first_seen,
        last_seen AS hour_last_seen,
        source_endpoints AS hour_source_endpoints,
        destination_endpoints AS hour_destination_endpoints
    FROM edges
)
GROUP BY day, observer_namespace, observer_kind, observer_name, direction,
    source_namespace, source_kind, source_name, source_reserved, source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
    protocol, port, outcome,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision;
