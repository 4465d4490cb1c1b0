-- Federation: keys of other servers (federationapi/keys).

-- valid_until is 0 for a key known only as retired, expired is 0 for a key in use (milliseconds).
CREATE TABLE server_keys (
    server BYTEA NOT NULL,
    key_id BYTEA NOT NULL,
    key BYTEA NOT NULL,
    valid_until BIGINT NOT NULL,
    expired BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
)
-- sqlite: WITHOUT ROWID
;

-- The newest answer of a server about its own keys, as it signed it: what a notary hands on.
CREATE TABLE server_key_answers (
    server BYTEA NOT NULL PRIMARY KEY,
    valid_until BIGINT NOT NULL,
    fetched BIGINT NOT NULL,
    answer BYTEA NOT NULL
);
