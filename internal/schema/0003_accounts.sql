-- Accounts: owned by internal/account. Users are named by their localpart; the server name is the node's own.

-- password is a PHC string (argon2id) or a bcrypt hash; NULL means no login by password.
-- deactivated is the time of deactivation, 0 for an account in use.
CREATE TABLE users (
    localpart BYTEA NOT NULL PRIMARY KEY,
    password BYTEA,
    created BIGINT NOT NULL,
    admin BIGINT NOT NULL,
    guest BIGINT NOT NULL,
    deactivated BIGINT NOT NULL,
    erased BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

CREATE TABLE devices (
    nid BIGINT NOT NULL PRIMARY KEY,
    localpart BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    display_name BYTEA,
    created BIGINT NOT NULL,
    last_seen_ts BIGINT NOT NULL,
    last_seen_ip BYTEA,
    UNIQUE (localpart, device_id)
);

-- A pair of access and refresh token, by their SHA-256. expires and refresh_expires are 0 for never. parent is the
-- pair that a refresh replaced, and 0 again once this pair has been used: until then both are good.
CREATE TABLE tokens (
    nid BIGINT NOT NULL PRIMARY KEY,
    device BIGINT NOT NULL,
    access BYTEA NOT NULL UNIQUE,
    refresh BYTEA UNIQUE,
    expires BIGINT NOT NULL,
    refresh_expires BIGINT NOT NULL,
    parent BIGINT NOT NULL
);
CREATE INDEX tokens_device ON tokens (device);

-- uses_allowed is NULL for any number of uses; expires is 0 for never.
CREATE TABLE registration_tokens (
    token BYTEA NOT NULL PRIMARY KEY,
    uses_allowed BIGINT,
    completed BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    created BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

-- value is JSON.
CREATE TABLE profiles (
    localpart BYTEA NOT NULL,
    field BYTEA NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (localpart, field)
);

-- room is empty for global data. content is JSON; empty, it is the tombstone of deleted data.
CREATE TABLE account_data (
    localpart BYTEA NOT NULL,
    room BYTEA NOT NULL,
    type BYTEA NOT NULL,
    content BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (localpart, room, type)
);
CREATE INDEX account_data_pos ON account_data (localpart, pos);

CREATE TABLE openid_tokens (
    hash BYTEA NOT NULL PRIMARY KEY,
    localpart BYTEA NOT NULL,
    expires BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX openid_tokens_expires ON openid_tokens (expires);
