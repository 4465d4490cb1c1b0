-- E-mail addresses and phone numbers of accounts: owned by internal/account.

-- An address belongs to one account. validated and added are milliseconds.
CREATE TABLE threepids (
    medium BYTEA NOT NULL,
    address BYTEA NOT NULL,
    localpart BYTEA NOT NULL,
    validated BIGINT NOT NULL,
    added BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX threepids_user ON threepids (localpart);

-- Addresses that users let an identity server publish.
CREATE TABLE threepid_bindings (
    localpart BYTEA NOT NULL,
    medium BYTEA NOT NULL,
    address BYTEA NOT NULL,
    server BYTEA NOT NULL,
    PRIMARY KEY (localpart, medium, address, server)
)
-- sqlite: WITHOUT ROWID
;

-- E-mail addresses that somebody is proving to have. secret is the SHA-256 of
-- the client's secret, token that of what the last e-mail carries. attempt is
-- the client's number of that e-mail, wrong how many wrong tokens came.
-- validated is 0 until the right one came.
CREATE TABLE validations (
    sid BYTEA NOT NULL PRIMARY KEY,
    purpose BYTEA NOT NULL,
    address BYTEA NOT NULL,
    secret BYTEA NOT NULL,
    token BYTEA NOT NULL,
    attempt BIGINT NOT NULL,
    wrong BIGINT NOT NULL,
    next_link BYTEA,
    validated BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    UNIQUE (purpose, address, secret)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX validations_expires ON validations (expires);
