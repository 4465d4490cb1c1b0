-- The position at which a user asked to be erased, 0 for those who did before
-- it was noted: who was in a room until then still sees what they wrote.
ALTER TABLE users ADD COLUMN erased_pos BIGINT NOT NULL DEFAULT 0;
