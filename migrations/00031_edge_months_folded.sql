-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE edge_months
    ADD COLUMN IF NOT EXISTS source_folded UInt8 COMMENT 'bits at the end of source_address that were dropped, 0 when it is one address',
    ADD COLUMN IF NOT EXISTS destination_folded UInt8 COMMENT 'bits at the end of destination_address that were dropped',
    MODIFY ORDER BY (observer_namespace, observer_kind, observer_name, direction,
          source_namespace, source_kind, source_name, source_reserved, source_address,
          destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
          protocol, port, outcome,
          live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision, month,
          source_folded, destination_folded);
