-- Accounts that end unless they are renewed: owned by internal/account.

-- expires is a time in milliseconds, 0 for never. reminded is when the user was
-- told of it, 0 for not yet; renewal is the SHA-256 of what renews the account.
ALTER TABLE users ADD COLUMN expires BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN reminded BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN renewal BYTEA;
CREATE INDEX users_expires ON users (expires);
CREATE UNIQUE INDEX users_renewal ON users (renewal);
