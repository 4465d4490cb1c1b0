-- Ways to register and log in: owned by internal/account.

-- Tokens for one login each, by their SHA-256.
CREATE TABLE login_tokens (
    hash BYTEA NOT NULL PRIMARY KEY,
    localpart BYTEA NOT NULL,
    expires BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX login_tokens_expires ON login_tokens (expires);

-- Which version of which document a user accepted, and when.
CREATE TABLE accepted_terms (
    localpart BYTEA NOT NULL,
    policy BYTEA NOT NULL,
    version BYTEA NOT NULL,
    accepted BIGINT NOT NULL,
    PRIMARY KEY (localpart, policy, version)
)
-- sqlite: WITHOUT ROWID
;
