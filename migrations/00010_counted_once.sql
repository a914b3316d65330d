-- +goose NO TRANSACTION
-- +goose Up
{{ if .Replicated }}SELECT 1{{ else }}ALTER TABLE flows
    ADD COLUMN IF NOT EXISTS answered UInt8 COMMENT '1 in the record with the first packet of the responder' AFTER connections,
    ADD COLUMN IF NOT EXISTS live_new UInt8 COMMENT '1 in the first record under this judgement' AFTER live_revision,
    ADD COLUMN IF NOT EXISTS staged_new UInt8 AFTER staged_revision{{ end }};
