-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE flows MATERIALIZE COLUMN stored SETTINGS mutations_sync = 2;
