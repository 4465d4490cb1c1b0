-- Pushers that send e-mails: owned by internal/pushers.

-- What the link in their e-mails carries that ends them.
ALTER TABLE pushers ADD COLUMN unsubscribe BYTEA;
CREATE UNIQUE INDEX pushers_unsubscribe ON pushers (unsubscribe);
