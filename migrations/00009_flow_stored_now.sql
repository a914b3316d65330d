-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE flows MODIFY COLUMN stored DateTime('UTC') DEFAULT now();
