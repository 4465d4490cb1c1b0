-- How other servers fared (federationapi/send): when one last answered or asked us something, since when nothing
-- reaches it (0: it does), both in milliseconds, and whether it counts as gone.
ALTER TABLE destinations ADD COLUMN heard BIGINT NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN failing BIGINT NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN retired BIGINT NOT NULL DEFAULT 0;
