-- pos is the position of the last change of a field, so that those who sync can be told what changed. A value of no
-- bytes is the tombstone of a removed field.
ALTER TABLE profiles ADD COLUMN pos BIGINT NOT NULL DEFAULT 0;
CREATE INDEX profiles_pos ON profiles (pos);
