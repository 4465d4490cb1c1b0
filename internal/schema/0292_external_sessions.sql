-- Devices that logged in through an identity provider which tells of log-outs: owned by internal/account. sid is the
-- provider's session, empty when it has no name.
CREATE TABLE external_sessions (
    device BIGINT NOT NULL PRIMARY KEY,
    issuer BYTEA NOT NULL,
    sid BYTEA NOT NULL
);
CREATE INDEX external_sessions_sid ON external_sessions (issuer, sid);

-- Where the user of a token signed in; NULL when that does not matter.
ALTER TABLE login_tokens ADD COLUMN issuer BYTEA;
ALTER TABLE login_tokens ADD COLUMN sid BYTEA;
