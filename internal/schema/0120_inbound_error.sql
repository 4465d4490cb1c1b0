-- Why an event in the inbound queue could not be placed, the last time; NULL before it was tried (roomserver).
ALTER TABLE inbound ADD COLUMN error BYTEA;
