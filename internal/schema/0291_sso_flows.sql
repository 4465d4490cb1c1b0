-- Sign-ins through identity providers that are under way: owned by internal/sso.

-- hash is the SHA-256 of a text that finds the row again, once, and browser that of the cookie of the browser that may.
-- kind is what the text is good for; data is JSON. expires is milliseconds.
CREATE TABLE sso_flows (
    hash BYTEA NOT NULL PRIMARY KEY,
    browser BYTEA NOT NULL,
    kind BYTEA NOT NULL,
    data BYTEA NOT NULL,
    expires BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX sso_flows_expires ON sso_flows (expires);
