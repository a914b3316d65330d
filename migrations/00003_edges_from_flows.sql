-- +goose NO TRANSACTION
-- +goose Up
-- A connection is known again by its endpoint, its tuple and the second it
-- began in. Not the microsecond: the boot clock is converted anew when an agent
-- restarts, which moves it a little.
-- The inner query names what it derives anew: an alias equal to a column's name
-- would take that column's place everywhere.
{{ if .Replicated }}SELECT 1{{ else }}CREATE MATERIALIZED VIEW IF NOT EXISTS edges_from_flows TO edges AS
SELECT
    hour,
    direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved, source_peer AS source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_peer AS destination_address,
    protocol,
    port,
    outcome,
    live_verdict, live_reason, live_revision,
    staged_verdict, staged_reason, staged_revision,
    sum(began) AS connections,
    sum(forward_packet_count) AS forward_packets,
    sum(forward_byte_count) AS forward_bytes,
    sum(reverse_packet_count) AS reverse_packets,
    sum(reverse_byte_count) AS reverse_bytes,
    min(began_at) AS first_seen,
    max(time) AS last_seen,
    uniqCombined64State(14)(flow_id) AS flows,
    uniqCombined64IfState(14)(flow_id, reverse_packet_count > 0) AS answered,
    uniqState(source_at) AS source_endpoints,
    uniqState(destination_at) AS destination_endpoints
FROM
(
    SELECT
        toStartOfHour(toDateTime(time, 'UTC')) AS hour,
        direction,
        observer_namespace, observer_kind, observer_name,
        source_namespace, source_kind, source_name, source_reserved,
        if(source_name = '', source_address, toIPv6('::')) AS source_peer,
        destination_namespace, destination_kind, destination_name, destination_reserved,
        if(destination_name = '', destination_address, toIPv6('::')) AS destination_peer,
        protocol,
        destination_port AS port,
        outcome,
        live_verdict, live_reason, live_revision,
        staged_verdict, staged_reason, staged_revision,
        toUInt64(connections) AS began,
        forward_packets AS forward_packet_count,
        forward_bytes AS forward_byte_count,
        reverse_packets AS reverse_packet_count,
        reverse_bytes AS reverse_byte_count,
        first_seen AS began_at,
        time,
        cityHash64(observer_endpoint_id, source_address, source_port, destination_address, destination_port,
                   protocol, toUnixTimestamp(first_seen)) AS flow_id,
        if(source_endpoint = '', IPv6NumToString(source_address), toString(source_endpoint)) AS source_at,
        if(destination_endpoint = '', IPv6NumToString(destination_address), toString(destination_endpoint)) AS destination_at
    FROM flows
)
GROUP BY
    hour, direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved, source_peer,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_peer,
    protocol, port, outcome,
    live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision{{ end }};
